"""A rollout decides by steps, guards and margins: tables, and what holds for any figures."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.counters import SECONDS, Counts
from modelyard.optimise.promotion import (
    Action,
    Advance,
    Figures,
    Finish,
    Guard,
    Hold,
    Policy,
    Progress,
    RollBack,
    Step,
    advanced,
    calls_of,
    finding_of,
    next_action,
    take_in,
)

STEPS = (Step(10, 60, 100), Step(50, 60, 100), Step(100))
POLICY = Policy(STEPS)
LIMIT = 60.0


def answers(count: int, seconds: float = 0.003, errors: int = 0, violations: int = 0, batches: int = 0) -> Counts:
    """So many answers of one latency."""
    bucket = next(at for at, edge in enumerate((*SECONDS, math.inf)) if seconds <= edge)
    latency = tuple(count if at == bucket else 0 for at in range(len(SECONDS) + 1))
    return Counts(count, errors, violations, batches or count, latency)


def seen(calls: int, evidence: float, seconds: float, step: int = 0) -> Progress:
    """A progress whose errors have so much evidence."""
    figures = Figures(answers(900), answers(calls))
    return Progress(step, seconds, figures, evidence={"errors": (math.log(evidence),)})


@pytest.mark.parametrize(
    ("progress", "action"),
    [
        (seen(0, 1, 0), Hold("time")),
        (seen(100, 1, 59), Hold("time")),
        (seen(99, 1, 60), Hold("calls")),  # there must be something to judge by
        (seen(100, 1, 60), Advance(1)),
        (seen(100, 7.7, 60), Advance(1)),
        (seen(100, 7.8, 60), Hold("doubt")),  # the root of the limit
        (seen(100, 59, 60), Hold("doubt")),
        (seen(100, 1, 60, step=1), Finish()),  # the next share is all calls
        (seen(99, 1, 60, step=1), Hold("calls")),
    ],
)
def test_a_step_is_taken_when_time_calls_and_guards_allow_it(progress: Progress, action: Action) -> None:
    assert next_action(POLICY, progress) == action
    assert next_action(POLICY, progress) == action, "asking again changes nothing"


@pytest.mark.parametrize("progress", [seen(0, 60.1, 0), seen(100, 60.1, 60), seen(100, 1e9, 60, step=1)])
def test_a_guard_is_believed_at_once_whatever_the_step_still_waits_for(progress: Progress) -> None:
    action = next_action(POLICY, progress)
    assert isinstance(action, RollBack)
    assert action.finding.kind == "errors"
    assert action.finding.limit == LIMIT == POLICY.limit


def watched(candidate: Counts, champion: Counts | None = None, policy: Policy = POLICY, looks: int = 30) -> Progress:
    """The same figures at each look."""
    progress = Progress()
    for _ in range(looks):
        progress = take_in(policy, progress, Figures(champion or answers(90, errors=1), candidate), 2.0)
    return progress


@pytest.mark.parametrize(
    ("candidate", "kind", "words"),
    [
        (answers(9, errors=1), "errors", ["10 % of the candidate's", "calls ended in an error", "1.1 %"]),
        (answers(10, seconds=0.02), "latency", ["100 % of the candidate's", "took longer than", "ms"]),
        (answers(8, violations=2), "violations", ["20 % of the candidate's", "refused by its contract", ", 0 %"]),
    ],
)
def test_what_is_worse_is_rolled_back_and_named_with_figures(candidate: Counts, kind: str, words: list[str]) -> None:
    action = next_action(POLICY, watched(candidate))
    assert isinstance(action, RollBack)
    assert action.finding.kind == kind
    assert action.reason.startswith(kind)
    assert all(word in action.reason for word in words), action.reason


@pytest.mark.parametrize(
    "candidate",
    [
        answers(30),
        answers(30, seconds=0.0025),
        answers(30, seconds=0.0035),  # a quarter slower at most
    ],
)
def test_what_is_as_good_gets_all_calls_in_the_end(candidate: Counts) -> None:
    progress = watched(candidate)
    assert next_action(POLICY, progress) == Advance(1)
    progress = advanced(progress, 1)
    assert next_action(POLICY, progress) == Hold("time")
    for _ in range(30):
        progress = take_in(POLICY, progress, Figures(answers(50, errors=1), candidate), 2.0)
    assert next_action(POLICY, progress) == Finish()


@pytest.mark.parametrize(
    ("guard", "candidate", "kind"),
    [
        (Guard("errors", 0.3), answers(9, errors=1), None),  # each switch does something
        (Guard("errors", 0.05), answers(9, errors=1), "errors"),
        (Guard("latency", 0.02, slower=10.0), answers(10, seconds=0.02), None),
        (Guard("latency", 0.02, slower=4.0), answers(10, seconds=0.02), "latency"),
        (Guard("latency", 0.5), answers(10, seconds=0.02), "latency"),
        (Guard("latency", 0.02, fast_seconds=0.025), answers(10, seconds=0.02), None),
        (Guard("latency", 0.02, fast_seconds=0.016), answers(10, seconds=0.02), "latency"),
        (Guard("violations", 0.4), answers(8, violations=2), None),
    ],
)
def test_a_margin_is_what_may_be_worse(guard: Guard, candidate: Counts, kind: str | None) -> None:
    policy = Policy(STEPS, (guard,))
    action = next_action(policy, watched(candidate, answers(90), policy, looks=60))
    assert (action.finding.kind if isinstance(action, RollBack) else None) == kind


def test_fewer_guards_and_a_larger_alpha_ask_for_less_evidence() -> None:
    assert Policy(STEPS, (Guard("errors", 0.0),)).limit == 20
    assert Policy(STEPS, alpha=0.3).limit == 10
    assert isinstance(next_action(Policy(STEPS, alpha=0.3), seen(0, 11, 0)), RollBack)


def test_calls_are_weighed_when_both_had_some_in_the_same_time() -> None:
    alone = take_in(POLICY, Progress(), Figures(answers(500)), 1.0)
    assert (alone.total, alone.block.champion.answered) == (Figures(), 500)
    few = take_in(POLICY, Progress(), Figures(answers(9), answers(50)), 1.0)
    assert few.total == Figures()
    both = take_in(POLICY, alone, Figures(Counts(), answers(1)), 1.0)
    assert calls_of(both.total.champion) == 500
    assert both.block == Figures()
    assert both.seconds == 2.0


def test_the_hour_of_the_day_is_no_fault_of_the_candidate() -> None:
    """Few calls go to it while all is well and many while everything fails: together it looks far worse."""
    progress = Progress()
    for _ in range(40):
        progress = take_in(POLICY, progress, Figures(answers(990, errors=1), answers(10)), 1.0)
    progress = advanced(progress, 1)
    for _ in range(40):
        progress = take_in(POLICY, progress, Figures(answers(450, errors=50), answers(450, errors=50)), 1.0)
    total = progress.total
    assert total.candidate.errors / calls_of(total.candidate) > 2 * total.champion.errors / calls_of(total.champion)
    assert next_action(POLICY, progress) == Hold("time")
    assert finding_of(POLICY.guards[0], POLICY, progress).evidence < 1


def test_answers_of_one_batch_count_as_one() -> None:
    slow = Figures(answers(400, batches=400), answers(100, seconds=0.02, batches=2))
    apart = Figures(answers(400, batches=400), answers(100, seconds=0.02, batches=100))
    first = take_in(POLICY, Progress(), Figures(answers(400), answers(1)), 1.0)
    held, believed = (next_action(POLICY, take_in(POLICY, first, figures, 1.0)) for figures in (slow, apart))
    assert isinstance(held, Hold)
    assert isinstance(believed, RollBack)


COUNTS = st.builds(
    answers, st.integers(0, 200), st.sampled_from((0.001, 0.004, 0.05)), st.integers(0, 30), st.integers(0, 30)
)


@given(st.lists(st.builds(Figures, COUNTS, COUNTS), min_size=1, max_size=6), st.integers(1, 100), st.data())
def test_more_errors_never_make_a_rollback_undone(came: list[Figures], more: int, data: st.DataObject) -> None:
    """The last look with more of the candidate's calls gone wrong says at least as much against it."""
    before = Progress()
    for figures in came[:-1]:
        before = take_in(POLICY, before, figures, 30.0)
    last = came[-1]
    spoiled = min(more, last.candidate.answered)
    worse = msgspec.structs.replace(
        last.candidate, answered=last.candidate.answered - spoiled, errors=last.candidate.errors + spoiled
    )
    better, bad = (
        take_in(POLICY, before, Figures(last.champion, candidate), 30.0) for candidate in (last.candidate, worse)
    )
    errors = POLICY.guards[0]
    assert finding_of(errors, POLICY, bad).evidence >= finding_of(errors, POLICY, better).evidence * (1 - 1e-9)
    only = Policy(STEPS, (errors,))
    if isinstance(next_action(only, better), RollBack | Hold):
        assert isinstance(next_action(only, bad), RollBack | Hold)
    if isinstance(next_action(only, better), RollBack):
        assert isinstance(next_action(only, bad), RollBack)


