"""What a shadow costs those who are answered: their latencies with and without one, in turns, at a share of saturation.

The shadow is the answering version itself and gets every call. Each answer is compared with the one that is right.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from benchmarks.bench import RESULTS
from benchmarks.caller import Caller, Tally, judge_by
from benchmarks.gateway import Gateway, Traffic, modelyard
from benchmarks.processes import cpu_seconds
from benchmarks.work import Work, credit1, minilm
from modelyard.contract.counters import all_series
from modelyard.contract.plan import Shadow, TrafficSplit

CALLERS = 32
WORKS = {"credit1": credit1, "minilm": minilm}
QUIET_S = 6.0  # after a turn with a shadow: copies that wait still have gone by then
ALONE, SHADOWED = Traffic(TrafficSplit({1: 100})), Traffic(TrafficSplit({1: 100}), Shadow(2))


class Measured(msgspec.Struct):
    """One work: the turns' latencies in milliseconds, and what became of the copies."""

    work: str
    rate: float = 0.0  # calls a second
    p50_alone: list[float] = []
    p50_shadowed: list[float] = []
    p99_alone: list[float] = []
    p99_shadowed: list[float] = []
    us_alone: list[float] = []  # of the gateway's processors, for each answered call
    us_shadowed: list[float] = []
    answered: int = 0
    failed: int = 0
    wrong: int = 0
    copies: dict[str, int] = {}  # compared, differing, dropped, failed

    @property
    def ratio(self) -> float:
        """Of the 99th percentiles: the median over the turns."""
        return statistics.median(
            after / before for before, after in zip(self.p99_alone, self.p99_shadowed, strict=True)
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("works", nargs="*", choices=[*WORKS, []], help="which (credit1)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn (5)")
    parser.add_argument("--turns", type=int, default=7, help="with and without (7 each)")
    parser.add_argument("--share", type=float, default=0.5, help="of saturation, which is measured first (0.5)")
    parser.add_argument("--json", type=Path, default=RESULTS.with_name("shadows.json"), metavar="FILE")


def run(console: Console, given: argparse.Namespace) -> int:
    """Measure and tell; the exit status."""
    found = [measure(WORKS[name](), given.seconds, given.turns, given.share) for name in given.works or ["credit1"]]
    for one in found:
        tell(console, one)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return int(any(one.failed or one.wrong or not one.copies.get("compared") for one in found))


def measure(work: Work, seconds: float, turns: int, share: float) -> Measured:
    """Both in turns, on one gateway."""
    held = {work.endpoint: {1: work.digest, 2: work.digest}}
    with modelyard(held, [work.shelf]) as gateway, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(gateway, held, work, seconds, turns, share))


async def _measure(
    gateway: Gateway, held: dict[str, dict[int, str]], work: Work, seconds: float, turns: int, share: float
) -> Measured:
    found = Measured(work.name)
    await _follow(gateway, held, work, ALONE)
    saturated = await _turn(gateway, work, seconds / 2)
    saturated = await _turn(gateway, work, seconds)
    found.rate = share * saturated.answered / seconds
    for _ in range(turns):
        for traffic, p50, p99, us in (
            (ALONE, found.p50_alone, found.p99_alone, found.us_alone),
            (SHADOWED, found.p50_shadowed, found.p99_shadowed, found.us_shadowed),
        ):
            await _follow(gateway, held, work, traffic)
            before = cpu_seconds(gateway.pids()) or 0.0
            tally = await _turn(gateway, work, seconds, CALLERS / found.rate)
            us.append(((cpu_seconds(gateway.pids()) or 0.0) - before) / tally.answered * 1e6)
            kept = sorted(tally.latencies)
            p50.append(kept[len(kept) // 2] * 1e3)
            p99.append(tally.p99_ms())
            found.answered += tally.answered
            found.failed += tally.failed
            found.wrong += tally.wrong
    await asyncio.sleep(QUIET_S)
    for _, name, _, values in all_series(gateway.home.run / "counters"):
        kind = name.removeprefix("modelyard_shadow_")
        if kind in ("compared", "differing", "dropped", "failed"):
            found.copies[kind] = found.copies.get(kind, 0) + values[0]
    return found


async def _follow(gateway: Gateway, held: dict[str, dict[int, str]], work: Work, traffic: Traffic) -> None:
    revision = gateway.publish(held, {work.endpoint: traffic})
    until = time.monotonic() + 30.0
    while not gateway.serves(revision) and time.monotonic() < until:
        await asyncio.sleep(0.02)


async def _turn(gateway: Gateway, work: Work, seconds: float, every_s: float = 0.0) -> Tally:
    """Call for so long, each caller at this pace."""
    tally, judge = Tally(), judge_by(work.expected["modelyard"], work.output)
    callers = [Caller(gateway, work, judge, tally, first=number, keep=True) for number in range(CALLERS)]
    for number, caller in enumerate(callers):
        await caller.start(every_s, every_s * number / CALLERS)
    await asyncio.sleep(seconds)
    await asyncio.gather(*(caller.stop() for caller in callers))
    for caller in callers:
        caller.close()
    return tally


def tell(console: Console, found: Measured) -> None:
    """Print what was measured."""
    p50, p99 = (
        (statistics.median(alone), statistics.median(shadowed))
        for alone, shadowed in (
            (found.p50_alone, found.p50_shadowed),
            (found.p99_alone, found.p99_shadowed),
        )
    )
    console.print(
        f"{found.work}, {found.rate:,.0f} calls/s from {CALLERS} callers: p50 {p50[0]:.2f} ms alone, {p50[1]:.2f} ms "
        f"with a shadow of every call; p99 {p99[0]:.2f} and {p99[1]:.2f} ms, [bold]ratio {found.ratio:.2f}[/bold]; "
        f"processor {statistics.median(found.us_alone):.0f} and {statistics.median(found.us_shadowed):.0f} µs a call; "
        f"{found.answered:,} right answers, failed {found.failed}, wrong {found.wrong}; copies: "
        + ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.copies.items())),
        highlight=False,
    )
