"""Takes governance out of a gateway's processes, to measure what it costs. Python imports this name by itself.

Out go: host, origin, key, scope and quota; ranges of the contract; request ids; latency, request and row counters; the
prediction record. What stays is the edge, V2, batching and the model. There is no such switch in the product. A name
that is no longer there stops the process: a benchmark that measures nothing must not look like one.
"""

from __future__ import annotations

from typing import Any

from modelyard.contract import encoding
from modelyard.secure.request_ids import RequestIds
from modelyard.serve.admission import ANONYMOUS, Admission
from modelyard.serve.telemetry import Telemetry


def _replace(owner: Any, name: str, value: Any) -> None:
    if not hasattr(owner, name):
        raise SystemExit(f"ungoverned: {owner.__name__} has no {name} any more")
    setattr(owner, name, value)


def _nothing(*_: object) -> None:
    return None


for _name in ("check_host", "check_scope"):
    _replace(Admission, _name, _nothing)
_replace(Admission, "check_origin", lambda *_: b"")
_replace(Admission, "identify", lambda *_: ANONYMOUS)
_replace(RequestIds, "new", lambda *_: "")
_replace(Telemetry, "note", _nothing)
_replace(encoding, "_fast_type", lambda _: float)
