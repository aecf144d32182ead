"""What ensembles and pipelines are made of: versions on the same shelf, asked one after the other, each with a name.

How long each took travels with the answer that it belongs to; which of them failed stands in the error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from modelyard.artifacts.store import Artifact, Shelf
from modelyard.contract.errors import ModelFailed, ModelyardError, NotFound
from modelyard.contract.tensor import Inputs, Tensors
from modelyard.runtimes.version import LoadedVersion


def open_members(artifact: Artifact, threads: int) -> list[LoadedVersion]:
    """The members that the artifact's manifest lists, loaded, in order. Raises NotFound that names a missing one."""
    shelf = Shelf(artifact.folder.parent)
    opened: list[LoadedVersion] = []
    try:
        for member in artifact.manifest.members:
            try:
                opened.append(LoadedVersion(shelf.open(member.digest), threads))
            except NotFound:
                raise NotFound(
                    f"{artifact.manifest.model} is made of {member.name}, whose artifact {member.digest[:12]} is not "
                    "on the shelf; import it, or compose anew"
                ) from None
    except BaseException:
        for version in opened:
            version.close()
        raise
    return opened


def timed(ask: Callable[[Any], Tensors], inputs: Inputs, step: str) -> tuple[Tensors, int]:
    """What `ask` answers, and how long that took in nanoseconds. What it raises says in which step it happened."""
    began = time.perf_counter_ns()
    try:
        outputs = ask(inputs)
    except ModelyardError as error:
        error.args = (f"step {step!r}: {error}", *error.args[1:])
        raise
    except Exception as error:  # its own words may hold what a caller sent
        raise ModelFailed(f"step {step!r}: it failed on this input with {type(error).__name__}") from error
    return outputs, time.perf_counter_ns() - began
