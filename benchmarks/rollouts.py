"""Thousands of guarded rollouts, simulated: how often a good canary is rolled back, how soon a bad one is.

Calls are drawn, everything else is the product's own: `optimise.evidence` weighs each look's figures, for many rollouts
at once. A test holds this to `optimise.promotion`, which decides for one. Every rollout is looked at each second. The
table goes to docs/reference/rollouts.md, between its marks.
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Shown

from benchmarks.server import ROOT
from modelyard.contract.counters import SECONDS
from modelyard.optimise.evidence import Table, log_evidence, log_mean
from modelyard.optimise.promotion import BLOCK_CALLS, Guard, Policy, Step, pairs_of

PAGE = ROOT / "docs" / "reference" / "rollouts.md"
RUNS = 2000
CHUNK = 100  # rollouts at once
LONGEST = 3600  # looks
POLICY = Policy((Step(1, 30), Step(10, 30), Step(50, 30), Step(100)))
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Version:
    """How one version behaves: shares of its calls, and its latency in milliseconds, log-normal."""

    errors: float = 0.0
    violations: float = 0.0
    median_ms: float = 3.0
    spread: float = 0.5
    slow: float = 0.0  # share of the answers that take ten times as long

    def latency(self, factor: float = 1.0) -> Array:
        """Chances of the buckets of `SECONDS`, and of what is above."""
        edges = np.log(np.array(SECONDS) * 1000)

        def below(median_ms: float) -> Array:
            z = (edges - math.log(median_ms * factor)) / (self.spread * math.sqrt(2))
            return 0.5 * (1 + np.array([math.erf(one) for one in z]))

        cumulated = (1 - self.slow) * below(self.median_ms) + self.slow * below(10 * self.median_ms)
        return np.diff(np.concatenate([[0.0], cumulated, [1.0]]))


@dataclass(frozen=True)
class Scenario:
    """Calls a second, what champion and candidate do, and what should come of it."""

    name: str
    is_good: bool
    champion: Version
    candidate: Version
    calls: int = 1000  # a second, of both
    batch: int = 1  # calls that are answered at the same instant
    drift: float = 1.0  # errors of both at the end, as many times as at the begin (over ten minutes)
    burst: float = 0.0  # share of both's calls that fail in one second of twenty
    policy: Policy = POLICY


@dataclass
class Outcome:
    """What became of the rollouts of a scenario."""

    scenario: Scenario
    runs: int
    rolled_back: dict[str, int] = field(default_factory=dict)  # by guard
    finished: int = 0
    calls: list[float] = field(default_factory=list)  # of the candidate, until it was rolled back
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """Of the rollouts that were rolled back."""
        return sum(self.rolled_back.values()) / self.runs


def good(name: str, version: Version, **options: object) -> Scenario:
    """A candidate that is as the champion is."""
    return Scenario(f"as good: {name}", True, version, version, **options)  # type: ignore[arg-type]


USUAL = Version(errors=0.01, violations=0.01)
SCENARIOS = (
    good("0.1 % errors, 1,000 calls/s", Version(0.001, 0.001)),
    good("1 % errors, 1,000 calls/s", USUAL),
    good("5 % errors, 1,000 calls/s", Version(0.05, 0.05)),
    good("1 % errors, 20 calls/s", USUAL, calls=20, policy=Policy((Step(10, 30, 300), Step(50, 30, 300), Step(100)))),
    good("1 % errors, 20,000 calls/s", USUAL, calls=20_000),
    good("answered in batches of 16", USUAL, batch=16),
    good("errors rise a hundredfold meanwhile", Version(0.001, 0.001), drift=100.0),
    good("one second of twenty, a fifth of all calls fails", USUAL, burst=0.2),
    Scenario("on the edge: errors 0.2 points more", True, USUAL, replace(USUAL, errors=0.012)),
    Scenario("on the edge: a quarter slower", True, USUAL, replace(USUAL, median_ms=3.75)),
    Scenario("on the edge: violations 0.5 points more", True, USUAL, replace(USUAL, violations=0.015)),
    Scenario("errors 1 % -> 3 %", False, USUAL, replace(USUAL, errors=0.03)),
    Scenario("errors 0.5 % -> 5 %", False, Version(0.005), Version(0.05)),
    Scenario("errors 0.1 % -> 1 %", False, Version(0.001), Version(0.01)),
    Scenario("errors 0 -> 100 %", False, Version(), Version(1.0)),
    Scenario("latency x 1.5", False, USUAL, replace(USUAL, median_ms=4.5)),
    Scenario("latency x 2", False, USUAL, replace(USUAL, median_ms=6.0)),
    Scenario("latency x 1.5, narrow", False, replace(USUAL, spread=0.1), replace(USUAL, spread=0.1, median_ms=4.5)),
    Scenario("latency x 1.5, batches of 16", False, USUAL, replace(USUAL, median_ms=4.5), batch=16),
    Scenario("10 % of the answers ten times as slow", False, USUAL, replace(USUAL, slow=0.1)),
    Scenario("violations 1 % -> 4 %", False, USUAL, replace(USUAL, violations=0.04)),
    Scenario("violations 0 -> 3 %", False, Version(), Version(violations=0.03)),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--runs", type=int, default=RUNS, help=f"rollouts of each scenario ({RUNS})")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (0)")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--no-write", action="store_true", help="leave the page as it is")


def run(console: Console, args: argparse.Namespace) -> int:
    """Simulate, show, write; 1 if a bound is broken."""
    outcomes = []
    for scenario in SCENARIOS:
        if args.only not in scenario.name:
            continue
        began = time.monotonic()
        outcomes.append(simulate(scenario, args.runs, args.seed))
        said = f"{scenario.name}: {outcomes[-1].share:.2%} rolled back, {time.monotonic() - began:.0f} s"
        console.print(said, highlight=False)
    shown = Shown(*COLUMNS, box=None)
    for row in rows_of(outcomes):
        shown.add_row(*row)
    console.print(shown)
    if not (args.no_write or args.only):
        write(outcomes)
    return 0 if all(is_kept(outcome) for outcome in outcomes) else 1


def is_kept(outcome: Outcome) -> bool:
    """Whether the promise holds: few false alarms, most bad ones found."""
    return outcome.share <= POLICY.alpha if outcome.scenario.is_good else outcome.share >= 0.9


def simulate(scenario: Scenario, runs: int, seed: int = 0) -> Outcome:
    """So many rollouts of a scenario, from the begin to the end of each."""
    outcome = Outcome(scenario, runs)
    chunks = [(scenario, min(CHUNK, runs - at), (seed, at)) for at in range(0, runs, CHUNK)]
    pool = ProcessPoolExecutor(initializer=_ignore_interrupt)  # makes no process before it is asked
    try:
        for ended, weighed in pool.map(_chunk, chunks) if len(chunks) > 1 else map(_chunk, chunks):
            for kind, calls in zip(ended, weighed, strict=True):
                if kind == "finished":
                    outcome.finished += 1
                elif kind:
                    outcome.rolled_back[kind] = outcome.rolled_back.get(kind, 0) + 1
                    outcome.calls.append(calls)
    finally:
        pool.shutdown(cancel_futures=True)
    return outcome


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _chunk(asked: tuple[Scenario, int, tuple[int, int]]) -> tuple[list[str], list[float]]:
    """How each ended, and after how many calls of the candidate."""
    scenario, count, seed = asked
    rollouts = Rollouts(scenario, count, np.random.default_rng(seed))
    for _ in range(LONGEST):
        rollouts.look()
        if not rollouts.is_open.any():
            break
    return rollouts.ended, rollouts.weighed.tolist()


class Rollouts:
    """Some rollouts of one scenario, side by side."""

    def __init__(self, scenario: Scenario, count: int, draw: Generator) -> None:
        self.scenario, self.policy, self.count, self.draw = scenario, scenario.policy, count, draw
        self.looks = 0
        self.step = np.zeros(count, dtype=int)
        self.seconds = np.zeros(count)
        self.calls = np.zeros(count)  # of the candidate, weighed in this step
        self.weighed = np.zeros(count)  # since the begin
        self.ended = [""] * count
        self.is_open = np.ones(count, dtype=bool)
        self.watches = [Watch(guard, count) for guard in self.policy.guards]
        self.block: dict[str, Array] = {}
        self._latency = [version.latency() for version in (scenario.champion, scenario.candidate)]

    def look(self) -> None:
        """A second passes: calls come, evidence is weighed, and each rollout does what follows."""
        self.looks += 1
        self.seconds += 1
        for name, came in self._calls().items():
            self.block[name] = self.block[name] + came if name in self.block else came
        champion, candidate = self.block["champion_calls"], self.block["candidate_calls"]
        ready = (champion >= BLOCK_CALLS) & (candidate > 0) & self.is_open
        for watch in self.watches:
            watch.weigh(self.block, ready)
        self.calls += np.where(ready, candidate, 0)
        self.weighed += np.where(ready, candidate, 0)
        for values in self.block.values():
            values[ready] = 0
        self._decide()

    def _calls(self) -> dict[str, Array]:
        scenario, draw = self.scenario, self.draw
        percents = np.array([step.percent for step in self.policy.steps])[self.step] / 100
        candidate = draw.binomial(scenario.calls, percents)
        worse = scenario.drift ** min(1.0, self.looks / 600)
        burst = np.where(draw.random(self.count) < 0.05, scenario.burst, 0.0)
        came: dict[str, Array] = {}
        for side, version, calls in (
            ("champion", scenario.champion, scenario.calls - candidate),
            ("candidate", scenario.candidate, candidate),
        ):
            violations = draw.binomial(calls, version.violations)
            errors = draw.binomial(calls - violations, np.maximum(min(1.0, version.errors * worse), burst))
            answered = calls - violations - errors
            batches = answered // scenario.batch
            latency = draw.multinomial(batches, self._latency[side == "candidate"]) * scenario.batch
            latency += draw.multinomial(answered % scenario.batch, self._latency[side == "candidate"])
            came[f"{side}_calls"] = calls.astype(float)
            came[f"{side}_violations"] = violations.astype(float)
            came[f"{side}_errors"] = errors.astype(float)
            came[f"{side}_batches"] = (batches + answered % scenario.batch).astype(float)
            came[f"{side}_latency"] = latency.astype(float)
        return came

    def _decide(self) -> None:
        evidence = np.stack([watch.evidence() for watch in self.watches])
        worst, kind = evidence.max(axis=0), evidence.argmax(axis=0)
        limit = math.log(self.policy.limit)
        steps = self.policy.steps
        min_seconds = np.array([step.min_seconds for step in steps])[self.step]
        min_calls = np.array([step.min_calls for step in steps])[self.step]
        is_back = self.is_open & (worst >= limit)
        may_go = self.is_open & ~is_back & (self.seconds >= min_seconds) & (self.calls >= min_calls)
        may_go &= worst < limit / 2
        is_last = np.array([step.percent for step in steps])[np.minimum(self.step + 1, len(steps) - 1)] == 100
        for at in np.flatnonzero(is_back):
            self.ended[at] = self.policy.guards[kind[at]].kind
        for at in np.flatnonzero(may_go & is_last):
            self.ended[at] = "finished"
        self.is_open &= ~(is_back | (may_go & is_last))
        goes = may_go & ~is_last
        self.step[goes] += 1
        self.seconds[goes], self.calls[goes] = 0, 0
        for watch in self.watches:
            watch.begin_step(goes)
        for values in self.block.values():
            values[goes] = 0


class Watch:
    """One guard over some rollouts: what it has seen, and its evidence."""

    def __init__(self, guard: Guard, count: int) -> None:
        self.guard = guard
        width = len(pairs_of(guard)) if guard.kind == "latency" else 1
        self.logs = np.zeros((count, width))
        self.counts: dict[str, Array] = {}  # of this step; the champion's also of the one before
        self.fresh: dict[str, Array] = {}  # the champion's, of this step alone

    def weigh(self, block: dict[str, Array], ready: NDArray[np.bool_]) -> None:
        """Add what the block says, and then the block to what was seen."""
        if not self.counts:
            self.counts = {name: np.zeros_like(values) for name, values in block.items()}
            self.fresh = {name: np.zeros_like(values) for name, values in block.items()}
        if ready.any():
            self.logs[ready] += self._weighed(self._table(self.counts), self._table(block), ready)
        for name, values in block.items():
            came = np.where(ready.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)
            self.counts[name] += came
            self.fresh[name] += came

    def _weighed(self, seen: Table, block: Table, ready: NDArray[np.bool_]) -> Array:
        """What the block says. Edges that nobody's answers have reached say all the same: it is worked out once."""
        bad = (seen.champion_bad, seen.candidate_bad, block.champion_bad, block.candidate_bad)
        quiet = ~np.logical_or.reduce([part[ready].any(axis=0) for part in bad])
        first = int(quiet.argmax())
        wanted = ~quiet
        wanted[first] = True
        chosen = [Table(*(part[ready][:, wanted] for part in table)) for table in (seen, block)]
        added = np.empty((int(ready.sum()), len(quiet)))
        added[:, wanted] = log_evidence(*chosen, self.guard.margin)
        if quiet[first]:
            added[:, quiet] = added[:, [first]]
        return added

    def begin_step(self, goes: NDArray[np.bool_]) -> None:
        """What the candidate did is not what it does at the next share."""
        for name, values in self.counts.items():
            values[goes] = self.fresh[name][goes] if name.startswith("champion") else 0.0
            self.fresh[name][goes] = 0.0

    def evidence(self) -> Array:
        """The logarithm, for each rollout."""
        return log_mean(self.logs)

    def _table(self, counts: dict[str, Array]) -> Table:
        return Table(*self._side(counts, "champion", 0), *self._side(counts, "candidate", 1))

    def _side(self, counts: dict[str, Array], side: str, which: int) -> tuple[Array, Array]:
        calls, violations = counts[f"{side}_calls"], counts[f"{side}_violations"]
        if self.guard.kind == "violations":
            return calls[:, None], violations[:, None]
        if self.guard.kind == "errors":
            return (calls - violations)[:, None], counts[f"{side}_errors"][:, None]
        latency = counts[f"{side}_latency"]
        whole = latency.sum(axis=1)
        size = np.maximum(1.0, whole / np.maximum(counts[f"{side}_batches"], 1))
        edges = [pair[which] for pair in pairs_of(self.guard)]
        above = (whole[:, None] - latency.cumsum(axis=1)[:, edges]) / size[:, None]
        return np.broadcast_to((whole / size)[:, None], above.shape), above


# --- the table --------------------------------------------------------------------------------------------------

COLUMNS = ("scenario", "rolled back", "by", "promise", "calls of the canary until then: median", "90 %")


def rows_of(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """A line for each scenario."""
    rows = []
    for outcome in outcomes:
        by = sorted(outcome.rolled_back.items(), key=lambda entry: -entry[1])
        calls = [f"{np.quantile(outcome.calls, part):,.0f}" for part in (0.5, 0.9)] if outcome.calls else ["", ""]
        rows.append(
            (
                outcome.scenario.name,
                f"{100 * outcome.share:.2f} %",
                ", ".join(kind for kind, _ in by[:2]),
                "≤ 5 %" if outcome.scenario.is_good else "≥ 90 %",
                *calls,
            )
        )
    return rows


def write(outcomes: list[Outcome], page: Path = PAGE) -> None:
    """Rewrite what is between the marks of `page`."""
    begin, end = "<!-- rollouts: written by `make bench ARGS=rollouts` -->\n", "\n<!-- end of rollouts -->"
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{page.name} has lost the marks around its table")
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows_of(outcomes)]
    text = f"{outcomes[0].runs:,} rollouts of each scenario, looked at each second.\n\n" + "\n".join(lines)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")
