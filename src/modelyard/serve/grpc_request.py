"""A ModelInferRequest, whatever it may hold: from its message to a call's inputs, and what the answer must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import NUMPY_TYPES, Tensors
from modelyard.serve.call import Call
from modelyard.serve.grpc_messages import Message, message_class, parsed
from modelyard.serve.tensors import MAX_TENSORS, Parameters, RequestedOutput, check_datatype, check_shape, from_binary
from modelyard.serve.v2 import accept_tensors
from modelyard.serve.v2_wishes import accept_wishes

REQUEST = message_class("inference.ModelInferRequest")
CONTENTS = {
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


def read_message(call: Call, message: Message, max_rows: int) -> None:
    """Set the call's inputs, and what the answer must hold.

    Raises InvalidInput or TooLarge before anything joins a batch.
    """
    if len(message.inputs) > MAX_TENSORS:
        raise InvalidInput(f"{len(message.inputs)} inputs are above the limit of {MAX_TENSORS}")
    arrays = _arrays(message, is_table=call.deployment.replica.loaded.is_table)
    accept_tensors(call, arrays, {tensor.name: tensor.datatype for tensor in message.inputs}, max_rows)
    parameters, outputs = wishes(message)
    accept_wishes(call, parameters, outputs, message.id)


def read_copy(call: Call, max_rows: int) -> None:
    """The same of a call that is copied to a shadow: nothing is kept of it."""
    read_message(call, parsed(REQUEST, call.exchange.body), max_rows)


def wishes(message: Message) -> tuple[Parameters, list[RequestedOutput]]:
    """How the call wants to be treated and answered. Raises InvalidInput."""
    outputs = [RequestedOutput(output.name, _parameters(output.parameters)) for output in message.outputs]
    parameters = _parameters(message.parameters)
    parameters["binary_data_output"] = True  # gRPC has no other form of answers
    return parameters, outputs


def check_raw(message: Message) -> None:
    """Raw contents are there for every input or for none. Raises InvalidInput."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs: one for each, or none"
        )
    for tensor in message.inputs:
        if raw and tensor.HasField("contents"):
            raise InvalidInput(f"{_label(tensor)} has contents, and the request has raw_input_contents: one of both")
        _parameters(tensor.parameters)


def _parameters(said: Any) -> Parameters:
    """Parameters as values; Triton's own, which mean nothing for the answer, are left out."""
    values: Parameters = {}
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
    check_raw(message)
    arrays: Tensors = {}
    for position, tensor in enumerate(message.inputs):
        label = _label(tensor)
        if tensor.name in arrays:
            raise InvalidInput(f"{label} is sent twice")
        check_datatype(tensor.datatype, label)
        shape = list(tensor.shape)
        count = check_shape(shape, label)
        if raw:
            data = memoryview(raw[position])
            arrays[tensor.name] = from_binary(data, tensor.datatype, shape, label, is_table=is_table)
        else:
            arrays[tensor.name] = _from_contents(tensor, count, label, is_table=is_table).reshape(shape)
    if not arrays:
        raise InvalidInput("the request has no inputs")
    return arrays


def _label(tensor: Message) -> str:
    return f"input '{tensor.name[:64]}'"


def _from_contents(tensor: Message, count: int, label: str, *, is_table: bool) -> NDArray[Any]:
    """The elements in a row, from the list that belongs to their datatype."""
    wanted = CONTENTS.get(tensor.datatype)
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
        return array
    array = np.array(values, dtype=dtype if dtype.kind in "bf" else np.dtype(f"{dtype.kind}8"))
    if dtype.kind in "iu" and dtype.itemsize < 8 and count:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise InvalidInput(f"{label} has values outside the range of {tensor.datatype}")
    return array.astype(dtype, copy=False)


def _text(value: bytes, label: str, *, is_table: bool) -> str | bytes:
    """What is not UTF-8 stays bytes, except in a table."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        if is_table:
            raise InvalidInput(f"{label}: a string is not UTF-8") from None
        return value
