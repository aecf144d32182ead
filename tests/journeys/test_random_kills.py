"""Two hundred deployments while processes are killed at random instants: nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from kit.gateway import until
from kit.product import Product
from modelyard.contract.plan import GatewayState

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]

MODEL = "sums"
VERSIONS = 5
DEPLOYMENTS = 200
KILLS = 16
KINDS = ("control", "runner", "parent", "worker")
DEADLINE_S = 60.0

PREPARE = """
from modelyard.control.setup import start
from pathlib import Path
import sys
settings = start()
from kit.graphs import heavy, store_graph
from modelyard.artifacts.store import Shelf
from modelyard.control.registry.services import register_version
from modelyard.control.accounts.services import create_token, ensure_admin
from django.contrib.auth import get_user_model
shelf = Shelf(Path(settings.home) / "shelf")
for number in range(1, int(sys.argv[1]) + 1):
    digest = store_graph(shelf, heavy(float(number), 1), "sums", "matrix")
    register_version(shelf.open(digest).manifest, digest, "test")
from modelyard.control.deployments.services import deploy
deploy("sums", 1, by="test")
ensure_admin()
print(create_token(get_user_model().objects.get(username="admin"))[1])
"""


class Deployer:
    """Deploys through the management API, and knows which versions may answer at any time."""

    def __init__(self, product: Product, token: str) -> None:
        self.url = f"{product.control_url}/api/v1"
        self.headers = {"Authorization": f"Bearer {token}"}
        self.acknowledged: list[int] = []
        self.spans: list[tuple[float, float, set[int]]] = []  # from, to, versions that may answer
        self._allowed: set[int] = set()
        self._since = time.monotonic()

    def deploy(self, version: int) -> bool:
        """One deployment; whether it was acknowledged. What was asked for and not acknowledged may still come."""
        self._turn(self._allowed | {version})
        try:
            answer = httpx.post(
                f"{self.url}/deployments",
                json={"model": MODEL, "version": str(version), "wait_s": 20},
                headers=self.headers,
                timeout=40,
            )
        except httpx.TransportError:
            return False
        if answer.status_code not in (200, 201):
            assert answer.status_code in (500, 502, 503), answer.text
            return False
        self.acknowledged.append(version)
        if answer.json()["served"]:
            self._turn({version})
        return True

    def endpoint(self) -> dict[str, Any]:
        """How the endpoint stands."""
        return httpx.get(f"{self.url}/endpoints/{MODEL}", headers=self.headers, timeout=20).json()

    def events(self) -> list[int]:
        """Every version that was deployed, the oldest first."""
        found: list[int] = []
        url: str | None = f"{self.url}/models/{MODEL}/events?limit=1000"
        while url is not None:
            page = httpx.get(url, headers=self.headers, timeout=20).json()
            found += [event["version"] for event in page["results"] if event["verb"] == "deploy"]
            url = page["next"]
        return found[::-1]

    def close(self) -> None:
        """The last span ends."""
        self._turn(set())

    def _turn(self, allowed: set[int]) -> None:
        now = time.monotonic()
        self.spans.append((self._since, now, self._allowed))
        self._allowed, self._since = allowed, now


class Callers:
    """Threads that ask without pause, and keep every answer."""

    def __init__(self, product: Product, count: int) -> None:
        self.answers: list[tuple[float, float, int, float]] = []  # asked, answered, version, total less the inputs
        self.others: Counter[str] = Counter()
        self._url = f"{product.url}/v2/models/{MODEL}/infer"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(count)]

    @contextmanager
    def calling(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)

    def _ask(self, at: int) -> None:
        x = float(at)
        with httpx.Client(timeout=40) as client:
            while not self._stop.is_set():
                x += 1.0
                self._ask_once(client, x)

    def _ask_once(self, client: httpx.Client, x: float) -> None:
        rows = {"name": "rows", "datatype": "FP32", "shape": [1, 2], "data": [x, 1.0]}
        began = time.monotonic()
        try:
            answer = client.post(self._url, json={"inputs": [rows]})
        except httpx.TransportError as error:
            self.others[type(error).__name__] += 1
            self._stop.wait(0.05)  # nobody listens while the gateway starts again
            return
        if answer.status_code != 200:
            self.others[f"{answer.status_code} {answer.text[:120]}"] += 1
            return
        said = answer.json()
        total = float(said["outputs"][0]["data"][0])
        self.answers.append((began, time.monotonic(), int(said["model_version"]), total - x - 1.0))


def processes(product: Product, up: subprocess.Popen[bytes]) -> dict[str, list[int]]:
    """The process ids of each kind, as they are now."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (OSError, IndexError, ValueError):
            continue
        if parent == up.pid:
            for kind, module in (
                ("control", b"control.main"),
                ("runner", b"control.runner"),
                ("parent", b"serve.fleet"),
            ):
                if module in command:
                    found[kind].append(int(folder.name))
    try:
        state = msgspec.json.decode((product.root / "run" / "gateway.json").read_bytes(), type=GatewayState)
    except (OSError, msgspec.MsgspecError):
        return found
    found["worker"] = [worker.pid for worker in state.workers]
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_whatever_is_killed_nothing_acknowledged_is_lost_and_nothing_wrong_is_served(tmp_path: Path) -> None:
    seed = int(os.environ.get("MODELYARD_SEED", "0") or 0) or time.time_ns() % 1_000_000
    print(f"seed {seed}")
    draw = random.Random(seed)
    product = Product(tmp_path / "home")
    kit = str(Path(__file__).parent.parent)
    token = subprocess.run(
        [sys.executable, "-c", PREPARE, str(VERSIONS)],
        env=product.environment | {"PYTHONPATH": kit},
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout.strip()  # fmt: skip
    kills = {at: draw.choice(KINDS) for at in draw.sample(range(5, DEPLOYMENTS - 5), KILLS)}
    killed: Counter[str] = Counter()
    with product.up() as up:
        deployer, callers = Deployer(product, token), Callers(product, 3)
        until(lambda: deployer.deploy(1), "the first deployment", DEADLINE_S)
        with callers.calling():
            for at in range(DEPLOYMENTS):
                timer = None
                if at in kills and (pids := processes(product, up)[kills[at]]):
                    killed[kills[at]] += 1
                    timer = threading.Timer(draw.uniform(0.0, 0.2), kill, (draw.choice(pids),))
                    timer.start()
                version = draw.randint(1, VERSIONS)
                until(lambda version=version: deployer.deploy(version), f"deployment {at} is acknowledged", DEADLINE_S)
                if timer is not None:
                    timer.join()
            until(product.is_ready, "everything is up again without a hand", DEADLINE_S)
            last = draw.randint(1, VERSIONS)
            assert deployer.deploy(last), "a deployment after all that needs no second try"
            settled = time.monotonic()
            until(lambda: sum(began > settled for began, *_ in callers.answers) > 50, "calls after the last deployment")
        deployer.close()
        weights = {int(number): weight for number, weight in deployer.endpoint()["weights"].items() if weight}
        assert weights == {last: 100}
        assert is_within(changes(deployer.acknowledged), deployer.events()), "what was acknowledged is in the log"
    assert sum(killed.values()) >= KILLS // 2, killed
    for began, ended, version, added in callers.answers:
        assert abs(added - version) < 1e-3, f"version {version} answered as another"
        allowed = set().union(*(span for start, end, span in deployer.spans if start <= ended and end >= began))
        assert version in allowed, f"version {version} answered, allowed were {allowed}"
    unexpected = {what: count for what, count in callers.others.items() if what[0].isdigit()}
    assert not unexpected, unexpected
    print(json.dumps({"answers": len(callers.answers), "killed": killed, "lost connections": callers.others}))


def changes(versions: list[int]) -> list[int]:
    """Deploying what is deployed changes nothing, and so is no event."""
    return [version for at, version in enumerate(versions) if at == 0 or version != versions[at - 1]]


def is_within(wanted: list[int], all_of_them: list[int]) -> bool:
    """Whether `wanted` comes in this order among `all_of_them`."""
    rest = iter(all_of_them)
    return all(any(version == one for one in rest) for version in wanted)
