"""Tensors of the Open Inference Protocol, as JSON or binary, to arrays and back.

Everything about sizes is checked before any array is made: element counts are Python integers, so nothing overflows.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import InvalidInput, TooLarge
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Tensors, element_count, narrowed, widened

MAX_TENSORS = 4096
MAX_DIMENSIONS = 8
BINARY_ONLY = frozenset(("FP16", "BF16"))  # the protocol gives them no JSON form
_LARGEST = 1 << 40  # of a tensor's elements, were its dimensions of 0 left out: numpy counts its memory so
_LENGTH = struct.Struct("<I")
_JSON_TYPES: dict[str, set[type]] = {"O": {str}, "b": {bool}, "f": {int, float}}  # of a numpy kind; others are whole


Parameters = dict[str, str | int | float | bool]


class InputTensor(msgspec.Struct, gc=False):
    """One tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: Parameters = {}


class RequestedOutput(msgspec.Struct, gc=False):
    """One output that the caller wants."""

    name: str
    parameters: Parameters = {}


def read_tensors(tensors: Iterable[InputTensor], tail: memoryview, *, is_table: bool = False) -> Tensors:
    """Each tensor as an array by its name; `tail` holds the binary ones, in their order. Raises InvalidInput.

    Of a table (`is_table`), a value may be null, FP32 in JSON keeps the digits that were sent until it is checked, and
    text must be UTF-8. Otherwise a null is NaN in a float tensor and refused elsewhere, and an array has the datatype
    that is said.
    """
    arrays: Tensors = {}
    at = 0
    for tensor in tensors:
        label = f"input '{tensor.name[:64]}'"
        if tensor.name in arrays:
            raise InvalidInput(f"{label} is sent twice")
        check_datatype(tensor.datatype, label)
        count = check_shape(tensor.shape, label)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            arrays[tensor.name] = _from_json(tensor, count, label, is_table)
            continue
        if tensor.data is not None:
            raise InvalidInput(f"{label} has both data and binary_data_size")
        if type(size) is not int or size < 0 or at + size > len(tail):
            raise InvalidInput(f"{label}: binary_data_size does not fit the body")
        arrays[tensor.name] = from_binary(tail[at : at + size], tensor.datatype, tensor.shape, label, is_table=is_table)
        at += size
    if at != len(tail):
        raise InvalidInput(f"the body has {len(tail) - at} bytes more than the inputs' binary_data_size say")
    if not arrays:
        raise InvalidInput("the request has no inputs")
    return arrays


def check_datatype(datatype: str, label: str) -> None:
    """Raises InvalidInput for one that the protocol has not."""
    if datatype not in NUMPY_TYPES:
        raise InvalidInput(f"{label} has an unknown datatype; known are {', '.join(NUMPY_TYPES)}")


def check_shape(shape: list[int], label: str) -> int:
    """How many elements it holds. Raises InvalidInput for what no tensor has."""
    if not 1 <= len(shape) <= MAX_DIMENSIONS or any(dimension < 0 for dimension in shape):
        raise InvalidInput(f"{label}: a shape has 1 to {MAX_DIMENSIONS} dimensions, none of them negative")
    if element_count([dimension or 1 for dimension in shape]) > _LARGEST:
        raise InvalidInput(f"{label}: a shape that no memory holds")
    return element_count(shape)


def check_signature(
    arrays: Tensors, datatypes: Mapping[str, str], specs: tuple[TensorSpec, ...], endpoint: str, *, joins: bool
) -> int:
    """How many rows these tensors are, if they are the signature's: names, datatypes, fixed dimensions, equal rows.

    `joins`: rows are independent, so that the first axis of every tensor is the rows; otherwise only the first one's
    counts. Raises InvalidInput.
    """
    known = {spec.name for spec in specs}
    for name in arrays:
        if name not in known:
            raise InvalidInput(f"unexpected inference input '{name[:64]}' for model '{endpoint}'")
    for spec in specs:
        label = f"input '{spec.name}' of model '{endpoint}'"
        if spec.name not in arrays:
            raise InvalidInput(f"{label} is missing")
        if datatypes[spec.name] != spec.datatype:
            raise InvalidInput(f"{label} is of datatype {spec.datatype}")
        shape = arrays[spec.name].shape
        if len(shape) != len(spec.shape) or any(
            wanted not in (-1, size) for wanted, size in zip(spec.shape, shape, strict=True)
        ):
            raise InvalidInput(f"{label} has the shape {list(spec.shape)}, where -1 is any size")
    rows = {len(arrays[spec.name]) for spec in specs} if joins else {len(arrays[specs[0].name])}
    if len(rows) != 1:
        raise InvalidInput(f"the inputs of model '{endpoint}' have one and the same number of rows")
    return rows.pop()


def check_rows(rows: int, max_rows: int) -> None:
    """Raises InvalidInput for none, TooLarge for too many."""
    if rows < 1:
        raise InvalidInput("the inputs hold no row")
    if rows > max_rows:
        raise TooLarge(f"{rows} rows are above the limit max_rows={max_rows}; send them in parts")


