"""Guarded rollouts through real processes: a good version gets all calls; a bad one, or silence, loses them."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.gateway import until
from kit.product import Product

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

KIT = str(Path(__file__).parents[1])
GOOD, AS_GOOD, ERRS, SLOW, PICKY = 1, 2, 3, 4, 5
PREPARE = """
from pathlib import Path
from kit.graphs import NUMBERS, brittle, heavy, slow, store_graph
from modelyard.artifacts.store import Shelf
from modelyard.control.setup import start
settings = start()
from modelyard.control.deployments.services import deploy
from modelyard.control.registry.services import register_version
shelf = Shelf(Path(settings.home) / "shelf")
for graph in (heavy(0.0, 1), heavy(0.0, 2), brittle(90), slow(2, 640)):
    digest = store_graph(shelf, graph, "sums")
    register_version(shelf.open(digest).manifest, digest, "test")
deploy("sums", 1, by="test")
"""
STEPS = ("--steps", "20,50,100", "--step-minutes", "0.03", "--min-calls", "150", "--alpha", "0.01")


class Traffic:
    """Callers without pause; who answered is known for each moment."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[float, int, int]] = []  # when, status, version (0: not said)
        self.wrong: list[str] = []
        self._url = f"{url}/sums"
        self._stop = threading.Event()

    @contextlib.contextmanager
    def calling(self, count: int = 3) -> Iterator[None]:
        """While the block runs."""
        threads = [threading.Thread(target=self._call, args=(at,)) for at in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)

    def _call(self, at: int) -> None:
        with httpx.Client(timeout=20) as client:
            for turn in itertools.count(at):
                if self._stop.is_set():
                    return
                x = float(turn * 7 % 100)
                reply = client.post(self._url, json={"x": x, "y": 1.0})
                said = reply.json()
                if reply.status_code == 200 and said["total"] != x + 1.0:
                    self.wrong.append(reply.text)
                self.answers.append((time.monotonic(), reply.status_code, said.get("version", 0)))

    def versions_since(self, moment: float) -> Counter[int]:
        """Who answered from then on."""
        return Counter(version for at, _, version in self.answers if at >= moment)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Product]:
    """A gateway with version 1 behind `sums`, and four more that are registered."""
    product = Product(tmp_path_factory.mktemp("rollouts") / "home")
    product.environment |= {"PYTHONPATH": KIT, "MODELYARD_DATABASE_URL": database_url}
    subprocess.run([sys.executable, "-c", PREPARE], env=product.environment, check=True, timeout=120)
    with process(product, "modelyard.serve.fleet"):
        until(lambda: _answers(product), "the gateway serves", 60)
        yield product


