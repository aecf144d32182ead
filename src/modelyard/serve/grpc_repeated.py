"""The quick way for requests that repeat: callers send the same message again and again, with other numbers in it.

Where the numbers of its one tensor end a message, everything before them is kept with what it means. The next message
that begins with the same bytes and has the same length is read without being parsed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modelyard.contract.tensor import NUMPY_TYPES
from modelyard.serve.call import Call
from modelyard.serve.grpc_messages import Message
from modelyard.serve.grpc_request import CONTENTS, REQUEST
from modelyard.serve.routing import Deployment
from modelyard.serve.v2_wishes import Wanted
from modelyard.serve.varint import varint

KEPT_REQUESTS = 256  # of the one worker, by their length
KEPT_PREFIX_BYTES = 2048  # a longer one is not worth its memory

_RAW_INPUT = b"\x3a"  # the tag of `raw_input_contents`
_NUMBERS = frozenset(CONTENTS) - {"BYTES", "BOOL"}


class Way(NamedTuple):
    """How a repeated request is read for one deployment: the general way found nothing wrong with it."""

    wanted: Wanted
    group: object
    name: str  # of the tensor; empty where a table's matrix is wanted


class Repeated:
    """A request of which only the numbers of its one tensor change."""

    __slots__ = ("dtype", "model", "pin", "prefix", "shape", "ways")

    def __init__(self, message: Message, prefix: bytes) -> None:
        (tensor,) = message.inputs
        self.prefix = prefix
        self.model: str = message.model_name
        self.pin: str | None = message.model_version or None
        self.dtype = NUMPY_TYPES[tensor.datatype].newbyteorder("<")
        self.shape = tuple(tensor.shape)
        self.ways: dict[Deployment, Way] = {}

    def learn(self, call: Call, message: Message) -> None:
        """Remember how this call, which the general way has read, is read for its deployment."""
        layout = call.deployment.replica.loaded.manifest.signature.layout
        if layout in ("matrix", "tensors"):
            name = message.inputs[0].name if layout == "tensors" else ""
            self.ways[call.deployment] = Way(call.options, call.group, name)  # type: ignore[arg-type]

    def read(self, call: Call, way: Way) -> None:
        """Set the call's inputs. Raises InvalidInput for numbers that the contract refuses."""
        array = np.frombuffer(call.exchange.body, self.dtype, offset=len(self.prefix)).reshape(self.shape)
        if way.name:
            call.inputs = {way.name: array if array.flags.aligned else array.copy()}
        else:
            matrix = array if array.ndim == 2 else array.reshape(1, -1)
            call.inputs = call.deployment.replica.loaded.encoder.encode_matrix(matrix)
        call.rows = self.shape[0] if len(self.shape) > 1 or way.name else 1
        call.reasons = "none"
        call.group = way.group
        call.options = way.wanted


class RepeatedRequests:
    """Those that one worker knows."""

    def __init__(self) -> None:
        self._by_length: dict[int, Repeated] = {}

    def find(self, body: bytes | bytearray) -> Repeated | None:
        """The request that this message repeats."""
        repeated = self._by_length.get(len(body))
        return repeated if repeated is not None and body.startswith(repeated.prefix) else None

    def keep(self, message: Message, body: bytes | bytearray) -> Repeated | None:
        """Keep what stands before the numbers, if nothing follows them and whatever else is said is always the same."""
        if len(message.inputs) != 1 or len(message.raw_input_contents) != 1 or message.parameters or message.id:
            return None
        tensor, size = message.inputs[0], len(message.raw_input_contents[0])
        if tensor.datatype not in _NUMBERS or tensor.parameters or any(one.parameters for one in message.outputs):
            return None
        before = REQUEST()
        before.CopyFrom(message)
        before.ClearField("raw_input_contents")
        prefix: bytes = before.SerializeToString() + _RAW_INPUT + varint(size)
        # Written anew it must be what came: other bytes may mean the same, but not everything that begins with them.
        if len(prefix) > KEPT_PREFIX_BYTES or len(prefix) + size != len(body) or not body.startswith(prefix):
            return None
        if len(self._by_length) >= KEPT_REQUESTS:
            self._by_length.clear()
        kept = self._by_length[len(body)] = Repeated(message, prefix)
        return kept

    def clear(self) -> None:
        """Forget all: they hold deployments of routes that are gone."""
        self._by_length.clear()