@given(st.lists(st.builds(Figures, COUNTS, COUNTS), max_size=8))
def test_nothing_is_lost_or_counted_twice_and_it_is_kept_as_json(came: list[Figures]) -> None:
    progress, total = Progress(), Figures()
    for figures in came:
        progress, total = take_in(POLICY, progress, figures, 1.0), total + figures
        progress = msgspec.json.decode(msgspec.json.encode(progress), type=Progress)
    assert progress.total + progress.block == total + Figures()
    assert progress.seconds == len(came)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"steps": [{"percent": 10}]}, "steps rise"),
        ({"steps": [{"percent": 10}, {"percent": 50}]}, "steps rise"),
        ({"steps": [{"percent": 50}, {"percent": 50}, {"percent": 100}]}, "steps rise"),
        ({"steps": [{"percent": 0}, {"percent": 100}]}, "1 to 100 percent"),
        ({"steps": [{"percent": 1, "min_calls": -1}, {"percent": 100}]}, "0 or more"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 0.6}, "alpha"),
        ({"guards": [{"kind": "errors", "margin": 0.6}]}, "margin"),
        ({"guards": [{"kind": "latency", "margin": 0.1, "slower": 0.5}]}, "slower"),
        ({"guards": [{"kind": "latency", "margin": 0.1, "fast_seconds": 11}]}, "fast_seconds"),
        ({"guards": [{"kind": "errors", "margin": 0.1}] * 2}, "once"),
        ({"guards": [{"kind": "mood", "margin": 0.1}]}, "mood"),
        ({"step": []}, "unknown field"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, Any], rule: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=rule):
        msgspec.convert(given, Policy)


def test_a_rollout_may_go_without_guards() -> None:
    policy = Policy(STEPS, ())
    assert next_action(policy, take_in(policy, seen(100, 1, 60), Figures(), 0.0)) == Advance(1)