def from_binary(
    data: memoryview, datatype: str, shape: list[int], label: str, *, is_table: bool = False
) -> NDArray[Any]:
    """An array from the bytes of one tensor; a view of them where that is possible. Raises InvalidInput."""
    count = element_count(shape)
    if datatype == "BYTES":
        texts = _strings(data, count, label, keeps_bytes=not is_table)
        array = np.empty(count, dtype=object)
        array[:] = texts
        return array.reshape(shape)
    dtype = np.dtype(np.uint16) if datatype == "BF16" else NUMPY_TYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise InvalidInput(
            f"{label}: binary_data_size is {len(data)} where shape and datatype need {count * dtype.itemsize}"
        )
    array = np.frombuffer(data, dtype=dtype.newbyteorder("<")).reshape(shape)
    if datatype == "BF16":
        return widened(array)
    if datatype == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise InvalidInput(f"{label}: a BOOL is one byte, 0 or 1")
    return array if array.flags.aligned else array.copy()  # it may begin anywhere in the body


def to_binary(values: NDArray[Any], datatype: str = "") -> bytes:
    """An array as the binary extension sends it: little-endian, row-major, strings behind their lengths."""
    if values.dtype.kind in "OUST":
        parts = [part if isinstance(part, bytes) else str(part).encode() for part in values.reshape(-1).tolist()]
        return b"".join(itertools.chain.from_iterable((_LENGTH.pack(len(part)), part) for part in parts))
    if datatype == "BF16":
        values = narrowed(values)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(values: NDArray[Any], datatype: str, label: str) -> list[Any]:
    """An array as JSON's flat data; what is no number becomes null. Raises InvalidInput for what has no JSON form."""
    if datatype in BINARY_ONLY:
        raise InvalidInput(f"{label}: {datatype} has no JSON form; ask for it as binary data")
    flat: list[Any] = values.reshape(-1).tolist()
    if datatype == "BYTES":
        try:
            return [part.decode() if isinstance(part, bytes) else str(part) for part in flat]
        except UnicodeDecodeError:
            raise InvalidInput(f"{label} holds bytes that are not UTF-8; ask for it as binary data") from None
    return flat


def _from_json(tensor: InputTensor, count: int, label: str, is_table: bool) -> NDArray[Any]:
    if tensor.data is None:
        raise InvalidInput(f"{label} has no data")
    if tensor.datatype in BINARY_ONLY:
        raise InvalidInput(f"{label}: {tensor.datatype} has no JSON form; send it as binary data or as FP32")
    flat = _flatten(tensor.data, tensor.shape, label)
    if len(flat) != count:
        raise InvalidInput(f"{label} has {len(flat)} elements where its shape needs {count}")
    dtype = NUMPY_TYPES[tensor.datatype]
    kinds = set(map(type, flat))
    has_null = type(None) in kinds
    allowed = _JSON_TYPES.get(dtype.kind, {int}) | ({type(None)} if is_table or dtype.kind == "f" else set())
    if not kinds <= allowed:
        raise InvalidInput(f"{label} has values that are not of datatype {tensor.datatype}")
    if dtype.kind == "O" or (has_null and is_table):
        return np.array(flat, dtype=object).reshape(tensor.shape)
    if is_table and dtype.kind == "f":
        dtype = np.dtype(np.float64)
    try:
        with np.errstate(over="raise"):
            return np.array(flat, dtype=dtype).reshape(tensor.shape)
    except (OverflowError, ValueError, FloatingPointError):
        raise InvalidInput(f"{label} has values outside the range of {tensor.datatype}") from None


def _flatten(data: Any, shape: list[int], label: str) -> list[Any]:
    """The elements in a row: data is flat, or nested exactly as the shape is."""
    if not isinstance(data, list):
        raise InvalidInput(f"{label}: data is a list")
    depth = 0
    while data and isinstance(data[0], list):
        depth += 1
        if depth >= len(shape) or (depth == 1 and len(data) != shape[0]):
            raise InvalidInput(f"{label}: data is flat, or nested as its shape is")
        if any(type(part) is not list or len(part) != shape[depth] for part in data):
            raise InvalidInput(f"{label}: data is flat, or nested as its shape is")
        data = list(itertools.chain.from_iterable(data))
    flat: list[Any] = data
    return flat


def _strings(data: memoryview, count: int, label: str, *, keeps_bytes: bool) -> list[str | bytes]:
    """Strings behind their lengths. What is not UTF-8 stays bytes, if it may."""
    if count * _LENGTH.size > len(data):
        raise InvalidInput(f"{label} has fewer elements than its shape needs")
    texts: list[str | bytes] = []
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise InvalidInput(f"{label}: a string's length is cut off")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if size > len(data) - at or len(texts) >= count:
            raise InvalidInput(f"{label}: a string is longer than the data")
        try:
            texts.append(str(data[at : at + size], "utf-8"))
        except UnicodeDecodeError:
            if not keeps_bytes:
                raise InvalidInput(f"{label}: a string is not UTF-8") from None
            texts.append(bytes(data[at : at + size]))
        at += size
    if len(texts) != count:
        raise InvalidInput(f"{label} has {len(texts)} elements where its shape needs {count}")
    return texts
