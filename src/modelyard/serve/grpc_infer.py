"""ModelInfer and ModelStreamInfer: requests to a deployment's inputs, batches to answers, as `v2.py` does for REST.

Callers send the same request again and again with other numbers in it. Where the numbers of one tensor end a message,
everything before them is kept with what it means; the next message that begins with the same bytes and has the same
length is read without parsing it.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import DeadlineExceeded, InvalidInput, ModelyardError, NotReady, Undecodable
from modelyard.contract.tensor import NUMPY_TYPES, Tensors
from modelyard.serve import v2
from modelyard.serve.call import Batch, Call
from modelyard.serve.grpc import GrpcEdge, Known, Receiver, Unary, message_of
from modelyard.serve.grpc_bulk import Forwarded, is_heavy
from modelyard.serve.grpc_messages import Message, message_class, parsed
from modelyard.serve.http2 import NEVER, Stream
from modelyard.serve.routing import Deployment
from modelyard.serve.tensors import check_datatype, check_shape, from_binary, to_binary

if TYPE_CHECKING:
    from modelyard.serve.gateway import Gateway

REQUEST = message_class("inference.ModelInferRequest")
RESPONSE = message_class("inference.ModelInferResponse")
STREAM_RESPONSE = message_class("inference.ModelStreamInferResponse")
KEPT_REQUESTS = 256  # of the one worker, by their length
KEPT_PREFIX_BYTES = 2048  # a longer one is not worth its memory
KEPT_HEADS = 1024  # of answers

_RAW_INPUT, _RAW_OUTPUT, _ID, _RESPONSE_IN_STREAM = b"\x3a", b"\x32", b"\x1a", b"\x12"  # tags of fields 7, 6, 3, 2
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_REGIONS = frozenset(("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"))
_FP32 = np.dtype(np.float32)
Described = tuple[str, str, tuple[int, ...]]  # an output's name, datatype and shape
_NUMBERS = frozenset(_CONTENTS) - {"BYTES", "BOOL"}


class Way(NamedTuple):
    """How a repeated request is read for one deployment: the general way found nothing wrong with it."""

    wanted: v2.Wanted
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


class Infer:
    """One worker's ModelInfer and ModelStreamInfer, and what it keeps between their calls."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._repeated: dict[int, Repeated] = {}  # by the length of their messages
        self._plain: dict[Deployment, frozenset[str]] = {}  # outputs that are one FP32 for each row
        self._routes = gateway.routes  # for which they were kept

    def unary(self, edge: GrpcEdge, stream: Stream, known: Known) -> Receiver:
        """The receiver of a ModelInfer."""
        return InferCall(edge, stream, known, self)

    def streaming(self, edge: GrpcEdge, stream: Stream, known: Known) -> Receiver:
        """The receiver of a ModelStreamInfer."""
        return InferStream(edge, stream, known, self)

    def begin(self, asked: InferCall | Streamed, receiver: Receiver) -> None:
        """Start the story of one call, of which `receiver` knows who calls. Raises the error that refuses it."""
        gateway, body = self._gateway, asked.body
        principal = receiver.known.principal
        if gateway.routes is not self._routes:
            self._repeated.clear()
            self._plain.clear()
            self._routes = gateway.routes
        repeated = self._repeated.get(len(body))
        if repeated is not None and body.startswith(repeated.prefix):
            asked.repeated = repeated
            model, pin = repeated.model, repeated.pin
        else:
            message = asked.message = parsed(REQUEST, body)
            model, pin = message.model_name, message.model_version or None
        gateway.admission.check_scope(principal, "infer", model)
        route = gateway.routes.endpoint(model)
        if principal.quota is not None:
            principal.quota.charge(1)
        if gateway.bulk is not None and len(body) > gateway.settings.bulk_bytes and self._forward(asked, receiver):
            return
        call = gateway.begin(asked, principal, model, self._say)
        if receiver.deadline_ns is not None:
            call.deadline_ns = min(call.deadline_ns, receiver.deadline_ns)
        asked.request_id = call.request_id
        gateway.inference.infer(call, route, pin, self._read)

    def _forward(self, asked: InferCall | Streamed, receiver: Receiver) -> bool:
        """Whether the bulk worker answers, because reading this request here would hold the others up."""
        bulk, bulk_bytes = self._gateway.bulk, self._gateway.settings.bulk_bytes
        message = asked.message = asked.message or parsed(REQUEST, asked.body)
        if bulk is None or not is_heavy(message, len(asked.body), bulk_bytes):
            return False
        _check_raw(message)
        parameters, outputs = _wishes(message)

        def tell(answer: v2.InferAnswer, chunks: list[memoryview]) -> None:
            asked.request_id = (answer.parameters or {}).get("request_id", "")
            described = tuple((one.name, one.datatype, tuple(one.shape)) for one in answer.outputs)
            raw = [bytes(chunk) for chunk in chunks]
            model, version = answer.model_name, answer.model_version
            asked.respond(200, _response(model, version, described, raw, answer.id, asked.request_id))

        bulk.take(Forwarded(asked, message, parameters, outputs, receiver.deadline_ns, tell))  # type: ignore[arg-type]
        return True

    def _read(self, call: Call, max_rows: int) -> None:
        asked: InferCall | Streamed = call.exchange  # type: ignore[assignment]
        repeated = asked.repeated
        if repeated is not None and (way := repeated.ways.get(call.deployment)) is not None:
            repeated.read(call, way)
            return
        message = asked.message = asked.message or parsed(REQUEST, asked.body)
        read_message(call, message, max_rows)
        if (repeated := repeated or self._keep(message, asked.body)) is not None:
            _find_way(repeated, call, message)

    def _keep(self, message: Message, body: bytes | bytearray) -> Repeated | None:
        """Keep what stands before the numbers, if nothing follows them and whatever else is said is always the same."""
        if len(message.inputs) != 1 or len(message.raw_input_contents) != 1 or message.parameters or message.id:
            return None
        tensor, size = message.inputs[0], len(message.raw_input_contents[0])
        if tensor.datatype not in _NUMBERS or tensor.parameters or any(one.parameters for one in message.outputs):
            return None
        before = REQUEST()
        before.CopyFrom(message)
        before.ClearField("raw_input_contents")
        prefix: bytes = before.SerializeToString() + _RAW_INPUT + _varint(size)
        # Written anew it must be what came: other bytes may mean the same, but not everything that begins with them.
        if len(prefix) > KEPT_PREFIX_BYTES or len(prefix) + size != len(body) or not body.startswith(prefix):
            return None
        if len(self._repeated) >= KEPT_REQUESTS:
            self._repeated.clear()
        kept = self._repeated[len(body)] = Repeated(message, prefix)
        return kept

    def _say(self, call: Call, batch: Batch, start: int) -> None:
        """Answer with the outputs that were asked for."""
        wanted: v2.Wanted = call.options  # type: ignore[assignment]
        deployment, rows = call.deployment, call.rows
        if (plain := self._plain.get(deployment)) is None:
            plain = self._plain[deployment] = _plain_outputs(deployment)
        described: list[Described] = []
        chunks: list[bytes] = []
        shape: tuple[int, ...]
        for one in wanted.outputs:
            name = one.name
            if name in plain and not one.classes and (values := batch.outputs[name]).dtype is _FP32:
                datatype, shape, chunk = "FP32", (rows,), values[start : start + rows].tobytes()
            else:
                datatype, shape, chunk = _output(call, batch, start, one)
            described.append((name, datatype, shape))
            chunks.append(chunk)
        endpoint, version = deployment.endpoint, deployment.version_text
        call.exchange.respond(200, _response(endpoint, version, tuple(described), chunks, wanted.id, call.request_id))


