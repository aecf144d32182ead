"""The commonest V2 requests, decoded in C by types made from the signature: a table's rows as JSON, or as binary.

A way answers (the matrix, the request) or None, which says nothing of why: the general way in `v2.py` decides then, and
a property test holds both to the same answer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import reduce
from itertools import chain
from operator import or_
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import ModelyardError
from modelyard.contract.signature import Signature
from modelyard.contract.tensor import NUMPY_TYPES, Matrix
from modelyard.serve.tensors import MAX_TENSORS, Parameters, RequestedOutput

Body = bytes | bytearray
Found = tuple[Matrix, Any]  # and the request: its id, parameters and outputs
Quick = Callable[[Body, bytes | None, int], Found | None]  # body, header length if there is a binary part, most rows
Decode = Callable[[Body], Any]

_NOT_QUICK = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_encode = msgspec.json.Encoder().encode


def quick_ways(signature: Signature, encoder: Encoder) -> tuple[list[Quick], list[Quick]]:
    """The ways to read a version's requests in JSON, and those with a binary part; likelier ones first."""
    if signature.layout == "columns":
        return [_Columns(signature, encoder)], []
    if signature.layout == "matrix" and (types := encoder.number_types()) is not None:
        name = signature.inputs[0].name
        return [_OneRow(name, types), _Rows(name, encoder)], [_BinaryRows(name, encoder)]
    return [], []


class _OneRow:
    """One row of plain numbers: its types and ranges are checked while it is decoded."""

    def __init__(self, name: str, types: tuple[Any, ...]) -> None:
        content = ("data", tuple[types])  # type: ignore[valid-type]
        self._decode = _decoder(tuple[_matrix_type(name, Literal[1], len(types), content)])  # type: ignore[misc]

    def __call__(self, body: Body, header: bytes | None, max_rows: int) -> Found | None:
        try:
            request = self._decode(body)
        except _NOT_QUICK:
            return None
        return np.array([request.inputs[0].data], dtype=np.float32), request


class _Rows:
    """Any number of rows of plain numbers, flat or nested; ranges are checked on the whole matrix."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        width = len(encoder.names)
        flat, nested = ("data", list[float]), ("data", list[list[float]])
        self._flat = _decoder(tuple[_matrix_type(name, int, width, flat)])  # type: ignore[misc]
        self._nested = _decoder(tuple[_matrix_type(name, int, width, nested)])  # type: ignore[misc]
        self._encoder, self._width = encoder, width

    def __call__(self, body: Body, header: bytes | None, max_rows: int) -> Found | None:
        is_nested = b"[[" in body
        try:
            request = (self._nested if is_nested else self._flat)(body)
        except _NOT_QUICK:
            return None
        (tensor,) = request.inputs
        rows, numbers = tensor.shape[0], tensor.data
        if is_nested:
            if len(numbers) != rows or any(len(row) != self._width for row in numbers):
                return None
            numbers = chain.from_iterable(numbers)
        values = np.frombuffer(array("d", numbers))  # half the time of np.array
        if not 0 < rows <= max_rows or values.size != rows * self._width:
            return None
        return _checked(self._encoder, values.reshape(rows, self._width), request)


class _BinaryRows:
    """Rows of plain numbers behind a short JSON."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        size: Any = msgspec.defstruct("Size", [("binary_data_size", int)], forbid_unknown_fields=True, gc=False)
        self._width = len(encoder.names)
        content = ("parameters", size)
        self._decode = _decoder(tuple[_matrix_type(name, int, self._width, content)])  # type: ignore[misc]
        self._encoder = encoder

    def __call__(self, body: Body, header: bytes | None, max_rows: int) -> Found | None:
        if header is None or not header.isdigit() or not 0 < (length := int(header[:12])) <= len(body):
            return None
        try:
            request = self._decode(body[:length])
        except _NOT_QUICK:
            return None
        (tensor,) = request.inputs
        rows = tensor.shape[0]
        dtype = NUMPY_TYPES[tensor.datatype].newbyteorder("<")
        size = rows * self._width * dtype.itemsize
        if not 0 < rows <= max_rows or not size == tensor.parameters.binary_data_size == len(body) - length:
            return None
        values = np.frombuffer(body, dtype, rows * self._width, length)
        return _checked(self._encoder, values.reshape(rows, self._width), request)


