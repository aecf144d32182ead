"""What runs is brought to what is wanted, one step at a time: a table of facts and the step that follows."""

from __future__ import annotations

import pytest

from modelyard.contract.settings import Settings
from modelyard.serve.supervision import (
    BACK_OFF_S,
    END_S,
    LARGE_BYTES,
    LOAD_S,
    SILENCE_S,
    End,
    Forget,
    Kill,
    Limits,
    Seat,
    Seen,
    Start,
    Step,
    next_step,
    pause_before,
    process_count,
)

NOW = 1_000.0
LIMITS = Limits(memory_bytes=1 << 30, batch_s=30.0)
A0, A1, B0 = Seat("a", 0), Seat("a", 1), Seat("b", 0)


def ready(seat: Seat = A0, **facts: object) -> Seen:
    return Seen(seat, "ready", **{"since": NOW - 100, "heard": NOW - 0.1, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "seats", "step"),
    [
        ({}, [], None),
        ({"a": 1}, [], Start(A0)),
        ({"a": 2}, [ready()], Start(A1)),
        ({"a": 1}, [ready()], None),  # settled: asking again changes nothing
        ({"a": 1}, [Seen(A0, "loading", since=NOW - 1)], None),  # it is on its way
        ({"a": 1}, [Seen(A0, "absent", start_at=NOW + 1)], None),  # it died, and rests
        ({"a": 1}, [Seen(A0, "absent", start_at=NOW)], Start(A0)),
        ({"a": 1, "b": 1}, [ready()], Start(B0)),
        ({"b": 1}, [ready(), ready(B0)], End(A0)),  # nobody wants it any more
        ({"a": 1}, [ready(), ready(A1)], End(A1)),
        ({}, [Seen(A0, "loading", since=NOW - 1)], End(A0)),
        ({}, [Seen(A0, "ending", since=NOW - 1)], None),  # it is told already
        ({}, [Seen(A0, "absent", start_at=NOW + 99)], Forget(A0)),
        ({"a": 1}, [Seen(A0, "ending", since=NOW - 1)], None),  # wanted again: it ends first
    ],
)
def test_what_is_wanted_runs_and_nothing_else(wanted: dict[str, int], seats: list[Seen], step: Step | None) -> None:
    assert next_step(wanted, seats, LIMITS, NOW) == step


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        (ready(rss_bytes=(1 << 30) + 1), "model_memory_bytes allows 1024 MB"),
        (Seen(A0, "loading", since=NOW - 1, rss_bytes=2 << 30), "model_memory_bytes"),
        (ready(rss_bytes=1 << 30), None),
        (ready(busy_since=NOW - 30.1), "model_timeout_s=30 s"),
        (ready(busy_since=NOW - 29, heard=NOW - 29), None),  # a batch may hold the interpreter, and silence the beat
        (ready(heard=NOW - SILENCE_S - 0.1), f"said nothing for {SILENCE_S:g} s"),
        (ready(heard=NOW - SILENCE_S + 0.1), None),
        (Seen(A0, "loading", since=NOW - LOAD_S - 1), "was not ready"),
        (Seen(A0, "loading", since=NOW - LOAD_S + 1, heard=NOW - SILENCE_S - 1), None),  # large files take their time
        (Seen(A0, "ending", since=NOW - END_S - 0.1), "did not end"),
    ],
)
def test_a_process_at_fault_is_ended_with_its_cause(seen: Seen, cause: str | None) -> None:
    step = next_step({"a": 1}, [seen], LIMITS, NOW)
    if cause is None:
        assert step is None
    else:
        assert isinstance(step, Kill)
        assert cause in step.cause
        assert step.by_memory is ("memory" in cause)


def test_who_waits_for_a_broken_process_comes_first() -> None:
    hung = ready(B0, busy_since=NOW - 99)
    assert isinstance(next_step({"a": 1, "b": 1}, [hung], LIMITS, NOW), Kill)


def test_pauses_grow_with_deaths_and_end_somewhere() -> None:
    pauses = [pause_before(deaths) for deaths in range(1, 20)]
    assert pauses[0] == 0.0  # a first death is made good at once
    assert pauses == sorted(pauses)
    assert pauses[-1] == BACK_OFF_S[-1]


@pytest.mark.parametrize(
    ("setting", "workers", "size", "count"),
    [(0, 4, 10, 4), (0, 4, LARGE_BYTES, 4), (0, 4, LARGE_BYTES + 1, 1), (3, 4, LARGE_BYTES + 1, 3), (1, 4, 10, 1)],
)
def test_how_many_processes_a_version_has(setting: int, workers: int, size: int, count: int) -> None:
    assert process_count(setting, workers, size) == count


@pytest.mark.parametrize(
    ("setting", "value"), [("model_memory_bytes", -1), ("model_timeout_s", 0.0), ("model_workers", 65)]
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        Settings(**{setting: value})  # type: ignore[arg-type]
