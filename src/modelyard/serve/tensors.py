"""Tensors of the Open Inference Protocol, as JSON or binary, to arrays and back.

Everything about sizes is checked before any array is made: element counts are Python integers, so nothing overflows.
"""

from __future__ import annotations

import itertools
import struct
from typing import Any

import msgspec
import numpy as np

from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import NUMPY_TYPES, element_count


class InputTensor(msgspec.Struct, gc=False):
    """One tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, str | int | float | bool] = {}


def read_tensors(tensors: list[InputTensor], tail: memoryview) -> dict[str, np.ndarray]:
    """Each tensor as an array by its name; `tail` holds the binary ones, in their order. Raises InvalidInput."""
    arrays: dict[str, np.ndarray] = {}
    at = 0
    for tensor in tensors:
        label = f"input '{tensor.name[:64]}'"
        if tensor.name in arrays:
            raise InvalidInput(f"{label} is sent twice")
        dtype = NUMPY_TYPES.get(tensor.datatype)
        if dtype is None:
            raise InvalidInput(f"{label} has an unknown datatype; known are {', '.join(NUMPY_TYPES)}")
        if (
            not tensor.shape
            or any(not 0 <= dimension <= 1 << 40 for dimension in tensor.shape)
            or len(tensor.shape) > 8
        ):
            raise InvalidInput(f"{label}: a shape has 1 to 8 dimensions, none of them negative")
        count = element_count(tensor.shape)
        size = tensor.parameters.get("binary_data_size")
        if size is not None and tensor.data is not None:
            raise InvalidInput(f"{label} has both data and binary_data_size")
        if size is None:
            arrays[tensor.name] = _from_json(tensor, dtype, count, label)
            continue
        if type(size) is not int or size < 0 or at + size > len(tail):
            raise InvalidInput(f"{label}: binary_data_size does not fit the body")
        arrays[tensor.name] = _from_binary(tail[at : at + size], tensor, dtype, count, label)
        at += size
    if at != len(tail):
        raise InvalidInput(f"the body has {len(tail) - at} bytes more than the inputs' binary_data_size say")
    if not arrays:
        raise InvalidInput("the request has no inputs")
    return arrays


def _from_json(tensor: InputTensor, dtype: np.dtype, count: int, label: str) -> np.ndarray:
    if tensor.data is None:
        raise InvalidInput(f"{label} has no data")
    if tensor.datatype == "FP16":
        raise InvalidInput(f"{label}: FP16 has no JSON form; send it as binary data or as FP32")
    flat = _flatten(tensor.data, len(tensor.shape), label)
    if len(flat) != count:
        raise InvalidInput(f"{label} has {len(flat)} elements where its shape needs {count}")
    kinds = set(map(type, flat))
    if dtype.kind == "O":
        allowed: set[type] = {str, type(None)}
    elif dtype.kind == "b":
        allowed = {bool, type(None)}
    else:
        allowed = {int, float, type(None)} if dtype.kind == "f" else {int, type(None)}
    if not kinds <= allowed:
        raise InvalidInput(f"{label} has values that are not of datatype {tensor.datatype}")
    if dtype.kind == "O" or type(None) in kinds:
        array = np.array(flat, dtype=object)
        return array.reshape(tensor.shape)
    try:
        return np.array(flat, dtype=dtype).reshape(tensor.shape)
    except (OverflowError, ValueError):
        raise InvalidInput(f"{label} has values outside the range of {tensor.datatype}") from None


def _flatten(data: Any, depth: int, label: str) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidInput(f"{label}: data is a list")
    while data and isinstance(data[0], list):
        depth -= 1
        if depth < 1 or not all(isinstance(part, list) for part in data):
            raise InvalidInput(f"{label}: data is flat, or nested as its shape is")
        data = list(itertools.chain.from_iterable(data))
    flat: list[Any] = data
    return flat


def _from_binary(data: memoryview, tensor: InputTensor, dtype: np.dtype, count: int, label: str) -> np.ndarray:
    if dtype.kind == "O":
        return np.array(_strings(data, count, label), dtype=object).reshape(tensor.shape)
    if len(data) != count * dtype.itemsize:
        raise InvalidInput(
            f"{label}: binary_data_size is {len(data)} where shape and datatype need {count * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype=dtype.newbyteorder("<")).reshape(tensor.shape)


def _strings(data: memoryview, count: int, label: str) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise InvalidInput(f"{label}: a string's length is cut off")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size > len(data) - at or len(texts) >= count:
            raise InvalidInput(f"{label}: a string is longer than the data")
        try:
            texts.append(str(data[at : at + size], "utf-8"))
        except UnicodeDecodeError:
            raise InvalidInput(f"{label}: a string is not UTF-8") from None
        at += size
    if len(texts) != count:
        raise InvalidInput(f"{label} has {len(texts)} elements where its shape needs {count}")
    return texts


def to_binary(values: np.ndarray) -> bytes:
    """An array as the binary extension sends it: little-endian, row-major, strings behind their lengths."""
    if values.dtype.kind != "O":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = [str(value).encode() for value in values.reshape(-1).tolist()]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)
