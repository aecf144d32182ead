"""Every work beside every rival, in rounds that take turns; starts and memory, each system alone. `make bench`.

Names of works and systems may be given; with none, everything is measured, in about fifteen minutes.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import gateway, rivals
from benchmarks.check import WrongAnswer, differs, expected_of, verify
from benchmarks.document import publish
from benchmarks.load import LoadFailed, Round, has_wrk, load
from benchmarks.processes import cpu_seconds
from benchmarks.report import ALONE, BAR, OFF, OURS, Figures, Measured, Started, show
from benchmarks.server import POLL_S, Server, StartFailed
from benchmarks.work import Work, credit1, credit32, minilm, mixed, noop

WORKS: dict[str, tuple[Callable[[], Work], tuple[int, ...]]] = {  # name -> how it is made, and connections
    "credit1": (credit1, (64, 1)),
    "credit32": (credit32, (16,)),
    "minilm": (minilm, (16,)),
    "mixed": (mixed, (64,)),
    "noop": (noop, (64,)),
}
SYSTEMS = {
    "off": OFF,
    "triton": "Triton, Python backend",
    "mlserver": "MLServer",
    "bentoml": "BentoML",
    "litserve": "LitServe",
    "kserve": "KServe SDK",
    "tuned": "FastAPI tuned",
    "usual": "FastAPI as usual",
    "sklearn": "FastAPI + sklearn",
}
START = "start"
FAILURES = (WrongAnswer, StartFailed, LoadFailed)
WARM_UP_S = 1.0
RESULTS = Path(__file__).parent / "results" / "figures.json"

Starter = Callable[[], AbstractContextManager[Server]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help=f"works: {', '.join(WORKS)}, {START}; systems beside ours: {', '.join(SYSTEMS)}",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (3)")
    parser.add_argument("--rounds", type=int, default=5, help="of each system (5)")
    parser.add_argument("--starts", type=int, default=2, help="of each system, for `start` (2)")
    parser.add_argument("--no-rivals", action="store_true", help="ours alone; prints no ratio")
    parser.add_argument("--publish", action="store_true", help="write table and plots to docs/reference")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="where everything measured goes")


def run(console: Console, given: argparse.Namespace) -> int:
    """Measure and tell; the exit status."""
    if unknown := set(given.names) - {*WORKS, *SYSTEMS, START}:
        console.print(f"{', '.join(sorted(unknown))}: name {', '.join((*WORKS, START, *SYSTEMS))}")
        return 2
    if not has_wrk():
        console.print("wrk is not installed; `make bench` installs it where it may, else: scripts/apt wrk")
        return 2
    names = list(dict.fromkeys(given.names))
    chosen = [name for name in names if name in WORKS or name == START] or [*WORKS, START]
    beside = [SYSTEMS[name] for name in names if name in SYSTEMS] or list(SYSTEMS.values())
    works = {name: WORKS[name][0]() for name in WORKS if name in chosen}
    systems = _systems(works, [] if given.no_rivals else beside)
    figures = Figures(machine(), datetime.now(UTC).date().isoformat())
    if START in chosen:
        _starts(console, figures, given.starts, [] if given.no_rivals else beside)
    figures.limits = {name: work.limits() for name, work in works.items()}
    _loads(console, figures, works, systems, given)
    show(console, figures)
    figures.write(given.json)
    console.print(f"everything measured: {given.json}", highlight=False)
    if given.publish:
        publish(figures)
    return 1 if figures.errors or figures.failed else 0


def machine() -> dict[str, str]:
    """What was measured on, without its name."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((int(line.split()[1]) >> 20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "processor": model,
        "memory": f"{memory} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []


# --- systems --------------------------------------------------------------------------------------------------------


def _systems(works: dict[str, Work], beside: list[str]) -> dict[str, Starter]:
    """How each system is started that can do any of these works; ours first."""
    graphs = [work for name, work in works.items() if name in ("credit1", "minilm", "noop")]
    if "credit32" in works and "credit1" not in works:
        graphs.append(credit1())
    pipeline = works["mixed"].folder / "pipeline.joblib" if "mixed" in works else None
    versions = {work.endpoint: {1: work.digest} for work in works.values()}
    shelves = [work.shelf for work in works.values()]
    found: dict[str, Starter] = {OURS: lambda: gateway.modelyard(versions, shelves)}
    if graphs and OFF in beside:
        found[OFF] = lambda: gateway.ungoverned(versions, shelves)
    for name, starter in rivals.rivals(graphs, pipeline).items():
        if name in beside and (graphs or name == SYSTEMS["sklearn"]):
            found[name] = starter
    return found


def _can(server: Server, work: Work) -> bool:
    """Whether it is compared on this work: it serves it, and on `mixed` only with what governs or is asked for it."""
    return work.endpoint in server.endpoints and not (server.name == OFF and work.name == "mixed")


