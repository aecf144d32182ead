"""A real gateway for a test: its parent and workers as processes, a home of its own, plans published by hand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec

from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import (
    GatewayState,
    PlannedEndpoint,
    PlannedKey,
    PlannedVersion,
    ServingPlan,
    SignedPlan,
    TrafficSplit,
)
from modelyard.secure.signing import signer


def until(fact: Callable[[], object], what: str, seconds: float = 30.0) -> object:
    """Wait for a fact, with a deadline that fails the test by name."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := fact():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def publish(home: Home, plan: ServingPlan) -> None:
    """Sign a plan and put it where gateways look."""
    raw = msgspec.json.encode(plan)
    signed = SignedPlan(msgspec.Raw(raw), signer(home.keys).sign(raw))
    staging = home.plan.with_suffix(".new")
    staging.write_bytes(msgspec.json.encode(signed))
    staging.replace(home.plan)


def plan(
    revision: int, digests: dict[int, str], *, keys: tuple[PlannedKey, ...] = (), **endpoint: object
) -> ServingPlan:
    """One endpoint `loans` on these versions; the newest takes all calls unless `split` says otherwise."""
    split = endpoint.pop("split", None) or TrafficSplit({max(digests): 100})
    require_keys = bool(endpoint.pop("require_keys", False))
    versions = tuple(PlannedVersion(number, digest) for number, digest in digests.items())
    planned = PlannedEndpoint("loans", "loans", versions, split, {"champion": max(digests)}, **endpoint)  # type: ignore[arg-type]
    return ServingPlan(revision, time.time(), (planned,), keys, require_keys)


def endpoint(name: str, *digests: str) -> PlannedEndpoint:
    """An endpoint on these versions, numbered from 1; the newest takes all calls and is the champion."""
    versions = tuple(PlannedVersion(number, digest) for number, digest in enumerate(digests, 1))
    return PlannedEndpoint(name, name, versions, TrafficSplit({len(digests): 100}), {"champion": len(digests)})


class Gateway:
    """A running gateway."""

    def __init__(self, home: Home, process: subprocess.Popen[bytes], log: Path) -> None:
        self.home, self.process, self.log = home, process, log
        self.shelf = Shelf(home.shelf)

    def state(self) -> GatewayState | None:
        """What the parent says, or None before it says anything."""
        try:
            return msgspec.json.decode(self.home.gateway_state.read_bytes(), type=GatewayState)
        except FileNotFoundError:
            return None

    @property
    def url(self) -> str:
        """Where it listens."""
        state = self.state()
        assert state is not None
        return state.url

    @property
    def port(self) -> int:
        """The port alone."""
        return int(self.url.rpartition(":")[2])

    def publish(self, wanted: ServingPlan) -> None:
        """Publish and wait until every worker serves it."""
        publish(self.home, wanted)
        self.wait_for(wanted.revision)

    def wait_for(self, revision: int) -> None:
        """Wait until every worker serves this revision; a refusal fails with its reason."""

        def served() -> bool:
            state = self.state()
            if state is None or self.process.poll() is not None:
                assert self.process.poll() is None, self.log.read_text()
                return False
            for worker in state.workers:
                assert worker.refused < revision, worker.reason
            return all(worker.revision >= revision for worker in state.workers)

        until(served, f"every worker serves revision {revision}")

    @property
    def grpc_port(self) -> int:
        """Where gRPC is spoken."""
        state = self.state()
        assert state is not None
        return int(state.grpc_url.rpartition(":")[2])

    def workers(self) -> list[int]:
        """The workers' process ids."""
        state = self.state()
        return [worker.pid for worker in state.workers] if state else []

    def get(self, path: str, **options: object) -> httpx.Response:
        """One GET on a connection of its own."""
        return httpx.get(self.url + path, timeout=30, **options)  # type: ignore[arg-type]

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        """One POST of JSON on a connection of its own."""
        return httpx.post(self.url + path, content=msgspec.json.encode(body), timeout=30, **options)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Stop it in order; it must leave nothing behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()


@contextlib.contextmanager
def gateway(root: Path, first: ServingPlan | None = None, **settings: object) -> Iterator[Gateway]:
    """A gateway in the home `root`, on a free port."""
    home = Home(root).prepare()
    signer(home.keys)
    if first is not None:
        publish(home, first)
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
    environment |= {"MODELYARD_HOME": str(root), "MODELYARD_GATEWAY_PORT": "0", "MODELYARD_GRPC_PORT": "0"}
    environment |= {"MODELYARD_WORKERS": "2"}
    environment["MODELYARD_GRPC_PORT"] = "0"
    environment |= {f"MODELYARD_{name.upper()}": str(value) for name, value in settings.items()}
    log = root / "gateway.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard.serve.fleet"], env=environment, stdout=output, stderr=output
        )
    running = Gateway(home, process, log)
    try:
        if first is None:
            until(lambda: running.state() or process.poll() is not None, "the gateway says that it runs")
        else:
            running.wait_for(first.revision)
        yield running
    except BaseException:
        print(log.read_text()[-4000:])
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.stop()