def _find_way(repeated: Repeated, call: Call, message: Message) -> None:
    layout = call.deployment.replica.loaded.manifest.signature.layout
    if layout in ("matrix", "tensors"):
        name = message.inputs[0].name if layout == "tensors" else ""
        repeated.ways[call.deployment] = Way(call.options, call.group, name)  # type: ignore[arg-type]


# --- the request


def read_message(call: Call, message: Message, max_rows: int) -> None:
    """The general way: whatever a request may hold, as the deployment's inputs and what the answer must hold.

    Raises InvalidInput or TooLarge before anything joins a batch.
    """
    if len(message.inputs) > v2.MAX_TENSORS:
        raise InvalidInput(f"{len(message.inputs)} inputs are above the limit of {v2.MAX_TENSORS}")
    arrays = _arrays(message, is_table=call.deployment.replica.loaded.is_table)
    v2.accept_tensors(call, arrays, {tensor.name: tensor.datatype for tensor in message.inputs}, max_rows)
    parameters, outputs = _wishes(message)
    v2.accept_wishes(call, parameters, outputs, message.id)


def _wishes(message: Message) -> tuple[v2.Parameters, list[v2.RequestedOutput]]:
    """How the call wants to be treated and answered. Raises InvalidInput."""
    outputs = [v2.RequestedOutput(output.name, _parameters(output.parameters)) for output in message.outputs]
    parameters = _parameters(message.parameters)
    parameters["binary_data_output"] = True  # gRPC has no other form of answers
    return parameters, outputs


