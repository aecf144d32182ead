"""One deployment without a gateway: a dialect's two functions, called as the story calls them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import ModelyardError
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, TrafficSplit
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve.admission import ANONYMOUS
from modelyard.serve.call import Call
from modelyard.serve.counters import Counters
from modelyard.serve.inference import Read
from modelyard.serve.replica import Replica
from modelyard.serve.routing import Deployment, Route


class Said:
    """A caller that keeps what it is told."""

    def __init__(self, body: bytes, headers: dict[bytes, bytes] | None = None) -> None:
        self.body: bytes | bytearray = body
        self.headers = headers or {}
        self.status = 0
        self.answer = b""
        self.answer_headers: dict[bytes, bytes] = {}

    @property
    def is_gone(self) -> bool:
        """It waits."""
        return False

    def refuse(self, error: ModelyardError) -> None:
        """Raise it, for the test to see."""
        raise error

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """Keep the answer."""
        lines = (line.split(b": ", 1) for line in headers.split(b"\r\n") if line)
        self.status, self.answer, self.answer_headers = status, body, {name: value for name, value in lines}

    def json(self) -> Any:
        """The JSON part of the answer."""
        length = self.answer_headers.get(b"inference-header-content-length")
        return json.loads(self.answer if length is None else self.answer[: int(length)])

    def tail(self) -> bytes:
        """The binary part of the answer."""
        return self.answer[int(self.answer_headers[b"inference-header-content-length"]) :]


class InProcess:
    """A version behind one endpoint, in the test's own process."""

    def __init__(self, root: Path, digest: str, shelf: Shelf, name: str = "loans", **endpoint: Any) -> None:
        planned = PlannedEndpoint(
            name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}), {"champion": 1}, **endpoint
        )
        self.loop = asyncio.new_event_loop()
        self.counters = Counters(root / "counters", 0)
        loaded = LoadedVersion(shelf.open(digest))
        self.replica = Replica(loaded, loaded.warm((1, 2), rounds=1), 0.0, self.loop, self.counters, 50_000, name)
        self.deployment = Deployment(planned, 1, self.replica, self.counters)
        self.route = Route(planned, {1: self.deployment})

    def read(self, read: Read, body: bytes, headers: dict[bytes, bytes] | None = None, max_rows: int = 1000) -> Call:
        """The call as the dialect reads it. Raises what refuses it."""
        now = time.monotonic_ns()
        nobody: Any = SimpleNamespace(note=lambda *_: None, failed=lambda *_: None)
        call = Call(Said(body, headers), ANONYMOUS, None, nobody, now, now + 10**10)  # type: ignore[arg-type]
        call.request_id = "0123"
        call.deployment = self.deployment
        read(call, max_rows)
        return call

    def ask(self, dialect: Any, body: bytes, headers: dict[bytes, bytes] | None = None, **options: Any) -> Said:
        """The answer of the version, as the dialect (read, say) says it."""
        read, say = dialect
        call = self.read(read, body, headers, **options)
        say(call, self.replica.compute([call]), 0)
        said: Said = call.exchange  # type: ignore[assignment]
        return said

    def close(self) -> None:
        """Free it."""
        self.replica.close()
        self.counters.close()
        self.loop.close()
