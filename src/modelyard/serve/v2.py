"""Open Inference Protocol V2 over REST: requests to a deployment's inputs, batches to answers. Keeps no state.

A table's version takes one tensor for each column, or one matrix if it was brought so; any other takes the tensors of
its signature. `tensors.py` reads the tensors themselves, as JSON or binary.

The commonest requests have a quick way (`v2_quick.py`). What that does not accept goes the general way, which decides
alone and says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard import __version__
from modelyard.contract.encoding import decode_any
from modelyard.contract.errors import InvalidInput, Undecodable
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Matrix, Tensors, datatype_of, element_count
from modelyard.serve.call import Batch, Call
from modelyard.serve.routing import Deployment, Route, Routes
from modelyard.serve.tensors import (
    BINARY_ONLY,
    InputTensor,
    check_rows,
    check_signature,
    read_tensors,
    to_binary,
    to_json,
)
from modelyard.serve.tensors import MAX_TENSORS as MAX_TENSORS  # what the gRPC edge says in the protocol's words, too
from modelyard.serve.tensors import Parameters as Parameters
from modelyard.serve.tensors import RequestedOutput as RequestedOutput
from modelyard.serve.v2_quick import quick_ways

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
]
LENGTH = b"inference-header-content-length"
MAX_CLASSES = 100_000  # texts that `classification` may make for one answer
LOWEST_PRIORITY = 9
_TEXT_ONLY = frozenset(("onnx", "text"))  # runtimes whose BYTES are UTF-8; ONNX Runtime takes bytes for their repr
_OUTPUT_PARAMETERS = frozenset(("binary_data", "classification", "content_type", "headers"))  # the last two are hints
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")
_OWN_PARAMETERS = frozenset(("binary_data_output", "timeout", "priority", "content_type", "headers", *_SEQUENCES))
_encode = msgspec.json.Encoder().encode


class InferRequest(msgspec.Struct, gc=False):
    """The JSON part of a request."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[RequestedOutput] | None = None


class OutputTensor(msgspec.Struct, omit_defaults=True, gc=False):
    """One tensor of an answer: its data, or how many bytes of it follow the JSON."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


class InferAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """The JSON part of an answer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""
    parameters: dict[str, str] | None = None


class WantedOutput(msgspec.Struct, frozen=True, gc=False):
    """One output of the answer."""

    name: str
    is_binary: bool = False
    classes: int = 0  # above 0: the best so many, as texts


class Wanted(msgspec.Struct, gc=False):
    """What the answer must hold: the caller's id, and the outputs."""

    id: str
    outputs: Sequence[WantedOutput]


_decode = msgspec.json.Decoder(InferRequest).decode


# --- the request


def read_infer(call: Call, max_rows: int) -> None:
    """The body as the deployment's inputs, and what the answer must hold, before anything joins a batch."""
    known: _Known = call.deployment.quick or _known(call.deployment)
    exchange = call.exchange
    header = exchange.headers.get(LENGTH)
    for quick in known.quick_json if header is None else known.quick_binary:
        if (found := quick(exchange.body, header, max_rows)) is not None:
            matrix, request = found
            call.inputs = matrix
            call.rows = len(matrix)
            call.reasons = "none"
            if request.parameters is None and request.outputs is None and known.no_json is None:
                call.options = Wanted(request.id, known.all_json)
            else:
                accept_wishes(call, request.parameters or {}, request.outputs, request.id)
            return
    read_carefully(call, max_rows)


def read_carefully(call: Call, max_rows: int) -> None:
    """The general way, for whatever a request may hold."""
    deployment = call.deployment
    body, tail = _split(call)
    request = _request(body)
    if len(request.inputs) > MAX_TENSORS:
        raise InvalidInput(f"{len(request.inputs)} inputs are above the limit of {MAX_TENSORS}")
    arrays = read_tensors(request.inputs, tail, is_table=deployment.replica.loaded.is_table)
    accept_tensors(call, arrays, {tensor.name: tensor.datatype for tensor in request.inputs}, max_rows)
    accept_wishes(call, request.parameters, request.outputs, request.id)