def _parameters(said: Any) -> v2.Parameters:
    """Parameters as values; Triton's own, which mean nothing for the answer, are left out."""
    values: v2.Parameters = {}
    for name, parameter in said.items():
        if name in _REGIONS:
            raise InvalidInput("shared memory is not served; send the tensors in the message")
        if (kind := parameter.WhichOneof("parameter_choice")) is None:
            raise InvalidInput(f"the parameter '{name[:64]}' has no value")
        if not name.startswith("triton_"):
            values[name] = getattr(parameter, kind)
    return values


def _arrays(message: Message, *, is_table: bool) -> Tensors:
    """Each input as an array by its name. Raises InvalidInput; sizes are checked before any array is made."""
    raw = message.raw_input_contents
    _check_raw(message)
    arrays: Tensors = {}
    for position, tensor in enumerate(message.inputs):
        label = f"input '{tensor.name[:64]}'"
        if tensor.name in arrays:
            raise InvalidInput(f"{label} is sent twice")
        check_datatype(tensor.datatype, label)
        shape = list(tensor.shape)
        count = check_shape(shape, label)
        if not raw:
            arrays[tensor.name] = _from_contents(tensor, shape, count, label, is_table=is_table)
            continue
        data = memoryview(raw[position])
        arrays[tensor.name] = from_binary(data, tensor.datatype, shape, label, is_table=is_table)
    if not arrays:
        raise InvalidInput("the request has no inputs")
    return arrays


def _check_raw(message: Message) -> None:
    """Raw contents are there for every input or for none. Raises InvalidInput."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs: one for each, or none"
        )
    for tensor in message.inputs:
        if raw and tensor.HasField("contents"):
            label = f"input '{tensor.name[:64]}'"
            raise InvalidInput(f"{label} has contents, and the request has raw_input_contents: one of both")
        _parameters(tensor.parameters)


def _from_contents(tensor: Message, shape: list[int], count: int, label: str, *, is_table: bool) -> NDArray[Any]:
    """An array from the list that belongs to its datatype."""
    wanted = _CONTENTS.get(tensor.datatype)
    if wanted is None:
        raise InvalidInput(f"{label}: {tensor.datatype} has no typed contents; send it in raw_input_contents")
    if others := [field.name for field, _ in tensor.contents.ListFields() if field.name != wanted]:
        raise InvalidInput(f"{label} is {tensor.datatype}, which travels in {wanted} and not in {others[0]}")
    values = getattr(tensor.contents, wanted)
    if len(values) != count:
        raise InvalidInput(f"{label} has {len(values)} elements where its shape needs {count}")
    dtype = NUMPY_TYPES[tensor.datatype]
    if dtype.kind == "O":
        array = np.empty(count, dtype=object)
        array[:] = [_text(value, label, is_table=is_table) for value in values]
        return array.reshape(shape)
    array = np.array(values, dtype=dtype if dtype.kind in "bf" else np.dtype(f"{dtype.kind}8"))
    if dtype.kind in "iu" and dtype.itemsize < 8 and count:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise InvalidInput(f"{label} has values outside the range of {tensor.datatype}")
    return array.astype(dtype, copy=False).reshape(shape)


def _text(value: bytes, label: str, *, is_table: bool) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        if is_table:
            raise InvalidInput(f"{label}: a string is not UTF-8") from None
        return value


# --- the answer


def _plain_outputs(deployment: Deployment) -> frozenset[str]:
    specs = v2.output_specs(deployment) if deployment.replica.loaded.manifest.independent_rows else []
    made = ("score", "decision") if deployment.cutoff is not None else ()  # not by the model: by the endpoint's cut-off
    return frozenset(
        spec.name for spec in specs if spec.datatype == "FP32" and len(spec.shape) == 1 and spec.name not in made
    )


def _output(call: Call, batch: Batch, start: int, one: v2.WantedOutput) -> tuple[str, tuple[int, ...], bytes]:
    """(datatype, shape, bytes) of any output."""
    _, datatype, values = v2.output_of(call, batch, start, one.name)
    if one.classes:
        datatype, values = "BYTES", v2._classified(values, one.classes, v2._labels(call.deployment))
    return datatype, values.shape, to_binary(values, datatype)


def _response(
    model: str, version: str, described: tuple[Described, ...], chunks: list[bytes], id_: str, request_id: str
) -> bytes:
    """A ModelInferResponse: its head, which is the same for many calls, and what is this one's own."""
    parts = [_head(model, version, described), _id_parameter(request_id)]
    if id_:
        text = id_.encode()
        parts += (_ID, _varint(len(text)), text)
    for chunk in chunks:
        parts += (_RAW_OUTPUT, _varint(len(chunk)), chunk)
    return b"".join(parts)


