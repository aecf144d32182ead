"""A small table of applicants, and models fitted on it: what users bring."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Artifact, Shelf

ROWS = 240


def make_frame() -> pd.DataFrame:
    """Whole numbers, numbers with gaps, and texts with gaps."""
    random = np.random.default_rng(0)
    income = random.normal(30, 9, ROWS)
    income[::7] = np.nan
    home = random.choice(["own", "rent", "with family"], ROWS).astype(object)
    home[::11] = np.nan
    return pd.DataFrame({"age": random.integers(18, 80, ROWS), "income": income, "home": home})


FRAME = make_frame()
NUMBERS = FRAME[["age", "income"]]
WHOLE = NUMBERS.fillna(30.0)
BAD = pd.Series(np.where((WHOLE.income < 28) ^ (WHOLE.age < 30), "bad", "good"))
CODES = (BAD == "bad").astype(int)


def fitted(model: Any, frame: pd.DataFrame = WHOLE, y: Any = BAD) -> Any:
    """The model, fitted; what frameworks warn of is not the test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(frame, y)


def on_shelf(packaged: tuple[Manifest, dict[str, bytes]], folder: Path) -> Artifact:
    """A packaged version, stored and opened."""
    shelf = Shelf(folder)
    return shelf.open(shelf.put(*packaged))
