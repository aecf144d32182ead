"""Two versions timed side by side, in a process of its own: which one answers faster here, and how sure that is.

`python -m modelyard.runtimes.timing LINE FOLDER FOLDER` is that process: it opens both artifacts with one thread, calls
them in turns on the same number of their own rows, and writes what it found to LINE, a file descriptor.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact, Shelf
from modelyard.contract.errors import Conflict, ModelFailed
from modelyard.contract.tensor import Inputs, row_slice
from modelyard.runtimes.version import LoadedVersion

TIMING_S = 120.0  # loading both and timing them; above it, the process is ended
CALLS_S = 3.0  # for the calls of one size, both versions together
ROUNDS = 200  # of one size: in each, both are called once, in an order that changes
SIZES = (1, 64)  # rows in one call
MAX_ROWS = 1_024  # different rows that are asked in turn: the same one again and again flatters a forest
KEPT_BYTES = 20_000  # of what the process printed
_RESAMPLES = 500


class Timed(msgspec.Struct, frozen=True):
    """Calls of one size, of both versions. Times are of the model alone: no network, no decoding, no batching."""

    rows: int  # in one call
    calls: int  # of each version
    a_ms: float  # median
    b_ms: float
    a_p95_ms: float
    b_p95_ms: float
    ratio: float  # b to a, of the medians
    ratio_interval: tuple[float, float]  # 95 %, by bootstrap over the rounds


class Timing(msgspec.Struct, frozen=True):
    """What was measured."""

    real_rows: bool  # held-out rows of the artifacts; else rows made up from the contract
    sizes: tuple[Timed, ...]


def measure(shelf: Shelf, a: str, b: str, timeout_s: float = TIMING_S) -> Timing:
    """Time the artifacts of two digests against each other. Code that they hold runs in that process, not in this one.

    Raises NotFound or InvalidInput for an artifact that is not whole, ModelFailed with the reason where a version
    cannot be loaded or called, Conflict if the time is over.
    """
    folders = [str(shelf.open(digest).folder) for digest in (a, b)]
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as printed, os.fdopen(reader, "rb") as found:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard.runtimes.timing", str(writer), *folders],
            pass_fds=(writer,), stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True,
            env={name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")},
        )  # fmt: skip
        os.close(writer)
        try:
            process.wait(timeout_s)  # what it writes is far smaller than a pipe holds
        except subprocess.TimeoutExpired:
            raise Conflict(f"timing took longer than {timeout_s:g} s; one of the versions is too slow for it") from None
        finally:
            _end(process)
        if process.returncode != 0:
            printed.seek(max(0, printed.seek(0, os.SEEK_END) - KEPT_BYTES))
            said = printed.read().decode("utf-8", "replace").strip().splitlines()
            raise ModelFailed(f"the versions could not be timed: {said[-1][:500] if said else 'no reason was given'}")
        return msgspec.json.decode(found.read(), type=Timing)


def compare_calls(
    a: Callable[[int], object], b: Callable[[int], object], rounds: int = ROUNDS, budget_s: float = CALLS_S
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of each call of `a` and of `b`, float64[rounds]: in turns, so that a busy machine is busy for both.

    Both are given the round's number. Rounds are fewer, but at least five, where they take longer than `budget_s`.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for warm in range(3):
        a(warm)
        b(warm)
    began = time.perf_counter()
    for number in range(rounds):
        for side, call in ((0, a), (1, b)) if number % 2 else ((1, b), (0, a)):
            start = time.perf_counter()
            call(number)
            seconds[side].append(time.perf_counter() - start)
        if number >= 4 and time.perf_counter() - began > budget_s:
            break
    return np.array(seconds[0]), np.array(seconds[1])


def summary(rows: int, a: NDArray[np.float64], b: NDArray[np.float64]) -> Timed:
    """What the seconds of paired calls say; rounds are resampled whole, for a and b shared their moment."""
    random = np.random.default_rng(0)
    picks = random.integers(0, len(a), (_RESAMPLES, len(a)))
    ratios = np.median(b[picks], axis=1) / np.median(a[picks], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Timed(
        rows=rows,
        calls=len(a),
        a_ms=_ms(np.median(a)),
        b_ms=_ms(np.median(b)),
        a_p95_ms=_ms(np.percentile(a, 95)),
        b_p95_ms=_ms(np.percentile(b, 95)),
        ratio=round(float(np.median(b) / np.median(a)), 4),
        ratio_interval=(round(float(low), 4), round(float(high), 4)),
    )


def _ms(seconds: np.floating) -> float:
    return round(float(seconds) * 1e3, 5)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- in the process ---------------------------------------------------------------------------------------------


def _time(artifacts: Sequence[Artifact]) -> Timing:
    versions = [LoadedVersion(artifact) for artifact in artifacts]
    found = [_rows(version) for version in versions]
    sizes = SIZES if all(version.manifest.independent_rows for version in versions) else SIZES[:1]
    timed = []
    for size in sizes:
        a, b = (_caller(version, rows, size) for version, (rows, _) in zip(versions, found, strict=True))
        timed.append(summary(size, *compare_calls(a, b)))
    for version in versions:
        version.close()
    return Timing(all(is_real for _, is_real in found), tuple(timed))


def _rows(version: LoadedVersion) -> tuple[Inputs, bool]:
    """Rows to ask with, and whether they are real: held out when the version was trained."""
    if not version.is_table:
        return version.varied_tensors(max(SIZES) if version.manifest.independent_rows else 1), False
    if "holdout.json" in version.manifest.files:
        held = msgspec.json.decode(version.artifact.read("holdout.json"))["rows"][:MAX_ROWS]
        if len(held) >= max(SIZES):
            return version.encoder.encode_rows([entry["row"] for entry in held]), True
    return version.varied_rows(MAX_ROWS), False


def _caller(version: LoadedVersion, rows: Inputs, size: int) -> Callable[[int], object]:
    if not version.manifest.independent_rows:
        return lambda _: version.predict(rows)
    count = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
    places = max(1, count // size)

    def call(number: int) -> object:
        at = number % places * size
        return version.predict(row_slice(rows, at, at + size))

    return call


def main(arguments: list[str]) -> int:
    """Time two artifacts and say what was found; the last line on stderr says why not."""
    line, *folders = arguments
    os.set_inheritable(int(line), False)
    try:
        shelf = [Shelf(Path(folder).parent).describe(Path(folder).name) for folder in folders]  # verified by the asker
        found = _time(shelf)
    except Exception as error:  # whatever a version's own code raises is the reason
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return 1
    with open(int(line), "wb") as told:
        told.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
