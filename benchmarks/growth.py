"""How latency grows with endpoints, with idle connections and with rows. Ours alone. `python -m benchmarks growth`."""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.bench import RESULTS, machine
from benchmarks.check import Line, WrongAnswer, expected_of, verify
from benchmarks.document import publish_growth
from benchmarks.gateway import Gateway, modelyard
from benchmarks.load import Round, drive, has_wrk
from benchmarks.report import Figures
from benchmarks.work import Work, credit1, many_rows
from modelyard.artifacts.store import Shelf

ENDPOINTS = (1, 10, 100, 1_000)
IDLE = (1, 100, 1_000, 10_000)
ROWS = (1, 8, 32, 128, 512, 2_048)
FLAT = 1.25  # the largest over the smallest median latency, at most, to call it flat
CURVES = ("endpoints", "idle", "rows")

Point = tuple[Gateway, str, Path]  # a server, a path, and a file of bodies


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"{', '.join(CURVES)} (all if none is named)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (3)")
    parser.add_argument("--rounds", type=int, default=3, help="of each point (3)")
    parser.add_argument("--at-most", type=int, default=10_000, help="endpoints, idle connections or rows (10,000)")
    parser.add_argument("--publish", action="store_true", help="write tables and plot to docs/reference")
    parser.add_argument("--json", type=Path, default=RESULTS.with_name("growth.json"), metavar="FILE")


def run(console: Console, given: argparse.Namespace) -> int:
    """Measure and tell; the exit status."""
    if unknown := set(given.curves) - set(CURVES):
        console.print(f"{', '.join(sorted(unknown))}: name {', '.join(CURVES)}")
        return 2
    if not has_wrk():
        console.print("wrk is not installed; `make bench` installs it where it may, else: scripts/apt wrk")
        return 2
    figures = Figures(machine(), datetime.now(UTC).date().isoformat())
    for name in given.curves or CURVES:
        title, curve = {"endpoints": endpoints, "idle": idle, "rows": rows}[name](given)
        figures.growth[title] = curve
        for row in curve:
            console.print(", ".join(f"{key} {value:,.2f}" for key, value in row.items()), highlight=False)
        if name != "rows":
            medians = [row["p50 ms"] for row in curve]
            grown = max(medians) / medians[0]
            console.print(f"[bold]{title}: {grown:.2f} × the first[/bold], flat is ≤ {FLAT}")
    figures.write(given.json)
    if given.publish:
        publish_growth(figures)
    return 1 if any(row["errors"] for curve in figures.growth.values() for row in curve) else 0


# --- endpoints ------------------------------------------------------------------------------------------------------


