"""Open Inference Protocol V2 over REST: requests to matrices, batches to answers. Keeps no state.

One tensor for each column, or one matrix for versions that were brought as such. `tensors.py` reads the tensors
themselves, as JSON or binary.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import numpy as np

from modelyard import __version__
from modelyard.contract.encoding import decode_any
from modelyard.contract.errors import InvalidInput, TooLarge, Undecodable
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Matrix, datatype_of, element_count
from modelyard.serve.call import Batch, Call
from modelyard.serve.routing import Deployment, Route, Routes
from modelyard.serve.tensors import InputTensor, read_tensors, to_binary

EXTENSIONS = ["binary_tensor_data"]
LENGTH = b"inference-header-content-length"
MAX_TENSORS = 4096
_PARAMETERS = frozenset(("binary_data_size", "binary_data", "binary_data_output"))
_encode = msgspec.json.Encoder().encode


class RequestedOutput(msgspec.Struct, gc=False):
    """One output that the caller wants."""

    name: str
    parameters: dict[str, str | int | float | bool] = {}


class InferRequest(msgspec.Struct, gc=False):
    """The JSON part of a request."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: dict[str, str | int | float | bool] = {}
    outputs: list[RequestedOutput] | None = None


class OutputTensor(msgspec.Struct, omit_defaults=True, gc=False):
    """One tensor of an answer: its data, or how many bytes of it follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


class InferAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """The JSON part of an answer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""
    parameters: dict[str, str] | None = None


class Wanted(msgspec.Struct):
    """What the answer must hold: the caller's id, and each output with whether it goes out binary."""

    id: str
    outputs: list[tuple[str, bool]]


_decode = msgspec.json.Decoder(InferRequest).decode


def read_infer(call: Call, max_rows: int) -> None:
    """The body as the deployment's matrix, and what the answer must hold, before anything joins a batch."""
    if _read_one_row(call):
        return
    body, tail = _split(call)
    request = _request(body)
    if len(request.inputs) > MAX_TENSORS:
        raise InvalidInput(f"{len(request.inputs)} inputs are above the limit of {MAX_TENSORS}")
    call.options = _wanted(request, call.deployment)
    arrays = read_tensors(request.inputs, tail)
    _check_names(arrays, call.deployment)
    encode = _encode_matrix if call.deployment.replica.loaded.manifest.signature.layout == "matrix" else _encode_columns
    call.inputs = encode(arrays, call.deployment, max_rows)
    call.rows = len(call.inputs)
    call.reasons = "none"


def _check_names(arrays: dict[str, np.ndarray], deployment: Deployment) -> None:
    """Every tensor is one of the signature's and of its kind, and none that is required is missing.

    Tensors of columns that no model sees are dropped, as plain JSON drops such columns.
    """
    loaded = deployment.replica.loaded
    specs = {spec.name: spec for spec in loaded.manifest.signature.inputs}
    for name, values in list(arrays.items()):
        if name not in specs and name in loaded.encoder.known:
            del arrays[name]
            continue
        if name not in specs:
            raise InvalidInput(f"unexpected inference input '{name[:64]}' for model '{deployment.endpoint}'")
        _check_kind(specs[name], values)
    if missing := [name for name in specs if name not in arrays and _is_required(name, loaded.encoder.features)]:
        raise InvalidInput(f"the inputs {missing} are missing for model '{deployment.endpoint}'")


def _encode_matrix(arrays: dict[str, np.ndarray], deployment: Deployment, max_rows: int) -> Matrix:
    """The one tensor of a version that was brought as such."""
    encoder = deployment.replica.loaded.encoder
    ((name, matrix),) = arrays.items()
    if matrix.ndim == 1:
        matrix = matrix.reshape(1, -1)
    if matrix.ndim != 2 or matrix.shape[1] != len(encoder.names):
        raise InvalidInput(f"input '{name}' has the shape [rows, {len(encoder.names)}]")
    _check_rows(len(matrix), max_rows)
    return encoder.encode_matrix(matrix)


