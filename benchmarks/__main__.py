"""`make bench` and `make soak`: measure, print, and refuse to compare systems that answer wrongly."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.check import WrongAnswer, verify
from benchmarks.load import LoadFailed, Round, has_wrk, load
from benchmarks.report import Measured, as_json, show
from benchmarks.server import Server, StartFailed, modelyard, uvicorn
from benchmarks.soak import soak, tell
from benchmarks.work import Work, credit1, mixed

WORKS: dict[str, Callable[[], Work]] = {"credit1": credit1, "mixed": mixed}
RIVALS = {  # work -> (name, module in benchmarks/rivals, the model that it loads)
    "credit1": (("FastAPI as usual", "credit1_usual", "model.onnx"), ("FastAPI tuned", "credit1_tuned", "model.onnx")),
    "mixed": (("FastAPI + sklearn", "mixed_usual", "pipeline.joblib"),),
}
CONNECTIONS = 64
WARM_UP_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    """0: measured and all answers right; 1: something was wrong or failed; 2: cannot run here."""
    parser = _parser()
    given = parser.parse_args(arguments)
    given.works = given.works or list(WORKS)
    if given.works != ["soak"] and (unknown := set(given.works) - set(WORKS)):
        parser.error(f"{', '.join(sorted(unknown))}: name {', '.join(WORKS)}, or soak alone")
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        return _soak(console, given) if given.works == ["soak"] else _bench(console, given)
    except (WrongAnswer, StartFailed, LoadFailed) as error:
        console.print(f"[bold red]no figures[/bold red]: {error}", highlight=False)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(WORKS)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"{names} (all if none is named), or soak alone")
    parser.add_argument("--seconds", type=float, help="of each round (4), or of the soak (60)")
    parser.add_argument("--rounds", type=int, default=3, help="of each system (3)")
    parser.add_argument("--full", action="store_true", help="one connection as well as 64")
    parser.add_argument("--no-rivals", action="store_true", help="ours alone; prints no ratio")
    parser.add_argument("--every", type=float, default=10.0, help="soak: seconds between deployments (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured")
    return parser


# --- bench ----------------------------------------------------------------------------------------------------------


def _bench(console: Console, given: argparse.Namespace) -> int:
    if not has_wrk():
        console.print("wrk is not installed; `make bench` installs it where it may, else: scripts/apt wrk")
        return 2
    works = [WORKS[name]() for name in dict.fromkeys(given.works)]
    limits = {work.name: work.limit_us() for work in works}
    measured: list[Measured] = []
    for work in works:
        with _systems(work, alone=given.no_rivals) as servers:
            for server in servers:
                right = verify(server, work, work.expected["modelyard" if server is servers[0] else "rival"])
                console.print(f"{work.name}: {server.name}: {right} of {right} answers right")
            for connections in (1, CONNECTIONS) if given.full else (CONNECTIONS,):
                measured += _measure(servers, work, connections, given.rounds, given.seconds or 4.0)
    show(console, measured, limits)
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    if given.json:
        given.json.write_bytes(as_json(measured, limits, machine))
    if errors := sum(one.errors for one in measured):
        console.print(f"[bold red]{errors} errors[/bold red]: systems with errors are compared with nothing")
    return 1 if errors else 0


@contextmanager
def _systems(work: Work, alone: bool) -> Iterator[list[Server]]:
    """Ours first, then its rivals; all stay up, so that rounds can take turns."""
    wanted: list[AbstractContextManager[Server]] = [modelyard({work.endpoint: {1: work.digest}}, [work.shelf])]
    if not alone:
        wanted += [uvicorn(name, module, work.folder / model) for name, module, model in RIVALS[work.name]]
    with ExitStack() as stack:
        yield [stack.enter_context(system) for system in wanted]


def _measure(servers: list[Server], work: Work, connections: int, rounds: int, seconds: float) -> list[Measured]:
    """Rounds that take turns: a machine that drifts, drifts for all."""
    for server in servers:
        load(server, work.path, work.requests, connections, WARM_UP_S)
    found: list[list[Round]] = [[] for _ in servers]
    for _ in range(rounds):
        for server, mine in zip(servers, found, strict=True):
            mine.append(load(server, work.path, work.requests, connections, seconds))
    return [Measured(work.name, connections, server.name, mine) for server, mine in zip(servers, found, strict=True)]


# --- soak -----------------------------------------------------------------------------------------------------------


def _soak(console: Console, given: argparse.Namespace) -> int:
    seconds = given.seconds or 60.0
    changing = (credit1(), credit1(seed=8))
    said = soak(changing, [mixed()], seconds, given.every)
    warm_up_s = max(seconds / 3, min(2 * given.every, seconds / 2))
    tell(console, said, warm_up_s)
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(said)) + b"\n")
    return 0 if said.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