class _Columns:
    """One tensor for each column of a table, turned into rows that the contract decodes as any others."""

    def __init__(self, signature: Signature, encoder: Encoder) -> None:
        self._encoder = encoder
        self._is_text = {spec.name: spec.datatype == "BYTES" for spec in signature.inputs}

    def __call__(self, body: Body, header: bytes | None, max_rows: int) -> Found | None:
        is_nested = b"[[" in body
        try:
            request = (_nested_columns if is_nested else _flat_columns)(body)
            table = _table_of(request.inputs, self._is_text, max_rows, is_nested=is_nested)
            if table is None:
                return None
            return self._encoder.decode_json(_encode(table), max_rows)[0], request
        except (*_NOT_QUICK, ModelyardError):
            return None


def _table_of(
    tensors: list[Any], is_text: dict[str, bool], max_rows: int, *, is_nested: bool
) -> list[dict[str, Any]] | None:
    if not 0 < len(tensors) <= MAX_TENSORS:
        return None
    rows = len(tensors[0].data)
    columns: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.shape not in ([rows], [rows, 1], (rows, 1)) or len(tensor.data) != rows or tensor.parameters:
            return None
        if is_text.get(tensor.name) is (type(tensor) not in _TEXTS):
            return None
        columns[tensor.name] = [value for (value,) in tensor.data] if is_nested else tensor.data
    if len(columns) != len(tensors) or not 0 < rows <= max_rows:
        return None
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _checked(encoder: Encoder, values: NDArray[Any], request: Any) -> Found | None:
    try:
        return encoder.encode_matrix(values), request
    except ModelyardError:
        return None


# --- types


def _decoder(inputs: Any) -> Decode:
    """Of a whole request; what is general in it has general types."""
    fields: list[Any] = [
        ("inputs", inputs),
        ("id", str, ""),
        ("parameters", Parameters | None, None),
        ("outputs", list[RequestedOutput] | None, None),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("QuickRequest", fields, gc=False)).decode


def _matrix_type(name: str, rows: Any, width: int, content: tuple[str, Any]) -> Any:
    """Of the one tensor of a matrix; `content` is its data, or its parameters where the data follow the JSON."""
    fields: list[Any] = [
        ("name", Literal[name]),
        ("shape", tuple[rows, Literal[width]]),  # type: ignore[valid-type]
        ("datatype", Literal["FP32", "FP64"]),
        content,
    ]
    return msgspec.defstruct("Rows", fields, forbid_unknown_fields=True, gc=False)


def _column_type(datatype: str, kind: Any, *, is_nested: bool) -> Any:
    """Of one column's tensor of this datatype."""
    value: Any = kind | None
    one: Any = tuple[value] if is_nested else value
    fields: list[Any] = [
        ("name", str),
        ("shape", tuple[int, Literal[1]] if is_nested else list[int]),
        ("data", list[one]),
        ("parameters", dict[str, Any], msgspec.field(default_factory=dict)),
    ]
    return msgspec.defstruct(
        f"{datatype}Column", fields, tag_field="datatype", tag=datatype, forbid_unknown_fields=True, gc=False
    )


def _columns_decoder(*, is_nested: bool) -> tuple[Decode, Any]:
    """The decoder, and the type of a tensor of text."""
    kinds: dict[str, Any] = {"BYTES": str, "BOOL": bool, "FP32": float, "FP64": float}
    for bits in (8, 16, 32, 64):
        kinds[f"INT{bits}"] = Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
        if bits < 64:  # msgspec's limits have 64 bits and a sign
            kinds[f"UINT{bits}"] = Annotated[int, msgspec.Meta(ge=0, le=2**bits - 1)]
    types = {datatype: _column_type(datatype, kind, is_nested=is_nested) for datatype, kind in kinds.items()}
    return _decoder(list[reduce(or_, types.values())]), types["BYTES"]  # type: ignore[misc]


_flat_columns, _flat_text = _columns_decoder(is_nested=False)
_nested_columns, _nested_text = _columns_decoder(is_nested=True)
_TEXTS = frozenset((_flat_text, _nested_text))