# --- starts and memory ----------------------------------------------------------------------------------------------


def _starts(console: Console, figures: Figures, rounds: int, beside: list[str]) -> None:
    """Each system alone, three models: seconds to the first right answer, and memory when all have answered."""
    works = {"credit1": credit1(), "minilm": minilm(), "noop": noop()}
    systems = {name: how for name, how in _systems(works, beside).items() if name != OFF}
    found = {name: Started(name, [], []) for name in systems}
    for number in range(rounds):
        for name, how in systems.items():
            if name not in found:
                continue
            try:
                with how() as server:
                    found[name].seconds.append(_first_answer(server, works["credit1"]))
                    for work in works.values():
                        verify(server, work, expected_of(server, work))
                    if (memory := server.memory()) is not None:
                        found[name].memory.append(memory)
            except FAILURES as error:
                _drop(figures, name, error)
                del found[name]
                continue
            console.print(f"start {number + 1} of {rounds}: {name}: {found[name].seconds[-1]:.2f} s", highlight=False)
    figures.started = list(found.values())


def _drop(figures: Figures, name: str, error: Exception) -> None:
    """A rival that fails is told of and left out; without ours there is nothing to compare."""
    if name == OURS:
        raise error
    figures.failed.append(str(error))


def _first_answer(server: Server, work: Work) -> float:
    """Seconds from its start to its first right answer."""
    asked, right = work.asked(server.dialect), expected_of(server, work)[0]
    reasons = ["no answer"]

    def is_right() -> bool:
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            line.request("POST", asked.path, asked.bodies[0], server.headers)
            reply = line.getresponse()
            reasons.append(differs(reply.status, reply.read(), right, work.output) or "")
        except (OSError, http.client.HTTPException) as error:
            reasons.append(repr(error))
        finally:
            line.close()
        return not reasons[-1]

    until = time.monotonic() + 30
    while not is_right():
        if time.monotonic() > until:
            raise WrongAnswer(f"{server.name}, {work.name}: {reasons[-1]}")
        time.sleep(POLL_S)
    return time.monotonic() - server.began


# --- loads ----------------------------------------------------------------------------------------------------------


def _loads(
    console: Console, figures: Figures, works: dict[str, Work], systems: dict[str, Starter], given: argparse.Namespace
) -> None:
    """Every work on every system that serves it, all of them up, so that rounds can take turns."""
    if not works:
        return
    with ExitStack() as stack:
        servers = []
        for name, start in systems.items():
            try:
                servers.append(stack.enter_context(start()))
            except FAILURES as error:
                _drop(figures, name, error)
        console.print(f"up: {', '.join(server.name for server in servers)}", highlight=False)
        console.print(f"while idle, all of them together use {_idle_cores(servers):.2f} cores", highlight=False)
        for name, work in works.items():
            mine = _right(console, figures, [server for server in servers if _can(server, work)], work)
            for connections in WORKS[name][1]:
                figures.measured += _take_turns(figures, mine, work, connections, given.rounds, given.seconds)
                console.print(f"{name} c{connections}: measured", highlight=False)


def _idle_cores(servers: list[Server], seconds: float = 2.0) -> float:
    """Processor time a second that they use while nobody asks them: what each takes from the one that is measured."""
    before = cpu_seconds([pid for server in servers for pid in server.pids()]) or 0.0
    time.sleep(seconds)
    return ((cpu_seconds([pid for server in servers for pid in server.pids()]) or 0.0) - before) / seconds


def _right(console: Console, figures: Figures, servers: list[Server], work: Work) -> list[Server]:
    """Those of them whose every answer is right."""
    found = []
    for server in servers:
        try:
            right = verify(server, work, expected_of(server, work))
        except FAILURES as error:
            _drop(figures, server.name, error)
            continue
        console.print(f"{work.name}: {server.name}: {right} of {right} answers right", highlight=False)
        found.append(server)
    return found


def _take_turns(
    figures: Figures, servers: list[Server], work: Work, connections: int, rounds: int, seconds: float
) -> list[Measured]:
    """Rounds that take turns: a machine that drifts, drifts for all. The first is a warm-up and is not kept."""
    turns: dict[str, Callable[[float], Round]] = {
        server.name: lambda seconds, server=server: load(server, work, connections, seconds)  # type: ignore[misc]
        for server in servers
    }
    if ALONE in BAR.get((work.name, connections), {}):
        turns[ALONE] = lambda seconds: Round(work.all_cores(seconds) / work.rows, 0.0, 0.0, 0, 0.0, None)
    found: dict[str, list[Round]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name in list(found):
            try:
                one = turns[name](seconds if number else WARM_UP_S)
            except FAILURES as error:
                _drop(figures, name, error)
                del found[name]
                continue
            if number:
                found[name].append(one)
    return [Measured(work.name, connections, name, mine) for name, mine in found.items()]