_heads: dict[Any, bytes] = {}


def _head(model: str, version: str, outputs: tuple[Described, ...]) -> bytes:
    """A ModelInferResponse without its numbers, id and parameters: the same for many calls."""
    key = (model, version, outputs)
    if (head := _heads.get(key)) is None:
        described = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs]
        head = RESPONSE(model_name=model, model_version=version, outputs=described).SerializeToString()
        if len(_heads) >= KEPT_HEADS:
            _heads.clear()
        _heads[key] = head
    return head


def _varint(number: int) -> bytes:
    """Protobuf's integer."""
    if number < 0x80:
        return bytes((number,))
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _id_parameter(request_id: str) -> bytes:
    """The parameter `request_id` of an answer, under which feedback knows the call. Written by hand: it is in each."""
    size = len(request_id)  # of ASCII, below 100
    return b"\x22%c\x0a\x0arequest_id\x12%c\x1a%c%b" % (size + 16, size + 2, size, request_id.encode())


_FINAL: bytes = RESPONSE(parameters={"triton_final_response": {"bool_param": True}}).SerializeToString()


# --- the receivers


class InferCall(Unary):
    """A ModelInfer."""

    __slots__ = ("_infer", "body", "message", "repeated")

    def __init__(self, edge: GrpcEdge, stream: Stream, known: Known, infer: Infer) -> None:
        super().__init__(edge, stream, known)
        self._infer = infer
        self.body: bytes | bytearray = b""
        self.message: Message = None  # the body, parsed; where it is not repeated
        self.repeated: Repeated | None = None

    def take(self, message: bytes | bytearray) -> None:
        """Start the call."""
        self.body = message
        self._infer.begin(self, self)


class Streamed:
    """One request of a stream: a caller of its own, as far as the story goes."""

    __slots__ = ("_stream", "body", "headers", "message", "repeated", "request_id", "response", "size")

    def __init__(self, stream: InferStream, body: bytes | bytearray, size: int) -> None:
        self._stream = stream
        self.headers = stream.headers
        self.body = body
        self.size = size  # on the wire
        self.message: Message = None
        self.repeated: Repeated | None = None
        self.request_id = ""
        self.response: bytes | None = None

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._stream.is_gone

    def refuse(self, error: ModelyardError) -> None:
        """Answer with an error; the stream lives on."""
        self._stream.failed(self, error)

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """Answer with a message; what HTTP says besides has no place here."""
        self._stream.answered(self, body)


