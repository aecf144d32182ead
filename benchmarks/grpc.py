"""gRPC: credit1 at 64 connections, h2load against ours and against Triton's own. `python -m benchmarks grpc`."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import gateway, rivals
from benchmarks.bench import RESULTS, machine
from benchmarks.check import WrongAnswer, expected_of
from benchmarks.load import LoadFailed, Round
from benchmarks.processes import cpu_seconds
from benchmarks.report import Figures
from benchmarks.server import Server
from benchmarks.work import Work, credit1

METHOD = "/inference.GRPCInferenceService/ModelInfer"
NATIVE_TO_PYTHON = 1.6  # measured apart: native Triton answers 1.5 to 1.75 times what its Python backend does
BAR = 0.15  # of native Triton; the goal is 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round (4)")
    parser.add_argument("--rounds", type=int, default=5, help="of each system (5)")
    parser.add_argument("--connections", type=int, default=64, help="with one call at a time on each (64)")
    parser.add_argument("--no-rivals", action="store_true", help="ours alone; prints no ratio")
    parser.add_argument("--json", type=Path, default=RESULTS.with_name("grpc.json"), metavar="FILE")


def run(console: Console, given: argparse.Namespace) -> int:
    """Measure and tell; the exit status."""
    if shutil.which("h2load") is None:
        console.print("h2load is not installed; it is in Debian's nghttp2-client: scripts/apt nghttp2-client")
        return 2
    work = credit1()
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        ours: list[Server] = [stack.enter_context(gateway.modelyard({work.endpoint: {1: work.digest}}, [work.shelf]))]
        servers = ours if given.no_rivals else [*ours, stack.enter_context(rivals.triton([work]))]
        loads = [Load(server, work, Path(folder)) for server in servers]
        for one in loads:
            console.print(f"{one.server.name}: {len(work.bodies)} answers right over gRPC", highlight=False)
        rounds: list[list[Round]] = [[] for _ in loads]
        for number in range(given.rounds + 1):
            for one, mine in zip(loads, rounds, strict=True):
                found = one.round(given.connections, given.seconds if number else 1.0)
                if number:
                    mine.append(found)
    figures = Figures(machine(), datetime.now(UTC).date().isoformat())
    for one, mine in zip(loads, rounds, strict=True):
        said: dict[str, float | str] = {
            "system": one.server.name,
            "connections": float(given.connections),
            "requests/s": statistics.median(r.per_second for r in mine),
            "p50 ms": statistics.median(r.p50_ms for r in mine),
            "p99 ms": statistics.median(r.p99_ms for r in mine),
            "errors": float(sum(r.errors for r in mine)),
        }
        figures.grpc.append(said)
        console.print(
            f"{said['system']}: {said['requests/s']:,.0f} calls/s, p50 {said['p50 ms']:.2f} ms, "
            f"p99 {said['p99 ms']:.2f} ms, {said['errors']:.0f} errors",
            highlight=False,
        )
    if len(rounds) == 2:
        each = [mine.per_second / other.per_second for mine, other in zip(*rounds, strict=True)]
        middle = statistics.median(each)
        native = middle / NATIVE_TO_PYTHON
        console.print(
            f"[bold]gRPC credit1 c{given.connections}: {middle:.2f} × Triton's Python backend[/bold] "
            f"({min(each):.2f}-{max(each):.2f} over the rounds); about {native:.2f} × native Triton, "
            f"bar ≥ {BAR}: {'met' if native >= BAR else 'not met'}"
        )
    figures.write(given.json)
    return 1 if any(one.errors for mine in rounds for one in mine) else 0


class Load:
    """One server under h2load, which sends one request's bytes again and again; all are verified before."""

    def __init__(self, server: Server, work: Work, folder: Path) -> None:
        self.server = server
        self._data = folder / f"{server.grpc_port}.bytes"
        self._log = folder / f"{server.grpc_port}.log"
        asked = folder / f"{server.grpc_port}.json"
        self._key = server.headers.get("Authorization", "").removeprefix("Bearer ")
        said = {"endpoint": work.endpoint, "output": work.output, "bodies": work.bodies, "key": self._key}
        asked.write_text(json.dumps(said | {"answers": expected_of(server, work)}), "utf-8")
        program = rivals.FOLDER / "grpc_probe.py"
        command = [str(rivals.python_of("triton")), str(program), f"127.0.0.1:{server.grpc_port}"]
        done = subprocess.run([*command, str(asked), str(self._data)], capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise WrongAnswer(f"{server.name}, gRPC: {done.stderr.strip()[-500:]}")
        self._answer_bytes = 5 + int(done.stdout)

    def round(self, connections: int, seconds: float) -> Round:
        """One round. An answer that is smaller than the right one counts as an error: gRPC's own are HTTP's 200."""
        self._log.unlink(missing_ok=True)
        command = ["h2load", "-c", str(connections), "-m", "1", "-t", "1", "-D", str(max(1, round(seconds)))]
        command += ["-d", str(self._data), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += ["--log-file", str(self._log)]
        if self._key:
            command += ["-H", f"authorization: Bearer {self._key}"]
        served = cpu_seconds(self.server.pids())
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{self.server.grpc_port}{METHOD}"],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
        if done.returncode:
            raise LoadFailed(f"h2load ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        after = cpu_seconds(self.server.pids())
        said = parse(done.stdout)
        latencies = sorted(int(line.split()[2]) / 1e3 for line in self._log.read_text("utf-8").splitlines())
        if not latencies:
            raise LoadFailed(f"{self.server.name}: h2load had no answer")
        too_small = max(0, round(said.done - said.data_bytes / self._answer_bytes))
        return Round(
            per_second=said.per_second,
            p50_ms=latencies[len(latencies) // 2],
            p99_ms=latencies[int(len(latencies) * 0.99)],
            errors=said.failed + (too_small if too_small > said.done // 1000 else 0),
            generator_cores=0.0,
            server_us=None if served is None or after is None else (after - served) / max(1, said.done) * 1e6,
        )


class Summary:
    """What h2load printed of a round."""

    def __init__(self, done: int, failed: int, per_second: float, data_bytes: int) -> None:
        self.done, self.failed, self.per_second, self.data_bytes = done, failed, per_second, data_bytes


def parse(output: str) -> Summary:
    """Raises LoadFailed if it is no summary."""
    rate = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", output)
    requests = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    data = re.search(r"\((\d+)\) data", output)
    if rate is None or requests is None or data is None:
        raise LoadFailed(f"h2load said nothing of its round: {output.strip()[-300:]!r}")
    done, _, failed, errored, late = map(int, requests.groups())
    return Summary(done, failed + errored + late, float(rate[1]), int(data[1]))