def accept_tensors(call: Call, arrays: Tensors, datatypes: dict[str, str], max_rows: int) -> None:
    """Arrays as the call's inputs, whatever edge they came in by; `datatypes` as their sender named them.

    Raises InvalidInput or TooLarge. Sets `call.inputs`, `call.rows`, `call.group` and `call.reasons`.
    """
    deployment = call.deployment
    loaded = deployment.replica.loaded
    signature = loaded.manifest.signature
    call.reasons = "none"
    if loaded.is_table:
        _check_names(arrays, deployment)
        encode = _encode_matrix if signature.layout == "matrix" else _encode_columns
        call.inputs = encode(arrays, deployment, max_rows)
        call.rows = len(call.inputs)
        return
    joins = loaded.manifest.independent_rows
    call.rows = check_signature(arrays, datatypes, signature.inputs, deployment.endpoint, joins=joins)
    check_rows(call.rows, max_rows)
    known = _known(deployment)
    for name in known.texts:
        if any(type(value) is bytes for value in arrays[name].reshape(-1).tolist()):
            raise InvalidInput(f"input '{name}' of model '{deployment.endpoint}' is text, and this is not UTF-8")
    call.inputs = arrays
    if known.is_free:
        call.group = tuple(arrays[spec.name].shape[1:] for spec in signature.inputs)


def accept_wishes(call: Call, parameters: Parameters, outputs: list[RequestedOutput] | None, id_: str) -> None:
    """How a call wants to be treated and answered, whatever edge it came in by; its inputs are read already.

    Raises InvalidInput. Sets `call.options` to a `Wanted`, and deadline, priority and parameters where they are given.
    """
    default = False
    if parameters:
        _read_parameters(call, parameters)
        default = _flag(parameters, "binary_data_output", False)
    call.options = Wanted(id_, _wanted(call, outputs, default))


def _read_parameters(call: Call, parameters: Parameters) -> None:
    if any(parameters.get(name) for name in _SEQUENCES):
        raise InvalidInput("sequence parameters are for stateful models, and none is served; leave them out")
    if timeout := _whole(parameters, "timeout"):
        call.expire_in(timeout / 1e6)
    if priority := _whole(parameters, "priority"):
        call.priority = min(priority, LOWEST_PRIORITY)
    if not getattr(call.deployment.replica.loaded, "takes_parameters", False):
        return
    if free := {name: value for name, value in parameters.items() if name not in _OWN_PARAMETERS}:
        call.parameters = free
        call.group = (call.group, tuple(sorted((name, type(value).__name__, value) for name, value in free.items())))