class InferStream(Receiver):
    """A ModelStreamInfer: each message is a call of its own; answers leave in the order of their requests."""

    __slots__ = ("_in_turn", "_infer", "_is_partial", "_is_reading", "_is_stopping")

    def __init__(self, edge: GrpcEdge, stream: Stream, known: Known, infer: Infer) -> None:
        super().__init__(edge, stream, known)
        self._infer = infer
        self._in_turn: deque[Streamed] = deque()  # whose answer has not left, oldest first
        self._is_reading = self._is_partial = self._is_stopping = False

    def receive(self) -> None:
        """Begin a call with each whole message, as long as not too many wait for their answers, or answers to leave."""
        stream = self.stream
        if self._is_reading or stream.is_ended:
            return  # an answer came at once: the loop below goes on by itself
        self._is_reading = True
        try:
            most = self.edge.settings.max_outstanding
            while self._has_room(most) and (found := self.next_message()) is not None:
                self._begin(*found)
            stream.want(more=self._has_room(most))
        finally:
            self._is_reading = False
        self._set_deadline()
        self._end_if_done()

    def _has_room(self, most: int) -> bool:
        stream = self.stream
        return len(self._in_turn) + len(stream.pending) < most and not stream.is_closed and not stream.is_ended

    def sent(self) -> None:
        """There is room for a further request."""
        self.arrived()

    def _begin(self, body: bytes | bytearray, size: int) -> None:
        asked = Streamed(self, body, size)
        self._in_turn.append(asked)
        try:
            self._infer.begin(asked, self)
        except ModelyardError as error:
            self.failed(asked, error)
        except Exception as error:
            self.failed(asked, self.edge.gateway.failed(error))

    def answered(self, asked: Streamed, message: bytes) -> None:
        """One request's answer, which leaves when its turn comes."""
        asked.response = b"%b%b%b" % (_RESPONSE_IN_STREAM, _varint(len(message) + len(_FINAL)), message + _FINAL)
        self._flush()

    def failed(self, asked: Streamed, error: ModelyardError) -> None:
        """One request's error; the stream lives on."""
        if asked.response is not None or self.is_gone:
            return
        request_id = asked.request_id or self.edge.gateway.ids.new("", "")
        self.edge.note(error, request_id)
        said = {"modelyard_code": {"string_param": error.code}, "request_id": {"string_param": request_id}}
        said["triton_final_response"] = {"bool_param": True}  # type: ignore[dict-item]
        response = {"id": asked.message.id if asked.message is not None else "", "parameters": said}
        told = STREAM_RESPONSE(error_message=message_of(error), infer_response=response)
        asked.response = told.SerializeToString()
        self._flush()

    def _flush(self) -> None:
        waiting, stream = self._in_turn, self.stream
        while waiting and (response := waiting[0].response) is not None and not stream.is_closed:
            asked = waiting.popleft()
            self.edge.reply(stream, response, asked.request_id, is_last=False)
            stream.took(asked.size)
        if not stream.is_closed:
            self.arrived()  # what waits may begin now

    def _end_if_done(self) -> None:
        """The stream ends once nothing waits and nothing more will come."""
        if self._in_turn or self.is_gone or self.stream.is_ended:
            return
        if self._is_stopping:
            self.refuse(NotReady("the gateway stops; connect again"))
        elif self.stream.is_whole:
            if self.stream.body:
                raise Undecodable("the stream ends within a message")
            self.edge.end(self.stream)

    def _set_deadline(self) -> None:
        """Between messages the stream may be idle, within one it may not; a deadline of the caller's counts always."""
        settings, stream = self.edge.settings, self.stream
        was_partial, self._is_partial = self._is_partial, bool(stream.body) and stream.wants_more
        if stream.is_whole or (was_partial and self._is_partial):
            return  # a trickle of bytes does not extend it
        deadline = self.edge.now() + (settings.body_timeout_s if self._is_partial else settings.idle_timeout_s)
        if (self._in_turn or stream.pending) and not self._is_partial:
            deadline = NEVER  # it waits for us
        if self.deadline_ns is not None:
            deadline = min(deadline, self.edge.now() + (self.deadline_ns - time.monotonic_ns()) / 1e9)
        stream.expire_at(deadline)

    def expired(self) -> None:
        """The peer sent nothing for long, or its own deadline has passed."""
        if self._is_partial or self.is_late:
            super().expired()
        else:
            self.refuse(DeadlineExceeded("idle_timeout_s has passed without a request; open the stream anew"))

    def stop(self) -> None:
        """The gateway stops: end after the answers that are due."""
        self._is_stopping = True
        self.arrived()
