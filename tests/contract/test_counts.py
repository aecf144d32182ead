"""What gateways count is read by both planes: all of it, added over workers, and never less than nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract import counters as module
from modelyard.contract.counters import SECONDS, Counts, all_series, read_counts
from modelyard.serve.counters import SHOWN_SECONDS, Counters

NUMBERS = st.integers(0, 10**9)
LATENCY = st.one_of(st.just(()), st.tuples(*[NUMBERS] * (len(SECONDS) + 1)))
COUNTS = st.builds(Counts, NUMBERS, NUMBERS, NUMBERS, NUMBERS, LATENCY)


@given(COUNTS, COUNTS)
def test_what_came_and_what_was_before_are_what_is_now(before: Counts, came: Counts) -> None:
    now = before + came
    assert now - before == came + Counts(latency=(0,) * len(now.latency))
    assert not (now - before).is_lowered
    assert (before - now).is_lowered == any((came.answered, came.errors, came.violations, came.batches, *came.latency))


def count(folder: Path, worker: int, version: str, endpoint: str = "loans", calls: int = 1) -> None:
    """One worker's calls of 2 ms."""
    counters, labels = Counters(folder, worker), {"endpoint": endpoint, "version": version}
    for name, by in (("requests", 1), ("executions", 2), ("errors", 3), ("violations", 4), ("rows", 5)):
        counters.cells[counters.counter(f"modelyard_{name}", **labels)] += by * calls
    first = counters.histogram("modelyard_request_seconds", **labels)
    counters.cells[first + SECONDS.index(0.002)] += calls
    counters.cells[first + len(SECONDS) + 1] += 2_000_000 * calls  # the sum, which is no answer
    counters.close()


def test_workers_are_added_and_neighbours_are_not(tmp_path: Path) -> None:
    count(tmp_path, 0, "1", calls=10)
    count(tmp_path, 1, "1", calls=5)
    count(tmp_path, 1, "2")
    count(tmp_path, 0, "1", endpoint="loan")
    count(tmp_path, 0, "1", endpoint='lo"ans')
    found = read_counts(tmp_path, "loans")
    latency = [0] * (len(SECONDS) + 1)
    latency[SECONDS.index(0.002)] = 15
    assert found[1] == Counts(15, 45, 60, 30, tuple(latency))
    assert found.keys() == {1, 2}
    assert read_counts(tmp_path, 'lo"ans')[1].answered == 1
    assert read_counts(tmp_path, "nobody") == {}
    assert read_counts(tmp_path / "none", "loans") == {}


def test_reading_makes_no_slab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway removes slabs when it starts: a reader that comes in between must not bring them back."""
    count(tmp_path, 0, "1")
    (tmp_path / "worker-1.slab").touch()  # of a worker that is being started
    count(tmp_path, 2, "1")
    (tmp_path / "worker-2.names").unlink()
    assert read_counts(tmp_path, "loans")[1].answered == 1
    assert (tmp_path / "worker-1.slab").stat().st_size == 0
    seen = list(tmp_path.glob("*.slab"))
    for path in seen:
        path.unlink()
    monkeypatch.setattr(type(tmp_path), "glob", lambda *_: iter(seen))
    assert list(all_series(tmp_path)) == []
    assert not any(path.exists() for path in seen)


def test_a_quarter_slower_is_the_next_bucket_at_most(tmp_path: Path) -> None:
    assert all(1.24 <= later / first <= 1.281 for first, later in pairwise(SECONDS))
    assert set(SECONDS) >= SHOWN_SECONDS
    assert module.width_of("histogram", "modelyard_request_seconds") == len(SECONDS) + 2
