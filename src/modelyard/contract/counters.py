"""The slabs in which gateway workers count: how they are laid out, and how both planes read them.

A slab is a mapped file of integers, one for each worker. It outlives its worker: the replacement goes on counting in
it, so a restart lowers nothing. Beside each slab a text file says which cells belong to which series. Only the gateway
writes (`serve/counters.py`), and it begins anew with empty slabs when its parent starts.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

CELLS = 1 << 18  # integers in one slab; a file with holes, of which only what is counted in takes room
# Ten to the decade: what is a quarter slower falls into the next one. See `optimise/promotion.py`.
SECONDS = (
    0.00025, 0.000315, 0.0004, 0.0005, 0.00063, 0.0008,
    0.001, 0.00125, 0.0016, 0.002, 0.0025, 0.00315, 0.004, 0.005, 0.0063, 0.008,
    0.01, 0.0125, 0.016, 0.02, 0.025, 0.0315, 0.04, 0.05, 0.063, 0.08,
    0.1, 0.125, 0.16, 0.2, 0.25, 0.315, 0.4, 0.5, 0.63, 0.8,
    1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0, 10.0,
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)
FEW = 8  # names for which a look at a line is cheaper than reading it

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, str, Labels, int]  # kind, name, labels, first cell


class Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the gateway has counted of one version behind one endpoint; or the difference of two such."""

    answered: int = 0
    errors: int = 0  # that the version is to blame for, see `serve/telemetry.py`
    violations: int = 0  # inputs that its contract refused
    batches: int = 0  # calls of one batch are answered at the same instant
    latency: tuple[int, ...] = ()  # answers by `SECONDS`, then those above; empty: none

    def __sub__(self, before: Counts) -> Counts:
        """What came since `before`."""
        return Counts(
            self.answered - before.answered,
            self.errors - before.errors,
            self.violations - before.violations,
            self.batches - before.batches,
            tuple(now - then for now, then in _aligned(self.latency, before.latency)),
        )

    def __add__(self, more: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.answered + more.answered,
            self.errors + more.errors,
            self.violations + more.violations,
            self.batches + more.batches,
            tuple(ours + theirs for ours, theirs in _aligned(self.latency, more.latency)),
        )

    @property
    def is_lowered(self) -> bool:
        """Whether this difference is none: the gateway began anew meanwhile, and its counters with it."""
        return min(self.answered, self.errors, self.violations, self.batches, *self.latency, 0) < 0


def _aligned(first: tuple[int, ...], second: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    width = max(len(first), len(second))
    return zip(first or (0,) * width, second or (0,) * width, strict=True)


_NUMBERS = {
    "modelyard_requests": "answered",
    "modelyard_errors": "errors",
    "modelyard_violations": "violations",
    "modelyard_executions": "batches",
}
_LATENCY = "modelyard_request_seconds"


def read_counts(folder: Path, endpoint: str) -> dict[int, Counts]:
    """By version: what all workers together have counted for that endpoint since the gateway started."""
    sums: dict[int, dict[str, int]] = {}
    latency: dict[int, list[int]] = {}
    for _, name, pairs, values in all_series(folder, {endpoint}):
        labels = dict(pairs)
        if labels.get("endpoint") != endpoint or not labels.get("version", "").isdecimal():
            continue
        version = int(labels["version"])
        if name == _LATENCY:
            before = latency.get(version, [0] * (len(SECONDS) + 1))
            latency[version] = [a + b for a, b in zip(before, values[:-1], strict=True)]  # the last is the sum
        elif (field := _NUMBERS.get(name)) is not None:
            fields = sums.setdefault(version, {})
            fields[field] = fields.get(field, 0) + values[0]
    return {
        version: Counts(**sums.get(version, {}), latency=tuple(latency.get(version, ())))
        for version in sums.keys() | latency.keys()
    }


def all_series(folder: Path, labels: Collection[str] = ()) -> Iterator[tuple[str, str, Labels, list[int]]]:
    """Every worker's series: kind, name, labels, cells. With `labels`: those with one of them, and perhaps others."""
    needles = [json.dumps(label) for label in labels]
    for path in sorted(folder.glob("*.slab")):
        try:
            cells = read_slab(path)
            names = open(path.with_suffix(".names"), encoding="utf-8")  # noqa: SIM115 - closed below
        except FileNotFoundError:  # the gateway starts anew just now
            continue
        with names, cells:
            lines = names if not needles or len(needles) > FEW else _with_any(names, needles)
            for kind, name, pairs, cell in series_in(lines):
                yield kind, name, pairs, cells[cell : cell + width_of(kind, name)].tolist()


def _with_any(lines: Iterable[str], needles: list[str]) -> Iterator[str]:
    return (line for line in lines if any(needle in line for needle in needles))


def series_in(lines: Iterable[str]) -> Iterator[Series]:
    """The series that a slab's list of names holds."""
    for line in lines:
        try:
            kind, name, labels, cell = json.loads(line)
        except ValueError:  # a torn line: its worker was killed while writing it
            continue
        yield kind, name, tuple((key, text) for key, text in labels), cell


def edges_of(name: str) -> tuple[float, ...]:
    """The upper ends of a histogram's buckets."""
    return SECONDS if name.endswith("_seconds") else ROWS


def width_of(kind: str, name: str) -> int:
    """How many cells a series has: of a histogram its buckets, one for what is above them, and the sum."""
    return len(edges_of(name)) + 2 if kind == "histogram" else 1


def map_slab(path: Path) -> memoryview:
    """A slab's cells to count in, mapped; made where there is none."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        if os.fstat(file.fileno()).st_size < CELLS * 8:
            file.truncate(CELLS * 8)
        return memoryview(mmap.mmap(file.fileno(), CELLS * 8)).cast("q")


def read_slab(path: Path) -> memoryview:
    """A slab's cells to read, mapped. Raises FileNotFoundError, also for one that is being made."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < CELLS * 8:
            raise FileNotFoundError(path)
        return memoryview(mmap.mmap(file.fileno(), CELLS * 8, access=mmap.ACCESS_READ)).cast("q")
