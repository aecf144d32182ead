"""Open Inference Protocol V2 over REST: requests to a deployment's inputs. Keeps no state.

A table's version takes one tensor for each column, or one matrix if it was brought so; any other takes the tensors of
its signature. `tensors.py` reads the tensors themselves, as JSON or binary; `v2_wishes.py` how the call wants to be
answered.

The commonest requests have a quick way (`v2_quick.py`). What that does not accept goes the general way, which decides
alone and says what is wrong.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.encoding import decode_any
from modelyard.contract.errors import InvalidInput, Undecodable
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Matrix, Tensors, element_count
from modelyard.serve.call import Call
from modelyard.serve.routing import Deployment
from modelyard.serve.tensors import (
    MAX_TENSORS,
    InputTensor,
    Parameters,
    RequestedOutput,
    check_rows,
    check_signature,
    read_tensors,
    to_binary,
)
from modelyard.serve.v2_known import Known, known_of
from modelyard.serve.v2_wishes import Wanted, accept_wishes

LENGTH = b"inference-header-content-length"
_encode = msgspec.json.Encoder().encode


class InferRequest(msgspec.Struct, gc=False):
    """The JSON part of a request."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[RequestedOutput] | None = None


_decode = msgspec.json.Decoder(InferRequest).decode


# --- the request


def read_infer(call: Call, max_rows: int) -> None:
    """The body as the deployment's inputs, and what the answer must hold, before anything joins a batch."""
    known: Known = call.deployment.quick or known_of(call.deployment)
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
    known = known_of(deployment)
    for name in known.texts:
        if any(type(value) is bytes for value in arrays[name].reshape(-1).tolist()):
            raise InvalidInput(f"input '{name}' of model '{deployment.endpoint}' is text, and this is not UTF-8")
    call.inputs = arrays
    if known.is_free:
        call.group = tuple(arrays[spec.name].shape[1:] for spec in signature.inputs)


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
