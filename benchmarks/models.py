"""How cost grows with planned models: listing, publication, start, memory, a call. `python -m benchmarks models`.

The control plane's own tables hold them all; the gateway has a budget (`resident_bytes`), so that versions load when
they are called. Ours alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
from rich.console import Console

from benchmarks.bench import machine
from benchmarks.document import between, table, where
from benchmarks.report import Figures
from benchmarks.server import WORKERS
from benchmarks.work import Work, credit1
from modelyard.contract.home import Home
from modelyard.contract.memory import resident_bytes
from modelyard.contract.plan import GatewayState

COUNTS = (1, 10, 100, 1_000)
BUDGET_BYTES = 100_000_000
PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "many-models.md"

FILL = """
import sys
from pathlib import Path
from msgspec.structs import replace
from modelyard.artifacts.store import Shelf
from modelyard.control.setup import start
home = Path(start().home)
from django.db import transaction
from modelyard.control.deployments.models import Deployment, Endpoint
from modelyard.control.deployments.publish import request_publication
from modelyard.control.registry.models import Model, Version
count, source, digest = int(sys.argv[1]), Shelf(Path(sys.argv[2])), sys.argv[3]
artifact, shelf = source.open(digest), Shelf(home / "shelf")
files = {name: artifact.read(name) for name in artifact.manifest.files}
with transaction.atomic():
    for at in range(count):
        model = Model.objects.create(name=f"small{at}")
        versions = [
            Version.objects.create(
                model=model, number=number, task=artifact.manifest.task, framework=artifact.manifest.framework,
                contract_digest="0" * 64, created_by="bench",
                digest=shelf.put(replace(artifact.manifest, model=model.name, created_at=str(number)), files),
            )
            for number in (1, 2)
        ]
        endpoint = Endpoint.objects.create(name=model.name, model=model)
        Deployment.objects.create(endpoint=endpoint, version=versions[0], weight=100)
    request_publication()
"""

CHANGE = """
import json, sys, time
from modelyard.control.setup import active_home, start
start()
from modelyard.control.deployments.models import Publication
from modelyard.control.deployments.services import deploy
from modelyard.control.deployments.wait import wait_until_served
took = []
for version in (2, 1, 2, 1, 2):
    began = time.perf_counter()
    deploy("small0", version, by="bench")
    committed = time.perf_counter()
    wait_until_served(active_home(), Publication.objects.get(pk=1).committed, 60)
    took.append((committed - began, time.perf_counter() - began))
print(json.dumps(took))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--at-most", type=int, default=1_000, help="models (1,000)")
    parser.add_argument("--calls", type=int, default=2_000, help="of one model, one after the other (2,000)")
    parser.add_argument("--publish", action="store_true", help="write the table to docs/how-to/many-models.md")


def run(console: Console, given: argparse.Namespace) -> int:
    """Measure and tell; the exit status."""
    work = credit1(trees=5)
    rows = []
    for count in (count for count in COUNTS if count <= given.at_most):
        with tempfile.TemporaryDirectory(prefix="modelyard-models-", ignore_cleanup_errors=True) as folder:
            rows.append(measured(Path(folder) / "home", work, count, given.calls))
        console.print(", ".join(f"{name} {value:,.4g}" for name, value in rows[-1].items()), highlight=False)
    grown = rows[-1]["a call, p50 ms"] / rows[0]["a call, p50 ms"]
    console.print(f"[bold]a call of one model among {rows[-1]['models']:,.0f}: {grown:.2f} × alone[/bold]")
    if given.publish:
        figures = Figures(machine(), time.strftime("%Y-%m-%d", time.gmtime()))
        cells = [tuple(f"{value:,.4g}" for value in row.values()) for row in rows]
        between(PAGE, "models", "\n\n".join([where(figures), table(tuple(rows[0]), cells)]))
    return 0


def measured(home: Path, work: Work, count: int, calls: int) -> dict[str, float]:
    """One row of the table."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
    environment |= {
        "MODELYARD_HOME": str(home), "MODELYARD_GATEWAY_PORT": "0", "MODELYARD_GRPC_PORT": "0",
        "MODELYARD_WORKERS": str(WORKERS), "MODELYARD_LOG_LEVEL": "warning",
        "MODELYARD_RESIDENT_BYTES": str(BUDGET_BYTES),
    }  # fmt: skip
    python(environment, FILL, str(count), str(work.shelf.folder), work.digest)
    listing = timed(environment, "models", "list", "--json")
    began = time.perf_counter()
    with gateway(home, environment) as state:
        start = time.perf_counter() - began
        idle = sum(resident_bytes(worker.pid) or 0 for worker in state.workers)
        one = [asked(state.url, f"small{count // 2}", work, calls) for _ in range(3)]
        first = [asked(state.url, f"small{at}", work, 1)[0] for at in range(0, count, max(1, count // 50))]
        changes = json.loads(python(environment, CHANGE))
        whole = sum(resident_bytes(worker.pid) or 0 for worker in state.workers)
    return {
        "models": float(count),
        "list all, s": listing,
        "plan written, s": statistics.median(written for written, _ in changes),
        "served by every worker, s": statistics.median(served for _, served in changes),
        "gateway start, s": start,
        "workers at start, MB": idle / 1e6,
        "workers after, MB": whole / 1e6,
        "first call, p50 ms": statistics.median(first),
        "a call, p50 ms": statistics.median(statistics.median(times) for times in one),
    }


def asked(url: str, name: str, work: Work, calls: int) -> list[float]:
    """Milliseconds of so many calls over one connection."""
    took = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for at in range(calls):
            body = work.bodies[at % len(work.bodies)]
            began = time.perf_counter()
            answer = client.post(f"/v2/models/{name}/infer", content=body)
            took.append((time.perf_counter() - began) * 1e3)
            answer.raise_for_status()
    return took


def python(environment: dict[str, str], program: str, *words: str) -> str:
    """What a program in a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def timed(environment: dict[str, str], *words: str) -> float:
    """Seconds that a command takes."""
    command = [str(Path(sys.executable).with_name("modelyard")), *words]
    began = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


@contextlib.contextmanager
def gateway(home: Path, environment: dict[str, str]) -> Iterator[GatewayState]:
    """A gateway that serves the home's plan with every worker."""
    place = Home(home)
    with open(home / "gateway.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard.serve.fleet"], env=environment, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
                state = msgspec.json.decode(place.gateway_state.read_bytes(), type=GatewayState)
                if len(state.workers) == WORKERS and all(worker.revision for worker in state.workers):
                    yield state
                    return
            time.sleep(0.01)
        raise SystemExit((home / "gateway.log").read_text())
    finally:
        process.terminate()
        process.wait(60)
