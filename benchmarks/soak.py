"""A long time at a share of saturation while versions change: every answer is compared, memory is watched; then
neighbours that mean harm, and what another caller feels of each. `make soak`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from benchmarks import hostile
from benchmarks.bench import RESULTS
from benchmarks.caller import Caller, Tally, judge_by
from benchmarks.changes import NewSplits, NewVersions
from benchmarks.gateway import Gateway, modelyard
from benchmarks.processes import resident_bytes
from benchmarks.server import ROOT
from benchmarks.work import Work, credit1, credit32, mixed

CALLERS = 48
SAMPLE_S = 1.0
WARM_UP_S = 120.0  # memory that grows after this counts; of a short soak, after a third of it
MEMORY_BAR = 0.02
NEIGHBOUR_BAR = 2.0
PROBES = 8
PROBE_EVERY_S = 0.02
TURNS = 3


class Soaked(msgspec.Struct):
    """What happened."""

    saturation: float = 0.0  # answers a second without pace, from the same callers
    answered: int = 0
    failed: int = 0  # no answer, or not 200
    wrong: int = 0  # another answer than in process, or from a version that was not deployed
    deployments: int = 0
    slowest_deployment_s: float = 0.0
    seconds: float = 0.0
    p99_ms: float = 0.0
    reasons: list[str] = []
    restarts: list[str] = []
    memory: dict[int, list[tuple[float, int]]] = {}  # process -> (seconds since the start, resident bytes)

    @property
    def is_clean(self) -> bool:
        """Whether every call got its right answer, and no worker died."""
        return bool(self.answered) and not self.failed and not self.wrong and not self.restarts

    def growth(self, warm_up_s: float) -> dict[int, tuple[int, int]]:
        """Process -> what it held just after warm-up and at the end: medians over a tenth of the time between."""
        found = {}
        for pid, samples in self.memory.items():
            sizes = [size for at, size in samples if at >= warm_up_s]
            if len(sizes) > 1:
                tenth = max(1, len(sizes) // 10)
                found[pid] = (int(statistics.median(sizes[:tenth])), int(statistics.median(sizes[-tenth:])))
        return found


class Felt(msgspec.Struct):
    """What another caller felt of one neighbour: its 99th percentile alone and meanwhile, in turns."""

    kind: str
    alone_ms: list[float] = []
    meanwhile_ms: list[float] = []
    answers: dict[str, int] = {}  # the neighbour's own
    failed: int = 0  # of the other caller's calls, wrong ones included

    @property
    def ratio(self) -> float:
        """Median over the turns."""
        return statistics.median(after / before for before, after in zip(self.alone_ms, self.meanwhile_ms, strict=True))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=600.0, help="under load (600)")
    parser.add_argument("--every", type=float, help="seconds between deployments (10), or between splits (1)")
    parser.add_argument("--splits", action="store_true", help="change how versions share the calls, not the version")
    parser.add_argument("--share", type=float, default=0.8, help="of saturation, which is measured first (0.8)")
    parser.add_argument("--neighbours", type=float, default=4.0, help="seconds of each turn (4); 0: none")
    parser.add_argument("--json", type=Path, default=RESULTS.with_name("soak.json"), metavar="FILE")


def run(console: Console, given: argparse.Namespace) -> int:
    """Soak and tell; the exit status."""
    changing, steady = (credit1(), credit1(seed=8)), [credit32(), mixed()]
    every_s = given.every or (1.0 if given.splits else 10.0)
    kind = NewSplits if given.splits else NewVersions
    said = soak(changing, steady, given.seconds, every_s, given.share, kind) if given.seconds else Soaked()
    felt: list[Felt] = []
    is_good = True
    if given.seconds:
        is_good = tell(console, said, min(WARM_UP_S, given.seconds / 3), "splits" if given.splits else "deployments")
    if given.neighbours:
        felt = neighbours(credit1(), given.neighbours)
        is_good = tell_neighbours(console, felt) and is_good
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_bytes(msgspec.json.format(msgspec.json.encode({"soaked": said, "neighbours": felt})) + b"\n")
    return 0 if is_good else 1


# --- the soak -------------------------------------------------------------------------------------------------------


def soak(
    changing: tuple[Work, Work], steady: list[Work], seconds: float, every_s: float, share: float = 0.8,
    kind: type[NewVersions] = NewVersions,
) -> Soaked:  # fmt: skip
    """Call a gateway for so long; `changing` stand behind one endpoint, of which something changes each `every_s`.

    steady: other works; those of the changing endpoint are judged by its versions as well.
    """
    endpoints = {work.endpoint: {1: work.digest} for work in (*steady, changing[0])}
    changes = kind(changing, endpoints)
    shelves = [work.shelf for work in (*changing, *steady)]
    with modelyard(endpoints, shelves) as gateway, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Soak(gateway, changes, [changing[0], *steady]).run(seconds, every_s, share))


class _Soak:
    def __init__(self, gateway: Gateway, changes: NewVersions, works: list[Work]) -> None:
        self.gateway, self.changes, self.works = gateway, changes, works
        self.tally = Tally()
        self.said = Soaked()

    async def run(self, seconds: float, every_s: float, share: float) -> Soaked:
        callers = [self._caller(number, self.works[number % len(self.works)]) for number in range(CALLERS)]
        self.said.saturation = await self._saturation(callers, max(1.0, min(10.0, seconds / 10)))
        kept = Tally()
        for caller in callers:
            caller.tally, caller.keep = kept, True
        each_s = CALLERS / (share * self.said.saturation)
        began = time.monotonic()
        for number, caller in enumerate(callers):
            await caller.start(each_s, each_s * number / CALLERS)
        until = began + seconds
        await asyncio.gather(self.changes.run(self.gateway, until, every_s), self._watch(began, until))
        await asyncio.gather(*(caller.stop() for caller in callers))
        for caller in callers:
            caller.close()
        said = self.said
        said.seconds = time.monotonic() - began
        said.deployments, said.slowest_deployment_s = self.changes.followed.count, self.changes.followed.slowest_s
        said.p99_ms = kept.p99_ms()
        for tally in (self.tally, kept):
            said.failed += tally.failed
            said.wrong += tally.wrong
            said.reasons += tally.reasons
        said.answered = kept.answered
        state = self.gateway.state()
        said.restarts = list(state.restarts) if state else ["the gateway's state is gone"]
        return said

    async def _saturation(self, callers: list[Caller], seconds: float) -> float:
        """Answers a second of the same callers when none waits."""
        for caller in callers:
            await caller.start()
        await asyncio.sleep(seconds / 3)  # versions and connections warm up
        before, began = self.tally.answered, time.monotonic()
        await asyncio.sleep(seconds)
        rate = (self.tally.answered - before) / (time.monotonic() - began)
        await asyncio.gather(*(caller.stop() for caller in callers))
        if not rate:
            raise RuntimeError(f"nothing was answered: {self.tally.reasons}")
        return rate

    def _caller(self, number: int, work: Work) -> Caller:
        is_changing = work.endpoint == self.changes.works[0].endpoint
        judge = self.changes.judge(number, work) if is_changing else judge_by(work.expected["modelyard"], work.output)
        headers = self.gateway.headers | self.changes.headers(number)
        return Caller(self.gateway, work, judge, self.tally, first=number, headers=headers)

    async def _watch(self, began: float, until: float) -> None:
        while time.monotonic() < until:
            for pid in self.gateway.pids():
                if (size := resident_bytes(pid)) is not None:
                    self.said.memory.setdefault(pid, []).append((time.monotonic() - began, size))
            await asyncio.sleep(min(SAMPLE_S, max(0.05, (until - began) / 50)))


def tell(console: Console, said: Soaked, warm_up_s: float, changes: str = "deployments") -> bool:
    """Print what happened; whether it is as demanded."""
    console.print(
        f"saturation {said.saturation:,.0f} answers/s from {CALLERS} callers; then {said.answered:,} right answers in "
        f"{said.seconds:.0f} s ({said.answered / said.seconds:,.0f}/s, p99 {said.p99_ms:.1f} ms); "
        f"failed {said.failed}, wrong {said.wrong}",
        highlight=False,
    )
    console.print(
        f"{said.deployments} {changes} under load; "
        f"the slowest was served by every worker after {said.slowest_deployment_s:.2f} s"
    )
    for reason in (*said.reasons, *said.restarts):
        console.print(f"  {reason}", markup=False)
    growth = said.growth(warm_up_s)
    for pid, (before, after) in growth.items():
        share = after / before - 1
        console.print(f"process {pid}: {after / 1e6:.0f} MB resident, {share:+.1%} after {warm_up_s:.0f} s")
    if not growth:
        console.print("memory: too short a time, or a system that does not tell")
        return said.is_clean
    before, after = (sum(pair[side] for pair in growth.values()) for side in (0, 1))
    grown = after / before - 1
    is_met = grown <= MEMORY_BAR
    console.print(
        f"[bold]all processes: {after / 1e6:.0f} MB, {grown:+.1%}[/bold], "
        f"bar ≤ {MEMORY_BAR:.0%}: {'met' if is_met else 'not met'}"
    )
    return said.is_clean and is_met


# --- neighbours -----------------------------------------------------------------------------------------------------


def neighbours(
    work: Work, seconds: float, kinds: tuple[str, ...] = tuple(hostile.KINDS), turns: int = TURNS
) -> list[Felt]:
    """Another caller's 99th percentile without and with each neighbour, in turns."""
    found = []
    with modelyard({work.endpoint: {1: work.digest}}, [work.shelf]) as gateway:
        for kind in kinds:
            felt = Felt(kind)
            for _ in range(turns):
                felt.alone_ms.append(_probe(gateway, work, seconds, felt))
                with _neighbour(gateway, kind, felt):
                    felt.meanwhile_ms.append(_probe(gateway, work, seconds, felt))
            found.append(felt)
    return found


