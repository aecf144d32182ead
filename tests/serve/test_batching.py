"""Many waiting calls become one batch: nobody is lost, doubled, overtaken by his own, or starved by others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelyard.serve.batching import best_chunk, inline_rows, predicted_cost, take_turn


@dataclass
class Waiting:
    """A call as batching sees it."""

    owner: str
    rows: int
    number: int
    group: object = None
    priority: int = 5


QUEUES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 8)), max_size=30).map(
    lambda calls: [Waiting(owner, rows, number) for number, (owner, rows) in enumerate(calls)]
)
CURVES = st.fixed_dictionaries({size: st.floats(1e-5, 1e-2) for size in (1, 2, 8, 32, 256)})


@given(QUEUES, st.integers(0, 20))
def test_a_turn_loses_and_doubles_nobody(waiting: list[Waiting], max_rows: int) -> None:
    batch, rest = take_turn(waiting, max_rows)
    numbers = [call.number for call in batch + rest]
    assert sorted(numbers) == [call.number for call in waiting]
    for owner in "abc":
        mine = [call.number for call in rest if call.owner == owner]
        assert mine == sorted(mine), "an owner's calls keep their order"
    served = {call.owner for call in batch}
    assert [call.owner in served for call in rest] == sorted(call.owner in served for call in rest), "others go first"
    assert bool(batch) is bool(waiting), "every turn gets on"
    rows = sum(call.rows for call in batch)
    assert rows <= max_rows or len(batch) == 1, "only a call that is larger goes above, and goes alone"


@given(QUEUES, st.integers(1, 20))
def test_an_owners_calls_stay_in_order(waiting: list[Waiting], max_rows: int) -> None:
    left, served = waiting, []
    while left:
        batch, left = take_turn(left, max_rows)
        served += batch
    for owner in "abc":
        numbers = [call.number for call in served if call.owner == owner]
        assert numbers == sorted(numbers)


@given(QUEUES, st.integers(1, 20))
def test_the_first_in_line_is_always_served(waiting: list[Waiting], max_rows: int) -> None:
    assume(waiting)
    assert waiting[0] in take_turn(waiting, max_rows)[0]


@given(st.integers(1, 1000), st.integers(2, 50))
def test_a_thousand_calls_do_not_starve_one(many: int, max_rows: int) -> None:
    waiting = [Waiting("busy", 1, number) for number in range(many)] + [Waiting("other", 1, many)]
    assert waiting[-1] in take_turn(waiting, max_rows)[0]


@given(QUEUES, st.integers(1, 20))
def test_owners_take_turns(waiting: list[Waiting], max_rows: int) -> None:
    waiting = [Waiting(call.owner, 1, call.number) for call in waiting]
    batch, rest = take_turn(waiting, max_rows)
    got = {owner: sum(call.owner == owner for call in batch) for owner in "abc"}
    unserved = {call.owner for call in rest}
    if rest:
        assert len(batch) == max_rows, "no room is left while somebody waits"
        assert all(got[owner] >= max(got.values()) - 1 for owner in unserved)


def test_with_room_everybody_goes_in_order_of_arrival() -> None:
    waiting = [Waiting(owner, 2, number) for number, owner in enumerate("abacab")]
    assert take_turn(waiting, 12) == (waiting, [])


def test_nobody_waits_and_nothing_happens() -> None:
    assert take_turn([], 5) == ([], [])


# --- how large a batch should be


@given(CURVES)
def test_the_best_chunk_is_within_five_percent_of_the_least_cost_per_row(curve: dict[int, float]) -> None:
    chunk = best_chunk(curve)
    least = min(seconds / size for size, seconds in curve.items())
    assert curve[chunk] / chunk <= least * 1.05 + 1e-15
    larger = [size for size in curve if size > chunk]
    assert all(curve[size] / size > least * 1.05 for size in larger), "ties go to the larger"


@given(CURVES, st.floats(1e-6, 0.1))
def test_what_runs_inline_fits_the_budget(curve: dict[int, float], budget: float) -> None:
    rows = inline_rows(curve, budget)
    assert rows >= 0
    if rows:
        assert predicted_cost(curve, rows) <= budget * (1 + 1e-9)
    else:
        assert all(seconds > budget for seconds in curve.values())


@given(CURVES, st.integers(1, 2000))
def test_cost_counts_whole_chunks_and_the_rest(curve: dict[int, float], rows: int) -> None:
    chunk = best_chunk(curve)
    whole, rest = divmod(rows, chunk)
    cost = predicted_cost(curve, rows)
    assert cost >= whole * curve[chunk]
    if rest == 0:
        assert cost == pytest.approx(rows / chunk * curve[chunk])
    else:
        assert cost - whole * curve[chunk] == pytest.approx(
            next(seconds for size, seconds in sorted(curve.items()) if size >= rest), rel=1e-6
        )


@pytest.mark.parametrize(
    ("curve", "budget", "rows"),
    [
        ({1: 0.002}, 0.001, 0),  # one row alone is too much
        ({1: 0.0001, 8: 0.0002, 64: 0.004}, 0.001, 40),  # five chunks of eight
        ({1: 0.0001, 64: 0.002}, 0.001, 1),  # the cheapest chunk does not fit, a smaller one does
        ({1: 0.0001}, 0.001, 10),
    ],
)
def test_inline_rows_by_example(curve: dict[int, float], budget: float, rows: int) -> None:
    assert inline_rows(curve, budget) == rows


GROUPED = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 8), st.sampled_from("xy")), max_size=30).map(
    lambda calls: [Waiting(owner, rows, number, group) for number, (owner, rows, group) in enumerate(calls)]
)


@given(GROUPED, st.integers(1, 20))
def test_only_equal_groups_are_joined_and_everybody_gets_his_turn(waiting: list[Waiting], max_rows: int) -> None:
    left, served = waiting, []
    while left:
        batch, left = take_turn(left, max_rows)
        assert len({call.group for call in batch}) == 1
        served += batch
    assert sorted(call.number for call in served) == [call.number for call in waiting]


def test_urgent_calls_go_before_their_owners_others_and_before_nobody_elses() -> None:
    mine = [Waiting("mine", 1, number) for number in range(3)] + [Waiting("mine", 1, 3, priority=1)]
    theirs = [Waiting("theirs", 1, 4)]
    batch, _ = take_turn(mine + theirs, 2)
    assert sorted(call.number for call in batch) == [3, 4]


def test_an_owner_without_room_in_one_turn_is_first_in_the_next() -> None:
    parts = [Waiting("bulk", 8, number) for number in range(5)]
    _, rest = take_turn([*parts, Waiting("small", 1, 9)], 8)
    assert rest[0].owner == "small"
