"""One round of load: `wrk` sends the requests, its own summary and the processors' time are read."""

from __future__ import annotations

import resource
import shutil
import subprocess
from pathlib import Path

import msgspec

from benchmarks.check import Sampler
from benchmarks.processes import cpu_seconds
from benchmarks.server import Server
from benchmarks.work import Work

SCRIPT = Path(__file__).parent / "requests.lua"
MARK = "BENCH "


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the load generator says of a round."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    not_2xx: int
    broken: int  # connections that failed, reads, writes, time-outs


class Round(msgspec.Struct, frozen=True):
    """One round of load on one system."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    generator_cores: float  # the load generator's processor time for each second of the round
    server_us: float | None  # the server's processor time for each request; None where it cannot be read
    sampled: int = 0  # answers that were compared meanwhile, all of them right


class LoadFailed(Exception):
    """The load generator did not do its work."""


def has_wrk() -> bool:
    """Whether the load generator is there."""
    return shutil.which("wrk") is not None


def parse(output: str) -> Summary:
    """The summary in what `wrk` printed. Raises LoadFailed if there is none."""
    for line in output.splitlines():
        if line.startswith(MARK):
            return msgspec.json.decode(line[len(MARK) :].encode(), type=Summary)
    raise LoadFailed(f"wrk said nothing of its round: {output.strip()[-300:]!r}")


def load(server: Server, work: Work, connections: int, seconds: float) -> Round:
    """Load one server for so long over so many keep-alive connections; samples of its answers are compared."""
    asked = work.asked(server.dialect)
    with Sampler(server, work) as sampler:
        found = drive(server, asked.path, asked.requests, connections, seconds)
    return msgspec.structs.replace(found, sampled=sampler.answered)


def drive(server: Server, path: str, requests: Path, connections: int, seconds: float) -> Round:
    """The same for any file of bodies, one a line; a line may begin with a path of its own and a tab."""
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "10s"]
    for name, value in server.headers.items():
        command += ["-H", f"{name}: {value}"]
    command += ["-s", str(SCRIPT), server.url + path, "--", str(requests)]
    served, made = cpu_seconds(server.pids()), _own_children()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise LoadFailed(f"wrk ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    said = parse(done.stdout)
    after = cpu_seconds(server.pids())
    used = None if served is None or after is None else (after - served) / max(1, said.requests) * 1e6
    return Round(
        per_second=said.requests / said.seconds,
        p50_ms=said.p50_ms,
        p99_ms=said.p99_ms,
        errors=said.not_2xx + said.broken,
        generator_cores=(_own_children() - made) / said.seconds,
        server_us=used,
    )


def _own_children() -> float:
    """Processor seconds of this process's ended children; the servers are still alive, so it is the generator's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
