"""What a training does, from a table to a registered version. Runs in a job, or in the command that asked for it."""

import hashlib
import io
from pathlib import Path
from typing import Any

import msgspec

from modelyard.artifacts.store import Shelf
from modelyard.blueprints.catalogue import blueprint as blueprint_named
from modelyard.blueprints.catalogue import table_path
from modelyard.contract.errors import ModelyardError
from modelyard.control.registry.models import Version
from modelyard.control.registry.services import CHAMPION, register_version, set_alias
from modelyard.control.setup import active_home
from modelyard.control.training import services
from modelyard.data.sources import digest_of, read_table
from modelyard.train.progress import Progress, Silent
from modelyard.train.recipe import Recipe
from modelyard.train.run import Trained, train

CHALLENGER = "challenger"


class Diary:
    """Passes progress on to whoever listens, and keeps the steps for the run's log."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener
        self.text = ""

    def step(self, title: str, detail: str = "") -> None:
        """A new step begins."""
        self.text += f"{title}: {detail}\n" if detail else f"{title}\n"
        self._listener.step(title, detail)

    def tick(self, done: int, total: int) -> None:
        """So much of the step is done."""
        self._listener.tick(done, total)


