"""One endpoint with a shadow, in the test's own process: real versions, real replicas, a loop that the test turns."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kit.in_process import Said
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import ModelyardError
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, Shadow, TrafficSplit
from modelyard.contract.telemetry import Record, frames
from modelyard.contract.tensor import Inputs, Tensors
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve import dialects
from modelyard.serve.admission import ANONYMOUS, Principal
from modelyard.serve.call import Call
from modelyard.serve.counters import Counters
from modelyard.serve.inference import Dialect, Inference
from modelyard.serve.replica import Replica
from modelyard.serve.routing import Deployment, Route
from modelyard.serve.shadows import Shadows
from modelyard.serve.telemetry import Telemetry

WAIT_S = 20.0


class Spied:
    """A loaded version of which a test may decide what `predict` does first."""

    def __init__(self, loaded: LoadedVersion) -> None:
        self._loaded = loaded
        self.first: Callable[[Inputs], None] = lambda inputs: None
        self.asked: list[int] = []  # rows of each batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)

    def predict(self, inputs: Inputs) -> Tensors:
        """What the version says, after `first`."""
        self.asked.append(len(inputs) if isinstance(inputs, np.ndarray) else len(next(iter(inputs.values()))))
        self.first(inputs)
        return self._loaded.predict(inputs)


class Heard(Said):
    """A caller that keeps an error too."""

    error: ModelyardError | None = None

    def refuse(self, error: ModelyardError) -> None:
        """Keep it."""
        self.error = error


class Shadowed:
    """`loans` on versions by number; the first answers, and `shadow` gets copies."""

    def __init__(self, root: Path, shelf: Shelf, digests: Mapping[int, str], max_rows: int = 2_000) -> None:
        self.loop = asyncio.new_event_loop()
        self.counters = Counters(root / "counters", 0)
        self.telemetry = Telemetry(self.counters, root / "records", 0, 1 << 20)
        self.shadows = Shadows(self.telemetry, self.loop, max_rows)
        self.spies = {number: Spied(LoadedVersion(shelf.open(digest))) for number, digest in digests.items()}
        self.replicas = {number: self._replica(spy) for number, spy in self.spies.items()}
        self.folder = root / "records"
        self._digests = digests
        self._ids = itertools.count()
        self.revision = 0
        self.follow(Shadow(max(digests)))

    def _replica(self, spy: Spied) -> Replica:
        curve = dict.fromkeys((1, 8, 64), 1e-5)
        return Replica(spy, curve, 0.0, self.loop, self.counters, 50_000, "loans")  # type: ignore[arg-type]

    def follow(self, shadow: Shadow | None, **endpoint: Any) -> None:
        """The next plan."""
        self.revision += 1
        versions = tuple(PlannedVersion(number, digest) for number, digest in self._digests.items())
        split = endpoint.pop("split", None) or TrafficSplit({min(self._digests): 100})
        planned = PlannedEndpoint("loans", "loans", versions, split, {}, shadow=shadow, **endpoint)
        deployments = {
            number: Deployment(planned, number, replica, self.counters, self.revision)
            for number, replica in self.replicas.items()
        }
        self.route = Route(planned, deployments, self.shadows.of(planned, deployments))
        self.shadows.keep_only([planned])

    def ask(
        self, body: Any, dialect: Dialect = dialects.NATIVE, pin: str | None = None, principal: Principal = ANONYMOUS
    ) -> Heard:
        """Begin one call; its answer comes when the loop turns."""
        said = Heard(body if isinstance(body, bytes) else json.dumps(body).encode())
        now = time.monotonic_ns()
        call = Call(said, principal, dialect.say, self.telemetry, now, now + 10**10)
        call.request_id = f"{next(self._ids):032x}"
        Inference(1000).infer(call, self.route, pin, dialect)
        return said

    def turn_until(self, fact: Callable[[], object], what: str) -> None:
        """Turn the loop until something is so."""

        async def wait() -> None:
            end = time.monotonic() + WAIT_S
            while not fact():
                assert time.monotonic() < end, f"not within {WAIT_S:g} s: {what}"
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    def count(self, name: str, version: int | None = None, **labels: str) -> int:
        """A counter of the endpoint, of the shadow unless another version is asked for."""
        number = max(self._digests) if version is None else version
        return self.counters.cells[self.counters.counter(name, endpoint="loans", version=str(number), **labels)]

    @property
    def done(self) -> int:
        """Copies of which it is known what became of them."""
        failed = [cell for (name, _), cell in self.counters._known.items() if name == "modelyard_shadow_failed"]
        counted = sum(self.count(f"modelyard_shadow_{name}") for name in ("compared", "dropped"))
        return counted + sum(self.counters.cells[cell] for cell in failed)

    def records(self) -> list[Record]:
        """What was recorded so far; ends the telemetry."""
        self.telemetry.close()
        return [record for path in sorted(self.folder.glob("*.records")) for record in frames(path.read_bytes())]

    def close(self) -> None:
        """Free everything."""
        for spy in self.spies.values():
            spy.first = lambda inputs: None
        self.shadows.close()
        self.telemetry.close()
        for replica in self.replicas.values():
            replica.close()
        self.counters.close()
        self.loop.close()