def _answers(product: Product) -> bool:
    try:
        return httpx.get(f"{product.url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def process(product: Product, module: str) -> Iterator[subprocess.Popen[bytes]]:
    """One process of the product, until the block ends or somebody kills it."""
    with open(product.root.parent / f"{module}.log", "ab") as log:
        running = subprocess.Popen([sys.executable, "-m", module], env=product.environment, stdout=log, stderr=log)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(40)


@pytest.fixture
def runner(product: Product) -> Iterator[subprocess.Popen[bytes]]:
    """The process that looks after rollouts."""
    with process(product, "modelyard.control.runner") as running:
        beat = product.root / "run" / "control.beat"
        began = time.time()
        until(lambda: beat.exists() and beat.stat().st_mtime >= began, "the runner lives", 60)
        yield running


@pytest.fixture
def traffic(product: Product) -> Iterator[Traffic]:
    """Calls go on; afterwards version 1 has them all again."""
    product.run("deploy", "sums", "--version", str(GOOD))
    traffic = Traffic(product.url)
    with traffic.calling():
        yield traffic
    assert traffic.wrong == []


def start(product: Product, version: int, *more: str) -> dict[str, Any]:
    """Begin a rollout; what it says of itself."""
    return dict(product.json("rollout", "start", "sums", str(version), *STEPS, *more))


def test_a_good_version_gets_all_calls(product: Product, runner: object, traffic: Traffic) -> None:
    begun = start(product, AS_GOOD)
    assert (begun["champion"], begun["candidate"], begun["watched"]["percent"]) == (GOOD, AS_GOOD, 20)
    assert begun["warnings"] == []
    said = product.run("rollout", "watch", "sums").stdout.splitlines()
    assert "finished" in said[-1]
    assert product.json("rollout", "show", "sums")["state"] == "finished"
    served = time.monotonic() + 1.0
    until(lambda: traffic.versions_since(served).total() > 200, "calls afterwards")
    assert traffic.versions_since(served).keys() == {AS_GOOD}
    assert {status for _, status, _ in traffic.answers} == {200}
    assert product.json("models", "show", "sums")["aliases"]["champion"] == AS_GOOD


@pytest.mark.parametrize(("version", "kind"), [(ERRS, "errors"), (SLOW, "latency")])
def test_a_version_that_is_worse_loses_its_calls(
    product: Product, runner: object, traffic: Traffic, version: int, kind: str
) -> None:
    start(product, version)
    said = product.run("rollout", "watch", "sums", expect=1).stdout
    assert "rolled back" in said.splitlines()[-1]
    shown = product.json("rollout", "show", "sums")
    assert (shown["state"], shown["finding"]["kind"]) == ("rolled_back", kind)
    assert shown["reason"].startswith(kind)
    assert shown["finding"]["evidence"] >= shown["finding"]["limit"]
    moment = time.monotonic() + 1.0
    until(lambda: traffic.versions_since(moment).total() > 200, "calls afterwards")
    assert traffic.versions_since(moment).keys() == {GOOD}
    tries = Counter(version for _, _, version in traffic.answers)
    assert tries[version] < tries[GOOD], "it never had more than its share"


def test_inputs_that_only_the_new_version_refuses_roll_it_back(
    product: Product, runner: object, traffic: Traffic
) -> None:
    """A lost category is a broken contract; here its range is narrower, which the check of contracts lets pass."""
    register = """
import msgspec, sys
from pathlib import Path
from kit.graphs import NUMBERS, heavy, store_graph
from modelyard.artifacts.store import Shelf
from modelyard.control.setup import start
settings = start()
from modelyard.control.registry.services import register_version
shelf = Shelf(Path(settings.home) / "shelf")
digest = store_graph(shelf, heavy(0.0, 3), "sums")
opened = shelf.open(digest)
x, y = opened.manifest.contract.columns
contract = msgspec.structs.replace(NUMBERS, columns=(msgspec.structs.replace(x, maximum=80.0), y))
manifest = msgspec.structs.replace(opened.manifest, contract=contract, files={})
narrow = shelf.put(manifest, {"model.onnx": opened.read("model.onnx")})
print(register_version(shelf.open(narrow).manifest, narrow, "test").number)
"""
    made = subprocess.run(
        [sys.executable, "-c", register], env=product.environment, check=True, capture_output=True, text=True
    )
    start(product, int(made.stdout), "--force", "to see it rolled back")
    product.run("rollout", "watch", "sums", expect=1)
    assert product.json("rollout", "show", "sums")["finding"]["kind"] == "violations"


def test_control_dies_in_the_middle_and_the_share_returns_and_comes_back_with_it(
    product: Product, traffic: Traffic
) -> None:
    with process(product, "modelyard.control.runner") as first:
        beat = product.root / "run" / "control.beat"
        until(lambda: beat.exists() and time.time() - beat.stat().st_mtime < 1.0, "the runner lives", 60)
        begun = start(product, AS_GOOD, "--lease-seconds", "3", "--min-calls", "1000000000")
        asked = time.monotonic()
        until(lambda: traffic.versions_since(asked)[AS_GOOD] > 20, "it has its share")
        first.kill()
        first.wait()
    silent = time.monotonic() + 3.0 + 2.0  # the lease, and one look of each gateway worker
    until(lambda: time.monotonic() > silent, "the lease is over")
    until(lambda: traffic.versions_since(silent).total() > 200, "calls without control")
    assert traffic.versions_since(silent).keys() == {GOOD}
    with process(product, "modelyard.control.runner"):
        back = time.monotonic()
        until(lambda: traffic.versions_since(back)[AS_GOOD] > 20, "it has its share again", 60)
        said = product.run("rollout", "show", str(begun["id"])).stdout
        assert "running" in said
        assert "silence" in said
        product.run("rollout", "abort", "sums", "--reason", "enough seen")
    aborted = time.monotonic() + 1.0
    until(lambda: traffic.versions_since(aborted).total() > 200, "calls afterwards", 60)
    assert traffic.versions_since(aborted).keys() == {GOOD}
    assert {status for _, status, _ in traffic.answers} == {200}


def test_a_person_who_deploys_meanwhile_is_obeyed(product: Product, runner: object, traffic: Traffic) -> None:
    start(product, AS_GOOD, "--min-calls", "1000000000")
    product.run("deploy", "sums", "--version", str(GOOD))
    said = product.run("rollout", "watch", "sums", expect=1).stdout
    assert "somebody else" in said
    assert product.json("rollout", "list")[0]["state"] == "aborted"
