"""When a canary gets more calls, and when it loses them: pure decisions over counted figures.

A rollout goes through steps. Each look takes in what came since the last one (`take_in`) and asks what to do now
(`next_action`). Guards compare the candidate with the champion *in the same seconds*, so the hour of the day, a burst
or a slow machine, which meet both, speak against neither. All guards together roll a candidate that is not worse than
its margins back with a chance of at most `alpha`, at however many looks: each has an equal share, and its evidence (see
`evidence.py`) is believed from `guards / alpha` on. From the root of that on there is doubt, and the share stays until
the doubt goes or turns into a reason.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np

from modelyard.contract.counters import SECONDS, Counts
from modelyard.optimise.evidence import Table, log_evidence, log_mean

Kind = Literal["errors", "latency", "violations"]
BLOCK_CALLS = 10  # of the champion, before a block is weighed: what came in the same time must be there to compare


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of the calls, and what must have been seen at it before the next one."""

    percent: int
    min_seconds: float = 600.0
    min_calls: int = 1000  # of the candidate

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 100:
            raise ValueError("a step is 1 to 100 percent")
        if not (0 <= self.min_seconds < math.inf and self.min_calls >= 0):
            raise ValueError("min_seconds and min_calls are 0 or more")


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that must not get worse by more than a margin."""

    kind: Kind
    margin: float  # share of the calls by which the candidate may be worse
    slower: float = 1.25  # latency only: how many times as slow still counts as equally fast ...
    fast_seconds: float = 0.001  # ... and what is never slow, whatever the champion needs

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 0.5:
            raise ValueError(f"{self.kind}: a margin is a share of the calls, 0 to 0.5")
        if not 1 <= self.slower <= 100:
            raise ValueError(f"{self.kind}: slower is a factor, 1 to 100")
        if not 0 <= self.fast_seconds <= SECONDS[-1]:
            raise ValueError(f"{self.kind}: fast_seconds is 0 to {SECONDS[-1]:g}")


STEPS = (Step(1), Step(10), Step(50), Step(100))
GUARDS = (Guard("errors", 0.002), Guard("latency", 0.02), Guard("violations", 0.005))


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rollout goes: fixed when it starts."""

    steps: tuple[Step, ...] = STEPS
    guards: tuple[Guard, ...] = GUARDS
    alpha: float = 0.05  # chance of rolling a good candidate back, over all guards and looks

    def __post_init__(self) -> None:
        percents = [step.percent for step in self.steps]
        if len(percents) < 2 or percents[-1] != 100 or any(later <= first for first, later in pairwise(percents)):
            raise ValueError("steps rise, from one below 100 percent to 100")
        if not 0 < self.alpha <= 0.5:
            raise ValueError("alpha is above 0 and at most 0.5")
        if len({guard.kind for guard in self.guards}) != len(self.guards):
            raise ValueError("a guard stands there once")

    @property
    def limit(self) -> float:
        """The evidence from which a guard is believed."""
        return len(self.guards) / self.alpha


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counted of both over the same time."""

    champion: Counts = Counts()
    candidate: Counts = Counts()

    def __add__(self, more: Figures) -> Figures:
        return Figures(self.champion + more.champion, self.candidate + more.candidate)

    def __sub__(self, before: Figures) -> Figures:
        return Figures(self.champion - before.champion, self.candidate - before.candidate)

    @property
    def is_lowered(self) -> bool:
        """Whether this difference is none, see `Counts.is_lowered`."""
        return self.champion.is_lowered or self.candidate.is_lowered


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a rollout is, and what speaks against it."""

    step: int = 0
    seconds: float = 0.0  # watched in this step
    step_figures: Figures = Figures()  # of this step, as far as they were weighed
    known: Counts = Counts()  # the champion's of the step before
    block: Figures = Figures()  # came since; weighed once there is enough to compare
    total: Figures = Figures()  # weighed since the rollout began
    evidence: dict[str, tuple[float, ...]] = {}  # by kind of guard: natural logarithms, one for each test


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one guard has seen: calls and bad ones since the rollout began, and how strongly they speak against it."""

    kind: Kind
    champion_calls: int
    champion_bad: int
    candidate_calls: int
    candidate_bad: int
    evidence: float  # 1 says nothing; believed from `limit` on
    limit: float
    champion_seconds: float | None = None  # latency: bad is slower than this ...
    candidate_seconds: float | None = None  # ... and of the candidate, slower than this


class Hold(msgspec.Struct, frozen=True):
    """Go on as it is: what is waited for."""

    waits_for: Literal["time", "calls", "doubt"]


class Advance(msgspec.Struct, frozen=True):
    """Give the candidate the share of this step."""

    step: int


class RollBack(msgspec.Struct, frozen=True):
    """Give the champion all calls again."""

    reason: str
    finding: Finding


class Finish(msgspec.Struct, frozen=True):
    """Give the candidate all calls: it is the champion from now on."""


Action = Hold | Advance | RollBack | Finish


def calls_of(counts: Counts) -> int:
    """Every call that found this version: answered, failed by its fault, or refused by its contract."""
    return counts.answered + counts.errors + counts.violations


def take_in(policy: Policy, progress: Progress, came: Figures, seconds: float) -> Progress:
    """The progress after another look: what was counted since the last one, and how long that was."""
    block = progress.block + came
    watched = msgspec.structs.replace(progress, seconds=progress.seconds + seconds, block=block)
    if calls_of(block.champion) < BLOCK_CALLS or not calls_of(block.candidate):
        return watched
    seen = progress.step_figures
    seen = Figures(seen.champion + progress.known, seen.candidate)
    evidence = {guard.kind: _weighed(guard, progress.evidence.get(guard.kind), seen, block) for guard in policy.guards}
    return msgspec.structs.replace(
        watched,
        block=Figures(),
        step_figures=progress.step_figures + block,
        total=progress.total + block,
        evidence=evidence,
    )


def next_action(policy: Policy, progress: Progress) -> Action:
    """What to do now. Asking again without anything new changes nothing."""
    findings = [finding_of(guard, policy, progress) for guard in policy.guards]
    worst = max(findings, key=lambda finding: finding.evidence, default=None)
    if worst is not None and worst.evidence >= worst.limit:
        return RollBack(reason_of(worst), worst)
    step = policy.steps[progress.step]
    if progress.seconds < step.min_seconds:
        return Hold("time")
    if calls_of(progress.step_figures.candidate) < step.min_calls:
        return Hold("calls")
    if worst is not None and worst.evidence >= math.sqrt(worst.limit):
        return Hold("doubt")
    return Finish() if policy.steps[progress.step + 1].percent == 100 else Advance(progress.step + 1)


def advanced(progress: Progress, step: int) -> Progress:
    """The same at the begin of a step. What the candidate did at a smaller share is not what it does at this one."""
    return msgspec.structs.replace(
        progress, step=step, seconds=0.0, known=progress.step_figures.champion, step_figures=Figures(), block=Figures()
    )


def finding_of(guard: Guard, policy: Policy, progress: Progress) -> Finding:
    """What a guard has seen until now; of latency, at the edge that says most."""
    logs = np.array(progress.evidence.get(guard.kind, (0.0,)))
    log = min(float(log_mean(logs)), 700.0)  # what is beyond has no float, and needs none
    at = int(logs.argmax())
    champion, candidate = progress.total.champion, progress.total.candidate
    edges: tuple[float | None, float | None] = (None, None)
    if guard.kind == "latency":
        first, second = pairs_of(guard)[min(at, len(pairs_of(guard)) - 1)]
        edges = SECONDS[first], SECONDS[second]
        here = sum(champion.latency), sum(champion.latency[first + 1 :])
        there = sum(candidate.latency), sum(candidate.latency[second + 1 :])
    else:
        here, there = _bad(guard.kind, champion), _bad(guard.kind, candidate)
    return Finding(guard.kind, *here, *there, math.exp(log), policy.limit, *edges)


def reason_of(finding: Finding) -> str:
    """One sentence for people."""
    theirs = _percent(finding.candidate_bad, finding.candidate_calls)
    ours = f"of the champion's {finding.champion_calls:,}, {_percent(finding.champion_bad, finding.champion_calls)}"
    if finding.kind == "latency":
        return (
            f"latency: {theirs} of the candidate's {finding.candidate_calls:,} answers took longer than "
            f"{_time(finding.candidate_seconds)}; {ours} longer than {_time(finding.champion_seconds)}"
        )
    what = {"errors": "calls ended in an error", "violations": "inputs were refused by its contract"}[finding.kind]
    return f"{finding.kind}: {theirs} of the candidate's {finding.candidate_calls:,} {what}; {ours}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "none"


def _time(seconds: float | None) -> str:
    seconds = seconds or 0.0
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _bad(kind: str, counts: Counts) -> tuple[int, int]:
    if kind == "errors":
        return counts.answered + counts.errors, counts.errors
    return calls_of(counts), counts.violations


def _weighed(guard: Guard, before: tuple[float, ...] | None, seen: Figures, block: Figures) -> tuple[float, ...]:
    added = log_evidence(_table(guard, seen), _table(guard, block), guard.margin)
    old = np.zeros_like(added) if before is None else np.array(before)
    return tuple(float(log) for log in old + added)


def _table(guard: Guard, figures: Figures) -> Table:
    if guard.kind == "latency":
        pairs = pairs_of(guard)
        champion = _slower(figures.champion, tuple(first for first, _ in pairs))
        candidate = _slower(figures.candidate, tuple(second for _, second in pairs))
        return Table(*champion, *candidate)
    numbers = (*_bad(guard.kind, figures.champion), *_bad(guard.kind, figures.candidate))
    return Table(*(np.array([float(number)]) for number in numbers))


def _slower(counts: Counts, edges: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Answers, and those above each edge. Those of one batch come at the same instant and count as one answer.

    An e-value to the power of 1/m is one as well, and for m answers that are equal it is that of a single one (Hölder).
    """
    answers = np.array(counts.latency or (0,) * (len(SECONDS) + 1), dtype=float)
    whole = answers.sum()
    above = whole - answers.cumsum()[list(edges)]
    size = max(1.0, whole / max(counts.batches, 1))
    return np.full(len(edges), whole / size), above / size


@cache
def pairs_of(guard: Guard) -> tuple[tuple[int, int], ...]:
    """Which edge of the candidate's is held against which one of the champion's: at least so many times as late."""
    found = []
    for first, edge in enumerate(SECONDS):
        wanted = edge * guard.slower * (1 - 1e-9)
        second = next((at for at, later in enumerate(SECONDS) if later >= wanted), None)
        if second is not None and SECONDS[second] >= guard.fast_seconds:
            found.append((first, second))
    return tuple(found)
