"""One answered call as a shadow gets it: what was asked, what was said, and how the shadow reads the question."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from modelyard.contract.errors import ModelyardError
from modelyard.contract.features import Contract
from modelyard.contract.tensor import Inputs, Tensors
from modelyard.serve.call import Batch, Call, Caller
from modelyard.serve.replica import Version

if TYPE_CHECKING:
    from modelyard.serve.inference import Read
    from modelyard.serve.routing import Deployment


class Copied:
    """What was asked, and nobody who waits for the answer."""

    __slots__ = ("body", "headers")

    is_gone = False

    def __init__(self, caller: Caller) -> None:
        self.headers, self.body = caller.headers, caller.body

    def refuse(self, error: ModelyardError) -> None:
        """Nobody hears it."""

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """Nobody hears it."""


class Copy:
    """One answered call: what was asked, and what was said."""

    __slots__ = ("answered", "asked", "bytes", "deployment", "inputs", "kept_ns", "read", "request_id", "rows")

    def __init__(self, call: Call, answered: Tensors, read: Read | None) -> None:
        """read: how the shadow reads the body; None: it would make of it what the answering version did."""
        self.request_id, self.deployment, self.rows = call.request_id, call.deployment, call.rows
        self.answered = answered
        self.read = read
        self.inputs = call.inputs
        self.asked: Call | None = None
        self.bytes = sum(values.nbytes for values in answered.values())
        self.bytes += size_of(call.inputs) if read is None else len(call.exchange.body)
        if read is not None:
            nobody = Copied(call.exchange)
            self.asked = Call(nobody, call.principal, call.say, call.telemetry, call.started_ns, call.deadline_ns)
        self.kept_ns = time.monotonic_ns()

    def read_for(self, target: Deployment) -> None:
        """Make of it what the shadow's own contract does. Raises as the dialect does."""
        if self.asked is not None and self.read is not None:
            self.asked.deployment = target
            self.read(self.asked, max(1, self.rows))
            self.inputs, self.asked = self.asked.inputs, None  # the body is let go


def reads_alike(one: Version, other: Version) -> bool:
    """Whether both make the same inputs of every body that the first one takes: a copy need not be read again."""
    signature, contract = one.manifest.signature, one.manifest.contract
    if signature.inputs != other.manifest.signature.inputs or signature.layout != other.manifest.signature.layout:
        return False
    if not one.is_table:  # a runtime may take bytes for a text where another refuses them
        return one.manifest.runtime == other.manifest.runtime
    return _rules(contract) == _rules(other.manifest.contract)


def size_of(inputs: Inputs) -> int:
    """Bytes of a call's inputs."""
    return sum(values.nbytes for values in inputs.values()) if isinstance(inputs, dict) else inputs.nbytes


def rows_of(call: Call, batch: Batch, start: int) -> Tensors:
    """What was said to this call, apart from its batch."""
    if not call.deployment.replica.loaded.manifest.independent_rows:
        return batch.outputs
    return {name: values[start : start + call.rows].copy() for name, values in batch.outputs.items()}


def _rules(contract: Contract) -> list[tuple[object, ...]]:
    """What decides which rows a contract takes, and what numbers they are; what is fitted comes later."""
    return [
        (
            column.name, column.kind, column.role, column.nullable, column.default, column.minimum, column.maximum,
            column.categories, column.unseen,
        )
        for column in contract.columns
    ]  # fmt: skip