def _whole(parameters: Parameters, name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise InvalidInput(f"the parameter '{name}' is a whole number of 64 bits, 0 or more")
    return value


def _flag(parameters: Parameters, name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if value is not True and value is not False:
        raise InvalidInput(f"the parameter '{name}' is true or false")
    return value


def _wanted(call: Call, outputs: list[RequestedOutput] | None, default: bool) -> Sequence[WantedOutput]:
    deployment = call.deployment
    known = _known(deployment)
    if not outputs:
        if default:
            return known.all_binary
        if known.no_json is not None:
            _refuse_json(known.no_json)
        return known.all_json
    specs = {spec.name: spec for spec in known.outputs}
    wanted = []
    for output in outputs:
        if (spec := specs.pop(output.name, None)) is None:
            if any(output.name == known_spec.name for known_spec in known.outputs):
                raise InvalidInput("an output is requested twice")
            raise InvalidInput(f"unexpected inference output '{output.name[:64]}' for model '{deployment.endpoint}'")
        if not output.parameters:
            one = WantedOutput(output.name, default)
        else:
            one = _wanted_output(output, spec, default, call.rows)
        if not one.is_binary and not one.classes and spec.datatype in BINARY_ONLY:
            _refuse_json(spec)
        wanted.append(one)
    return wanted


def _wanted_output(output: RequestedOutput, spec: TensorSpec, default: bool, rows: int) -> WantedOutput:
    label = f"output '{spec.name}'"
    if unknown := set(output.parameters) - _OUTPUT_PARAMETERS:
        raise InvalidInput(f"{label}: the parameters {sorted(name[:64] for name in unknown)} are not served")
    classes = _whole(output.parameters, "classification")
    if classes and (spec.datatype in ("BYTES", "BOOL") or len(spec.shape) > 2):
        raise InvalidInput(f"{label} is no list of numbers for each row, so it has no classification")
    if classes * rows > MAX_CLASSES:
        raise InvalidInput(f"{label}: classification x rows is above the limit of {MAX_CLASSES}")
    return WantedOutput(spec.name, _flag(output.parameters, "binary_data", default), classes)


def _refuse_json(spec: TensorSpec) -> None:
    raise InvalidInput(
        f"output '{spec.name}' is {spec.datatype}, which has no JSON form; ask for it with \"binary_data\": true"
    )


def _check_names(arrays: Tensors, deployment: Deployment) -> None:
    """Every tensor is one of the signature's and of its kind, and none that is required is missing.

    Tensors of columns that no model sees are dropped, as plain JSON drops such columns.
    """
    encoder = deployment.replica.loaded.encoder
    specs = {spec.name: spec for spec in deployment.replica.loaded.manifest.signature.inputs}
    for name, values in list(arrays.items()):
        if name not in specs and name in encoder.known:
            del arrays[name]
            continue
        if name not in specs:
            raise InvalidInput(f"unexpected inference input '{name[:64]}' for model '{deployment.endpoint}'")
        _check_kind(specs[name], values)
    if missing := [name for name in specs if name not in arrays and _is_required(name, encoder.features)]:
        raise InvalidInput(f"the inputs {missing} are missing for model '{deployment.endpoint}'")


def _encode_matrix(arrays: Tensors, deployment: Deployment, max_rows: int) -> Matrix:
    """The one tensor of a version that was brought as such."""
    encoder = deployment.replica.loaded.encoder
    ((name, matrix),) = arrays.items()
    if matrix.ndim == 1:
        matrix = matrix.reshape(1, -1)
    if matrix.ndim != 2 or matrix.shape[1] != len(encoder.names):
        raise InvalidInput(f"input '{name}' has the shape [rows, {len(encoder.names)}]")
    check_rows(len(matrix), max_rows)
    return encoder.encode_matrix(matrix)


def _encode_columns(arrays: Tensors, deployment: Deployment, max_rows: int) -> Matrix:
    """One tensor for each column."""
    lengths = {len(values) for values in arrays.values()}
    if len(lengths) != 1 or any(values.ndim > 2 or values.size != len(values) for values in arrays.values()):
        raise InvalidInput("every input has the shape [rows] or [rows, 1], with one and the same number of rows")
    rows = lengths.pop()
    check_rows(rows, max_rows)
    columns = {name: values.reshape(-1) for name, values in arrays.items()}
    return deployment.replica.loaded.encoder.encode_columns(columns, rows)


def _check_kind(spec: TensorSpec, values: NDArray[Any]) -> None:
    wants_text = spec.datatype == "BYTES"
    kinds = set(map(type, values.reshape(-1).tolist())) if values.dtype.kind == "O" else {float}
    if kinds != {type(None)} and wants_text != (str in kinds):
        raise InvalidInput(f"input '{spec.name}' is of datatype {spec.datatype}")


def _is_required(name: str, features: Any) -> bool:
    return next((column.default is None for column in features if column.name == name), True)


# --- the body


def _split(call: Call) -> tuple[bytes | bytearray, memoryview]:
    """The JSON part and the binary part of the body."""
    body = call.exchange.body
    header = call.exchange.headers.get(LENGTH)
    if header is None:
        return body, memoryview(b"")
    if not header.isdigit() or len(header) > 12:
        raise Undecodable("Inference-Header-Content-Length is a number")
    length = int(header)
    if length > len(body):
        raise Undecodable("Inference-Header-Content-Length is larger than the body")
    if length == 0:
        return _raw_request(call)
    return body[:length], memoryview(body)[length:]


def _raw_request(call: Call) -> tuple[bytes, memoryview]:
    """A body that is one tensor and nothing else: its description follows from the signature and its size.

    One dimension may be free, its size follows; a second one is 1. A BYTES tensor is one element, without its length.
    """
    body = call.exchange.body
    signature = call.deployment.replica.loaded.manifest.signature
    if len(signature.inputs) != 1:
        raise InvalidInput("a raw binary request needs a model with exactly one input")
    spec = signature.inputs[0]
    if spec.datatype == "BYTES":
        if any(dimension not in (-1, 1) for dimension in spec.shape):
            raise InvalidInput("a raw binary request of text needs a model whose input may be one element")
        data = memoryview(to_binary(np.array([bytes(body)], dtype=object)))
        shape = [1] * len(spec.shape)
    else:
        data = memoryview(body)
        shape = list(spec.shape)
        free = [at for at, dimension in enumerate(shape) if dimension < 0]
        if len(free) > 2:
            raise InvalidInput("a raw binary request needs a model whose input has one free dimension besides the rows")
        item = 2 if spec.datatype == "BF16" else NUMPY_TYPES[spec.datatype].itemsize
        step = item * element_count([dimension for dimension in shape if dimension > 0])
        for at in free[:-1]:
            shape[at] = 1
        for at in free[-1:]:
            shape[at] = len(body) // step
    tensor = InputTensor(spec.name, shape, spec.datatype, parameters={"binary_data_size": len(data)})
    return _encode(InferRequest([tensor], parameters={"binary_data_output": True})), data


def _request(body: bytes | bytearray) -> InferRequest:
    try:
        return _decode(body)
    except RecursionError:
        raise Undecodable("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise Undecodable(f"not an inference request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        if b"NaN" not in body and b"Infinity" not in body:
            decode_any(body)  # says what is wrong
    # Some clients write a bare NaN for a missing number, as TensorFlow Serving allows.
    try:
        value = json.loads(body)
        if b"\\u" in body:  # it lets half a surrogate pair through, which no text may hold
            json.dumps(value, ensure_ascii=False).encode()
        return msgspec.convert(value, InferRequest)
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise Undecodable("the body is not valid JSON") from None


# --- what is known of a deployment beforehand


class _Known:
    """What follows from a deployment alone, made when its first call comes."""

    __slots__ = ("all_binary", "all_json", "is_free", "no_json", "outputs", "quick_binary", "quick_json", "texts")

    def __init__(self, deployment: Deployment) -> None:
        loaded = deployment.replica.loaded
        inputs = loaded.manifest.signature.inputs
        self.outputs = output_specs(deployment)
        self.all_json = tuple(WantedOutput(spec.name) for spec in self.outputs)
        self.all_binary = tuple(WantedOutput(spec.name, True) for spec in self.outputs)
        self.no_json = next((spec for spec in self.outputs if spec.datatype in BINARY_ONLY), None)
        self.is_free = any(-1 in spec.shape[1:] for spec in inputs)
        reads_text = loaded.manifest.runtime in _TEXT_ONLY
        self.texts = [spec.name for spec in inputs if spec.datatype == "BYTES" and reads_text]
        self.quick_json, self.quick_binary = quick_ways(loaded.manifest.signature, loaded.encoder)


def _known(deployment: Deployment) -> _Known:
    known: _Known | None = deployment.quick
    if known is None:
        known = deployment.quick = _Known(deployment)
    return known


# --- the answer


def say_infer(call: Call, batch: Batch, start: int) -> None:
    """Answer with the outputs that were asked for, as JSON or binary."""
    wanted: Wanted = call.options  # type: ignore[assignment]
    deployment = call.deployment
    outputs, chunks = [], []
    for one in wanted.outputs:
        if not one.is_binary and not one.classes and (plain := batch.plain(one.name)) is not None:
            datatype, listed = plain  # made once for the whole batch
            data = listed[start : start + call.rows]
            outputs.append(OutputTensor(one.name, datatype, [len(data)], data))
            continue
        name, datatype, values = output_of(call, batch, start, one.name)
        if one.classes:
            datatype, values = "BYTES", _classified(values, one.classes, _labels(deployment))
        if one.is_binary:
            chunk = to_binary(values, datatype)
            chunks.append(chunk)
            outputs.append(OutputTensor(name, datatype, values.shape, parameters={"binary_data_size": len(chunk)}))
        else:
            outputs.append(OutputTensor(name, datatype, values.shape, to_json(values, datatype, f"output '{name}'")))
    head = _encode(
        InferAnswer(deployment.endpoint, deployment.version_text, outputs, wanted.id, {"request_id": call.request_id})
    )
    if not chunks:
        call.exchange.respond(200, head)
        return
    length = b"inference-header-content-length: %d\r\n" % len(head)
    call.exchange.respond(200, b"".join([head, *chunks]), b"application/octet-stream", length)


def outputs_of(
    call: Call, batch: Batch, start: int, names: Sequence[str] | None = None
) -> list[tuple[str, str, NDArray[Any]]]:
    """(name, datatype, values) of each output that callers see, or of those named; decision and score included."""
    if names is None:
        names = [spec.name for spec in _known(call.deployment).outputs]
    return [output_of(call, batch, start, name) for name in names]


def output_of(call: Call, batch: Batch, start: int, name: str) -> tuple[str, str, NDArray[Any]]:
    """One output for this call; decision and score are made here, since the cut-off is the endpoint's."""
    deployment = call.deployment
    decision, cutoff = deployment.decision, deployment.cutoff
    if name not in batch.outputs and decision is not None and cutoff is not None:
        probability = batch.outputs["probability"][start : start + call.rows].astype(np.float64)  # as the cut-off is
        if name == "score":
            return name, "INT64", decision.scale.score(probability)
        said = np.where(probability >= cutoff, decision.positive, decision.negative).astype(object)
        return name, "BYTES", said
    values = batch.outputs[name]
    if deployment.replica.loaded.manifest.independent_rows:
        values = values[start : start + call.rows]
    spec = next((spec for spec in _known(deployment).outputs if spec.name == name), None)
    if spec is not None and spec.datatype == "BF16" and values.dtype == np.float32:
        return name, "BF16", values
    return name, datatype_of(values.dtype), values


def _labels(deployment: Deployment) -> tuple[str, ...]:
    target = deployment.replica.loaded.manifest.contract.target
    return target.classes if target is not None else ()


def _classified(values: NDArray[Any], count: int, labels: tuple[str, ...]) -> NDArray[Any]:
    """The best `count` of each row's numbers as "value:index[:label]", BYTES[rows, count]."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    texts = np.empty(best.shape, dtype=object)
    for row, indices in enumerate(best.tolist()):
        for rank, index in enumerate(indices):
            label = f":{labels[index]}" if len(labels) == rows.shape[1] else ""
            texts[row, rank] = f"{rows[row, index]:f}:{index}{label}"
    return texts


# --- what there is


def unknown_model(name: str) -> str:
    """What Triton says, and its clients' tests match."""
    return f"Request for unknown model: '{name[:64]}' is not found"


def server_metadata() -> bytes:
    """`GET /v2`."""
    return _encode({"name": "modelyard", "version": __version__, "extensions": EXTENSIONS})


def model_list(routes: Routes) -> bytes:
    """`GET /v2/models`."""
    return _encode({"models": routes.names})


def model_ready(deployment: Deployment) -> bytes:
    """`GET /v2/models/{m}/ready` of one that is."""
    return _encode({"name": deployment.endpoint, "ready": True})


def model_metadata(route: Route, deployment: Deployment) -> bytes:
    """`GET /v2/models/{m}`: versions, inputs and outputs."""
    return _encode(
        {
            "name": route.name,
            "versions": [str(version) for version in sorted(route.deployments)],
            "platform": _platform(deployment),
            "inputs": deployment.replica.loaded.manifest.signature.inputs,
            "outputs": output_specs(deployment),
        }
    )


def model_config(route: Route, deployment: Deployment, max_rows: int) -> bytes:
    """`GET /v2/models/{m}/config`, as Triton's ModelConfig in JSON; `max_rows` of one call as the gateway allows it."""
    manifest = deployment.replica.loaded.manifest
    joins = manifest.independent_rows
    config: dict[str, Any] = {
        "name": route.name,
        "platform": _platform(deployment),
        "backend": manifest.runtime,
        "version_policy": {"specific": {"versions": sorted(route.deployments)}},
        "max_batch_size": (deployment.max_rows or max_rows) if joins else 0,
        "input": [_configured(spec, joins) for spec in manifest.signature.inputs],
        "output": [_configured(spec, joins) for spec in output_specs(deployment)],
        "instance_group": [{"name": route.name, "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": next(iter(manifest.files), ""),
    }
    if joins:  # without a delay: what is complete in one turn of the loop is one batch
        config["dynamic_batching"] = {"preferred_batch_size": [], "max_queue_delay_microseconds": 0}
    return _encode(config)


def _configured(spec: TensorSpec, joins: bool) -> dict[str, Any]:
    """One tensor in a ModelConfig, whose dimensions leave out the rows of a version that batches."""
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = list(spec.shape[1:] if joins else spec.shape)
    said: dict[str, Any] = {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims or [1]}
    return said if dims else said | {"reshape": {"shape": []}}


def _platform(deployment: Deployment) -> str:
    manifest = deployment.replica.loaded.manifest
    return "onnx_onnxv1" if manifest.framework == "onnx" else f"{manifest.framework}_{manifest.runtime}v1"


def output_specs(deployment: Deployment) -> list[TensorSpec]:
    """The outputs that callers see: the version's, and decision and score where there is a cut-off."""
    specs = list(deployment.replica.loaded.manifest.signature.outputs)
    if deployment.cutoff is not None:
        names = {spec.name for spec in specs}
        extra = (TensorSpec("score", "INT64", (-1,)), TensorSpec("decision", "BYTES", (-1,)))
        specs += [spec for spec in extra if spec.name not in names]
    return specs