def _encode_columns(arrays: dict[str, np.ndarray], deployment: Deployment, max_rows: int) -> Matrix:
    """One tensor for each column."""
    lengths = {len(values) for values in arrays.values()}
    if len(lengths) != 1 or any(values.ndim > 2 or values.size != len(values) for values in arrays.values()):
        raise InvalidInput("every input has the shape [rows] or [rows, 1], with one and the same number of rows")
    rows = lengths.pop()
    _check_rows(rows, max_rows)
    columns = {name: values.reshape(-1) for name, values in arrays.items()}
    return deployment.replica.loaded.encoder.encode_columns(columns, rows)


def _check_rows(rows: int, max_rows: int) -> None:
    if rows < 1:
        raise InvalidInput("the inputs hold no row")
    if rows > max_rows:
        raise TooLarge(f"{rows} rows are above the limit max_rows={max_rows}; send them in parts")


def _read_one_row(call: Call) -> bool:
    """The quick way for the commonest request: one row of plain numbers as JSON, nothing asked for specially.

    Types made from the contract decode and check it in C; whatever they do not accept goes the general way.
    """
    deployment = call.deployment
    if deployment.quick is None:
        deployment.quick = _quick(deployment)
    decode, wanted = deployment.quick
    if decode is None or LENGTH in call.exchange.headers:
        return False
    try:
        request = decode(call.exchange.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    call.inputs = np.array([request.inputs[0].data], dtype=np.float32)
    call.rows = 1
    call.reasons = "none"
    call.options = Wanted(request.id, wanted)
    return True


def _quick(deployment: Deployment) -> tuple[Any, list[tuple[str, bool]]]:
    loaded = deployment.replica.loaded
    signature = loaded.manifest.signature
    types = loaded.encoder.number_types()
    wanted = [(spec.name, False) for spec in _output_specs(deployment)]
    if signature.layout != "matrix" or types is None:
        return None, wanted
    fields: list[Any] = [
        ("name", Literal[signature.inputs[0].name]),
        ("shape", tuple[Literal[1], Literal[len(types)]]),  # type: ignore[misc]
        ("datatype", Literal["FP32", "FP64"]),
        ("data", tuple[types]),  # type: ignore[valid-type]
    ]
    one: Any = msgspec.defstruct("OneRow", fields, forbid_unknown_fields=True, gc=False)
    row: list[Any] = [("inputs", tuple[one]), ("id", str, "")]
    whole: Any = msgspec.defstruct("OneRowRequest", row, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(whole).decode, wanted


def say_infer(call: Call, batch: Batch, start: int) -> None:
    """Answer with the outputs that were asked for, as JSON or binary."""
    wanted: Wanted = call.options  # type: ignore[assignment]
    outputs, chunks = [], []
    for name, is_binary in wanted.outputs:
        if not is_binary and (whole := batch.outputs.get(name)) is not None and whole.ndim == 1:
            data = batch.column(name)[start : start + call.rows]  # a list that is made once for the whole batch
            outputs.append(OutputTensor(name, datatype_of(whole.dtype), [call.rows], data))
            continue
        values = _output(call, batch, name, start)
        datatype, shape = datatype_of(values.dtype), list(values.shape)
        if is_binary:
            chunk = to_binary(values)
            chunks.append(chunk)
            outputs.append(OutputTensor(name, datatype, shape, parameters={"binary_data_size": len(chunk)}))
        else:
            outputs.append(OutputTensor(name, datatype, shape, values.reshape(-1).tolist()))
    deployment = call.deployment
    head = _encode(
        InferAnswer(deployment.endpoint, deployment.version_text, outputs, wanted.id, {"request_id": call.request_id})
    )
    if not chunks:
        call.exchange.respond(200, head)
        return
    length = b"inference-header-content-length: %d\r\n" % len(head)
    call.exchange.respond(200, b"".join([head, *chunks]), b"application/octet-stream", length)


def unknown_model(name: str) -> str:
    """What Triton says, and its clients' tests match."""
    return f"Request for unknown model: '{name[:64]}' is not found"


def server_metadata() -> bytes:
    """`GET /v2`."""
    return _encode({"name": "modelyard", "version": __version__, "extensions": EXTENSIONS})


def model_list(routes: Routes) -> bytes:
    """`GET /v2/models`."""
    return _encode({"models": routes.names})


def model_metadata(route: Route, deployment: Deployment) -> bytes:
    """`GET /v2/models/{m}`: versions, inputs and outputs."""
    manifest = deployment.replica.loaded.manifest
    return _encode(
        {
            "name": route.name,
            "versions": [str(version) for version in sorted(route.deployments)],
            "platform": f"{manifest.framework}_{manifest.runtime}v1" if manifest.framework != "onnx" else "onnx_onnxv1",
            "inputs": manifest.signature.inputs,
            "outputs": _output_specs(deployment),
        }
    )


def _output_specs(deployment: Deployment) -> list[TensorSpec]:
    specs = list(deployment.replica.loaded.manifest.signature.outputs)
    if deployment.cutoff is not None:
        names = {spec.name for spec in specs}
        extra = (TensorSpec("score", "INT64", (-1,)), TensorSpec("decision", "BYTES", (-1,)))
        specs += [spec for spec in extra if spec.name not in names]
    return specs


def _output(call: Call, batch: Batch, name: str, start: int) -> np.ndarray:
    """One output's values for this call; decision and score are made here, since the cut-off is the endpoint's."""
    rows = slice(start, start + call.rows)
    decision, cutoff = call.deployment.decision, call.deployment.cutoff
    if name in batch.outputs or decision is None or cutoff is None:
        return batch.outputs[name][rows]
    probability = batch.outputs["probability"][rows].astype(np.float64)  # float32 would round the cut-off itself
    if name == "score":
        return decision.scale.score(probability)
    return np.where(probability >= cutoff, decision.positive, decision.negative).astype(object)


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
        return _raw_request(call), memoryview(body)
    return body[:length], memoryview(body)[length:]


def _raw_request(call: Call) -> bytes:
    """A body that is one tensor and nothing else: its description follows from the signature."""
    signature = call.deployment.replica.loaded.manifest.signature
    if len(signature.inputs) != 1:
        raise InvalidInput("a raw binary request needs a model with exactly one input")
    spec = signature.inputs[0]
    size = len(call.exchange.body)
    item = NUMPY_TYPES[spec.datatype].itemsize if spec.datatype != "BYTES" else 0
    width = element_count([dimension for dimension in spec.shape if dimension > 0])
    rows = size // (item * width) if item else 1
    tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "parameters": {"binary_data_size": size}}
    tensor["shape"] = [rows if dimension < 0 else dimension for dimension in spec.shape]
    return _encode({"inputs": [tensor], "parameters": {"binary_data_output": True}})


def _request(body: bytes | bytearray) -> InferRequest:
    try:
        return _decode(body)
    except RecursionError:
        raise Undecodable("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise Undecodable(f"not an inference request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        if b"NaN" not in body:
            decode_any(body)  # says what is wrong
    # Some clients write a bare NaN for a missing number, as TensorFlow Serving allows.
    try:
        return msgspec.convert(json.loads(body), InferRequest)
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise Undecodable("the body is not valid JSON") from None


def _wanted(request: InferRequest, deployment: Deployment) -> Wanted:
    known = [spec.name for spec in _output_specs(deployment)]
    default = request.parameters.get("binary_data_output") is True
    if request.outputs is None or not request.outputs:
        return Wanted(request.id, [(name, default) for name in known])
    names = [output.name for output in request.outputs]
    if len(set(names)) != len(names):
        raise InvalidInput("an output is requested twice")
    for output in request.outputs:
        if output.name not in known:
            raise InvalidInput(f"unexpected inference output '{output.name[:64]}' for model '{deployment.endpoint}'")
        if unknown := set(output.parameters) - _PARAMETERS:
            raise InvalidInput(f"output parameters {sorted(unknown)} are not served")
    return Wanted(request.id, [(o.name, o.parameters.get("binary_data", default) is True) for o in request.outputs])


def _check_kind(spec: TensorSpec, values: np.ndarray) -> None:
    wants_text, has_text = (
        spec.datatype == "BYTES",
        values.dtype.kind == "O" and any(isinstance(value, str) for value in values.reshape(-1).tolist()),
    )
    if values.dtype.kind == "O" and all(value is None for value in values.reshape(-1).tolist()):
        return
    if wants_text != has_text:
        raise InvalidInput(f"input '{spec.name}' is of datatype {spec.datatype}")


def _is_required(name: str, features: Any) -> bool:
    return next((column.default is None for column in features if column.name == name), True)
