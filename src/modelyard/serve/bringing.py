"""A version into this process and out of it: opened, measured once, and its memory given back at the end."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import NamedTuple

from modelyard.artifacts.store import Artifact
from modelyard.runtimes.prepared import LARGE_BYTES
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve.replica import INLINE_S, Version


class Measured(NamedTuple):
    """What a version costs here: seconds for each batch size, and for each row that is explained."""

    curve: dict[int, float]
    explain_s: float
    threads: int = 1


def bring_here(artifact: Artifact, threads: int, known: Measured | None) -> tuple[Version, Measured]:
    """A version in this process. One that holds the loop gets all `threads`, if it is faster with them.

    One that was measured before is opened as it was best, and called once.
    """
    loaded = LoadedVersion(artifact, known.threads if known else 1)
    if sum(entry.size for entry in artifact.manifest.files.values()) >= LARGE_BYTES:
        _trim()  # loading took several times what the version takes
    if known:
        loaded.warm(sizes=(1,), rounds=1)
        return loaded, known
    curve, best = loaded.warm(), 1
    if threads > 1 and curve[1] > INLINE_S:
        wider = LoadedVersion(artifact, threads)
        wider_curve = wider.warm()
        if wider_curve[1] < curve[1]:
            loaded, wider, curve, best = wider, loaded, wider_curve, threads
        wider.close()
    return loaded, Measured(curve, loaded.explain_cost(), best)


def give_back() -> None:
    """Freed memory goes back to the machine: a graph is freed in pieces, and the C library would keep their pages.

    A version's decoders are classes of their own, which only a full collection frees; what was frozen at start is
    left out of it.
    """
    gc.collect()
    _trim()


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):  # only the GNU library has it
        ctypes.CDLL(None).malloc_trim(0)