def endpoints(given: argparse.Namespace) -> tuple[str, list[dict[str, float]]]:
    """Small models, each an endpoint of its own: requests to one of them, and requests to the next one each time."""
    work = credit1(trees=5)
    counts = [count for count in ENDPOINTS if count <= given.at_most]
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        shelf = Shelf(Path(folder) / "shelf")
        digests = _copies(shelf, work, max(counts))
        points: list[Point] = []
        for count in counts:
            versions = {f"small{number}": {1: digests[number]} for number in range(count)}
            server = stack.enter_context(modelyard(versions, [shelf]))
            for number in sorted({0, count // 2, count - 1}):
                one = msgspec.structs.replace(work, endpoint=f"small{number}", path=f"/v2/models/small{number}/infer")
                verify(server, one, expected_of(server, one))
            # As many lines as turns over bodies or endpoints, whichever are more, so that every one of both is asked.
            paths = [f"/v2/models/small{number % count}/infer" for number in range(max(count, len(work.bodies)))]
            lines = [f"{path}\t{work.bodies[at % len(work.bodies)]}" for at, path in enumerate(paths)]
            in_turn = Path(folder) / f"{count}.requests"
            in_turn.write_text("\n".join(lines) + "\n", "utf-8")
            points += [(server, paths[count // 2], work.requests), (server, "/", in_turn)]
        found = _in_turns(points, given)
    curve = []
    for count, one_of_them, each in zip(counts, found[::2], found[1::2], strict=True):
        row = {"endpoints": float(count), **_row(one_of_them)}
        row["each in turn, p50 ms"] = _row(each)["p50 ms"]
        row["errors"] += _row(each)["errors"]
        curve.append(row)
    return "endpoints", curve


def _copies(shelf: Shelf, work: Work, count: int) -> list[str]:
    """So many versions that differ by name alone."""
    artifact = work.shelf.open(work.digest)
    files = {name: artifact.read(name) for name in artifact.manifest.files}

    def put(number: int) -> str:
        return shelf.put(msgspec.structs.replace(artifact.manifest, model=f"small{number}"), files)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(put, range(count)))


# --- idle connections -----------------------------------------------------------------------------------------------


def idle(given: argparse.Namespace) -> tuple[str, list[dict[str, float]]]:
    """Keep-alive connections that asked once and then stay; one more is measured."""
    raise_open_files(2 * max(IDLE))
    work = credit1()
    counts = [count for count in IDLE if count <= given.at_most]
    versions = {work.endpoint: {1: work.digest}}
    with contextlib.ExitStack() as stack:
        servers = []
        for count in counts:
            server = stack.enter_context(
                modelyard(versions, [work.shelf], settings={"MODELYARD_IDLE_TIMEOUT_S": "3600"})
            )
            verify(server, work, expected_of(server, work))
            held = stack.enter_context(idle_connections(server.port, count - 1))
            servers.append((server, held))
        found = _in_turns([(server, work.path, work.requests) for server, _ in servers], given)
        for server, held in servers:
            line = Line(server, work, expected_of(server, work))
            line.ask(0)
            line.close()
            if closed := sum(_is_closed(one) for one in held):
                raise WrongAnswer(f"{server.name} closed {closed} of {len(held)} idle connections")
    return "idle connections", [
        {"connections": float(count), **_row(rounds)} for count, rounds in zip(counts, found, strict=True)
    ]


def raise_open_files(wanted: int) -> None:
    """As many open files as the system lets this process have; what it starts inherits them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def idle_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that were answered once and say nothing more."""
    held = []
    try:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            held.append(one)
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if b" 200 " not in one.recv(4096):
                raise WrongAnswer(f"connection {len(held)} of {count} was not answered")
        yield held
    finally:
        for one in held:
            one.close()


def _is_closed(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# --- rows -----------------------------------------------------------------------------------------------------------


def rows(given: argparse.Namespace) -> tuple[str, list[dict[str, float]]]:
    """More and more rows in a request, one connection."""
    works = [many_rows(count, requests=max(4, 200 * 8 // max(8, count))) for count in ROWS if count <= given.at_most]
    versions = {works[0].endpoint: {1: works[0].digest}}
    with modelyard(versions, [works[0].shelf]) as server:
        for work in works:
            verify(server, work, expected_of(server, work))
        found = _in_turns([(server, work.path, work.requests) for work in works], given)
    curve = []
    for work, rounds in zip(works, found, strict=True):
        row = _row(rounds)
        row["latency, µs a row"] = row["p50 ms"] * 1e3 / work.rows
        row["processor, µs a row"] = statistics.median(r.server_us or 0.0 for r in rounds) / work.rows
        curve.append({"rows": float(work.rows), **row})
    return "rows in a request", curve


# --- all ------------------------------------------------------------------------------------------------------------


def _in_turns(points: list[Point], given: argparse.Namespace) -> list[list[Round]]:
    """Rounds over one connection that take turns over the points of a curve; the first is a warm-up."""
    found: list[list[Round]] = [[] for _ in points]
    for number in range(given.rounds + 1):
        for (server, path, requests), mine in zip(points, found, strict=True):
            one = drive(server, path, requests, 1, given.seconds if number else 1.0)
            if number:
                mine.append(one)
    return found


def _row(rounds: list[Round]) -> dict[str, float]:
    return {
        "requests/s": statistics.median(r.per_second for r in rounds),
        "p50 ms": statistics.median(r.p50_ms for r in rounds),
        "p99 ms": statistics.median(r.p99_ms for r in rounds),
        "errors": float(sum(r.errors for r in rounds)),
    }
