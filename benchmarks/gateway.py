"""Modelyard's gateway as it is measured: everything on, keys and quota included."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.server import ROOT, WORKERS, Server, StartFailed
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import (
    GatewayState,
    PlannedEndpoint,
    PlannedKey,
    PlannedVersion,
    ServingPlan,
    Shadow,
    SignedPlan,
    TrafficSplit,
)
from modelyard.secure.keys import digest_of, new_key
from modelyard.secure.signing import signer

ROWS_PER_SECOND = 10_000_000.0  # a quota that is charged for every row and never used up
Versions = Mapping[str, Mapping[int, str]]  # endpoint -> version -> digest; the newest takes all calls


class Traffic(NamedTuple):
    """How an endpoint's calls are shared, where the newest version does not take them all."""

    split: TrafficSplit
    shadow: Shadow | None = None


class Gateway(Server):
    """The gateway's processes, and the plan that it follows."""

    def __init__(self, name: str, home: Home, versions: Versions, environment: Mapping[str, str]) -> None:
        key, self.neighbours_key = new_key(), new_key()
        self.home = home
        self._keys = tuple(
            PlannedKey(who, digest_of(secret), who, ("infer",), ROWS_PER_SECOND, burst_rows=int(ROWS_PER_SECOND))
            for who, secret in (("bench", key), ("neighbour", self.neighbours_key))
        )
        self.revision = 0
        self.publish(versions)
        command = [sys.executable, "-m", "modelyard.serve.fleet"]
        super().__init__(
            name,
            command,
            environment,
            home.root / "gateway.log",
            endpoints=tuple(versions),
            headers={"Authorization": f"Bearer {key}"},
        )

    def state(self) -> GatewayState | None:
        """What the parent says, or None before it says anything."""
        try:
            return msgspec.json.decode(self.home.gateway_state.read_bytes(), type=GatewayState)
        except FileNotFoundError:
            return None

    def publish(self, versions: Versions, traffic: Mapping[str, Traffic] | None = None) -> int:
        """Sign and publish a plan; `traffic` by endpoint. Returns its revision."""
        self.revision += 1
        endpoints = tuple(
            PlannedEndpoint(
                name,
                name,
                tuple(PlannedVersion(number, digest) for number, digest in held.items()),
                shared.split,
                shadow=shared.shadow,
            )
            for name, held in versions.items()
            for shared in [(traffic or {}).get(name) or Traffic(TrafficSplit({max(held): 100}))]
        )
        plan = ServingPlan(self.revision, time.time(), endpoints, self._keys, require_keys=True)
        raw = msgspec.json.encode(plan)
        signed = SignedPlan(msgspec.Raw(raw), signer(self.home.keys).sign(raw))
        staging = self.home.plan.with_suffix(".new")
        staging.write_bytes(msgspec.json.encode(signed))
        staging.replace(self.home.plan)
        return self.revision

    def serves(self, revision: int) -> bool:
        """Whether every worker serves this revision. Raises StartFailed if one refused it."""
        state = self.state()
        if state is None or len(state.workers) < WORKERS:
            return False
        for worker in state.workers:
            if worker.refused >= revision:
                raise StartFailed(f"the gateway refused a plan: {worker.reason}")
        return all(worker.revision >= revision for worker in state.workers)


@contextlib.contextmanager
def modelyard(
    versions: Versions, shelves: list[Shelf], *, name: str = "Modelyard", settings: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """A gateway that serves `versions`, whose artifacts lie on `shelves`; `settings` go to its environment."""
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder) / "home").prepare()
        for shelf in shelves:
            for digest in shelf.digests():
                with contextlib.suppress(FileExistsError):
                    (home.shelf / digest).symlink_to((shelf.folder / digest).resolve())
        environment = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
        environment |= {"MODELYARD_HOME": str(home.root), "MODELYARD_GATEWAY_PORT": "0", "MODELYARD_GRPC_PORT": "0"}
        environment |= {"MODELYARD_WORKERS": str(WORKERS), "MODELYARD_LOG_LEVEL": "warning", **(settings or {})}
        gateway = Gateway(name, home, versions, environment)
        try:
            gateway.wait_for(lambda: gateway.serves(gateway.revision), "the first plan is served")
            state = gateway.state()
            if state is not None:
                gateway.url, gateway.grpc_port = state.url, int(state.grpc_url.rpartition(":")[2])
            yield gateway
        finally:
            gateway.stop()


@contextlib.contextmanager
def ungoverned(versions: Versions, shelves: list[Shelf]) -> Iterator[Gateway]:
    """The same gateway without governance: see `ungoverned/sitecustomize.py` for what is taken out, and how."""
    path = str(ROOT / "benchmarks" / "ungoverned")
    with modelyard(versions, shelves, name="Modelyard, all off", settings={"PYTHONPATH": path}) as gateway:
        yield gateway