@contextlib.contextmanager
def _neighbour(gateway: Gateway, kind: str, felt: Felt) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.hostile", kind, str(gateway.port), gateway.neighbours_key]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{kind}: the neighbour did not begin")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            said = json.loads(process.communicate(timeout=30)[0] or "{}")
        except subprocess.TimeoutExpired:
            process.kill()
            said = json.loads(process.communicate()[0] or "{}")
        for answer, count in said.items():
            felt.answers[answer] = felt.answers.get(answer, 0) + count


def _probe(gateway: Gateway, work: Work, seconds: float, felt: Felt) -> float:
    async def probe() -> Tally:
        tally = Tally()
        judge = judge_by(work.expected["modelyard"], work.output)
        callers = [Caller(gateway, work, judge, tally, first=number, keep=True) for number in range(PROBES)]
        for number, caller in enumerate(callers):
            await caller.start(PROBE_EVERY_S, PROBE_EVERY_S * number / PROBES)
        await asyncio.sleep(seconds)
        await asyncio.gather(*(caller.stop() for caller in callers))
        for caller in callers:
            caller.close()
        return tally

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(probe())
    felt.failed += tally.failed + tally.wrong
    return tally.p99_ms()


def tell_neighbours(console: Console, found: list[Felt]) -> bool:
    """Print what another caller felt; whether each is within the bar."""
    for felt in found:
        is_met = felt.ratio <= NEIGHBOUR_BAR and not felt.failed
        said = ", ".join(f"{answer} × {count:,}" for answer, count in felt.answers.items()) or "nothing"
        console.print(
            f"{felt.kind}: another caller's p99 {statistics.median(felt.alone_ms):.2f} ms alone, "
            f"{statistics.median(felt.meanwhile_ms):.2f} ms meanwhile, [bold]ratio {felt.ratio:.2f}[/bold], "
            f"bar ≤ {NEIGHBOUR_BAR:g}: {'met' if is_met else 'not met'}; "
            f"its calls that failed {felt.failed}; the neighbour was answered {said}",
            highlight=False,
        )
    return all(felt.ratio <= NEIGHBOUR_BAR and not felt.failed for felt in found)
