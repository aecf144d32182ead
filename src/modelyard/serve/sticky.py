"""One column's value in a request's body, found before the body is decoded: what keeps a caller with one version.

The encoder belongs to the version, and which version answers depends on this value; so only this column is looked for,
in the first row, and everything else is skipped. What cannot be read here has no value, and the call is shared by
chance: whoever decodes the body says what is wrong with it.

The value is a text. A text is itself; a number is written as JSON writes it, whole ones without a fraction: 7, 7.0 and
the text "7" are one caller. true and false are these words. null, an empty text, lists and objects are no value.
"""

from __future__ import annotations

import csv
import io
import json
import math
import struct
from collections.abc import Callable
from functools import lru_cache, wraps
from itertools import islice
from operator import attrgetter, methodcaller
from typing import Any

import msgspec
import numpy as np

from modelyard.contract.errors import ModelyardError
from modelyard.contract.tensor import NUMPY_TYPES, widened
from modelyard.serve import content, multipart, v2
from modelyard.serve.call import Caller
from modelyard.serve.events import STRUCTURED
from modelyard.serve.grpc_messages import message_class, parsed
from modelyard.serve.inference import Peek
from modelyard.serve.routing import Place

Body = bytes | bytearray | memoryview | msgspec.Raw

_NOTHING = msgspec.Raw(b"null")
_WORDS = {"true": b"true", "1": b"true", "false": b"false", "0": b"false"}  # of a boolean in CSV
_LENGTH = struct.Struct("<I")
_UNREADABLE = (
    msgspec.MsgspecError, ModelyardError, RecursionError, LookupError, ValueError, OverflowError, csv.Error,
    struct.error,
)  # fmt: skip
_decode = msgspec.json.decode
_encode = msgspec.json.encode
_REQUEST = message_class("inference.ModelInferRequest")


class _Forms(msgspec.Struct, gc=False):
    """The members of V1 and MLflow that hold rows, and of a cloud event that holds either."""

    instances: msgspec.Raw = _NOTHING
    inputs: msgspec.Raw = _NOTHING
    dataframe_records: msgspec.Raw = _NOTHING
    dataframe_split: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING


class _Split(msgspec.Struct, gc=False):
    """A frame as pandas splits it."""

    columns: list[str]
    data: list[msgspec.Raw]


class _Tensor(msgspec.Struct, gc=False):
    """One tensor of a V2 request, its data not read."""

    name: str
    datatype: str = ""
    data: msgspec.Raw = _NOTHING
    parameters: dict[str, Any] = {}


class _Tensors(msgspec.Struct, gc=False):
    """A V2 request."""

    inputs: list[_Tensor]


_forms = msgspec.json.Decoder(_Forms).decode
_split = msgspec.json.Decoder(_Split).decode
_tensors = msgspec.json.Decoder(_Tensors).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_values = msgspec.json.Decoder(list[Any]).decode


def _peek(found: Peek) -> Peek:
    """The same, for which a body that cannot be read has no value."""

    @wraps(found)
    def peek(caller: Caller, place: Place) -> bytes | None:
        try:
            return found(caller, place)
        except _UNREADABLE:
            return None

    return peek


@_peek
def in_rows(caller: Caller, place: Place) -> bytes | None:
    """Of our own dialect: a row, or a list of them; or a form, of which a file is no value."""
    if multipart.is_form(caller.headers):
        parts = multipart.parts_of(caller.body, caller.headers.get(b"content-type", b""))
        return text_of(next((value for name, value in parts if name == place.name), None))
    if place.is_only and _is(caller.body, b"["):  # the rows of a version with one input may be bare values
        return _in_listed(caller.body, place)
    return text_of(_row_reader(place.name)(caller.body))


@_peek
def in_forms(caller: Caller, place: Place) -> bytes | None:
    """Of V1: rows or columns, bare or in a cloud event."""
    is_event = content.media_type(caller.headers) == STRUCTURED
    return _tolerant(lambda body: _in_forms(_forms(body).data if is_event else body, place), caller.body)


@_peek
def in_frame(caller: Caller, place: Place) -> bytes | None:
    """Of MLflow: a frame, rows or columns in JSON, or CSV."""
    if content.media_type(caller.headers) == b"text/csv":
        return _in_csv(caller.body, place)
    return _tolerant(lambda body: _in_forms(body, place), caller.body)


@_peek
def in_tensors(caller: Caller, place: Place) -> bytes | None:
    """Of V2: the tensor of that name, or the column's place in a matrix."""
    body = caller.body
    header = caller.headers.get(v2.LENGTH)
    if header is None:
        return _tolerant(lambda body: _in_tensors(body, memoryview(b""), place), body)
    if not (length := int(header[:12])):  # one tensor and nothing else
        is_text = place.datatype == "BYTES"
        return text_of(bytes(body).decode()) if is_text else _in_binary(memoryview(body), place.datatype, place.at)
    return _in_tensors(memoryview(body)[:length], memoryview(body)[length:], place)


@_peek
def in_message(caller: Caller, place: Place) -> bytes | None:
    """Of V2 over gRPC, as `in_tensors`."""
    message = parsed(_REQUEST, caller.body)
    at, index = _tensor_at([tensor.name for tensor in message.inputs], place)
    tensor = message.inputs[at]
    if message.raw_input_contents:
        return _in_binary(memoryview(message.raw_input_contents[at]), tensor.datatype, index)
    ((_, values),) = tensor.contents.ListFields()
    value = values[index]
    if isinstance(value, bytes):
        return text_of(value.decode())
    return text_of(np.float32(value) if tensor.datatype == "FP32" else value)


def text_of(value: Any) -> bytes | None:
    """A value's text, as this module's first lines say; None: no value."""
    if isinstance(value, str):
        return value.encode() or None
    if isinstance(value, bool | np.bool_):
        return b"true" if value else b"false"
    if isinstance(value, int | np.integer):
        return b"%d" % int(value)
    if not isinstance(value, float | np.floating) or not math.isfinite(number := float(value)):
        return None
    if number.is_integer() and abs(number) < 1e15:
        return b"%d" % int(number)
    return str(value).encode()  # the shortest that means this number in its own precision


# --- rows and columns


@lru_cache(maxsize=1024)
def _row_reader(name: str) -> Callable[[Body], Any]:
    """Reads one column of a row, or of the first of a list of rows; None where it is absent."""
    row: Any = dict[str, Any]
    value: Callable[[Any], Any] = methodcaller("get", name)
    if not any(sign in '"\\' or sign < " " for sign in name):  # msgspec takes no field of such a name
        row = msgspec.defstruct("StickyRow", [("value", Any, None)], rename={"value": name}, gc=False)
        value = attrgetter("value")
    decode = msgspec.json.Decoder(row | list[row]).decode

    def read(body: Body) -> Any:
        found = decode(body)
        return value(found[0] if isinstance(found, list) else found)

    return read


def _tolerant(find: Callable[[Body], bytes | None], body: bytes | bytearray) -> bytes | None:
    """Read JSON in which a bare NaN stands for a missing number, too: some clients write it."""
    try:
        return find(body)
    except msgspec.DecodeError:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
    return find(_encode(json.loads(body)))


def _in_forms(body: Body, place: Place) -> bytes | None:
    forms = _forms(body)
    if forms.dataframe_split is not _NOTHING:
        frame = _split(forms.dataframe_split)
        return _first(_list(frame.data[0])[frame.columns.index(place.name)])
    listed = [form for form in (forms.instances, forms.inputs, forms.dataframe_records) if form is not _NOTHING]
    return _in_listed(listed[0], place)


def _in_listed(listed: Body, place: Place) -> bytes | None:
    """The column's value in a list of rows, or in an object of columns."""
    if not _is(listed, b"{"):
        return _in_row(_list(listed)[0], place)
    columns = _decode(listed, type=dict[str, msgspec.Raw])
    if place.name in columns:
        return _first(columns[place.name])
    (rows,) = columns.values()  # a matrix by its tensor's name
    return _in_row(_list(rows)[0], place)


def _in_row(row: msgspec.Raw, place: Place) -> bytes | None:
    if _is(row, b"{"):
        return _first(_decode(row, type=dict[str, msgspec.Raw])[place.name])
    if place.is_only:
        return _first(row)
    return None if place.at is None else _first(_list(row)[place.at])


def _first(raw: Body) -> bytes | None:
    """The text of a value, or of the first one in lists."""
    while _is(raw, b"["):
        raw = _list(raw)[0]
    return None if _is(raw, b"{") else text_of(_decode(raw))


def _is(raw: Body, sign: bytes) -> bool:
    return bytes(memoryview(raw)[:16]).lstrip()[:1] == sign


def _in_csv(body: bytes | bytearray, place: Place) -> bytes | None:
    lines = csv.reader(io.StringIO(bytes(body).decode("utf-8-sig"), newline=""), strict=True)
    names, first = islice(filter(None, lines), 2)
    text = first[names.index(place.name)]
    if place.kind == "boolean":
        return _WORDS.get(text.strip().lower())
    if place.kind in ("number", "integer") and "_" not in text and text:
        try:
            return text_of(int(text))  # a whole number may have more digits than a float
        except ValueError:
            return text_of(float(text))
    return text_of(text)


# --- tensors


def _tensor_at(names: list[str], place: Place) -> tuple[int, int | None]:
    """Which tensor holds the column, and the value's index in its first row. Raises LookupError."""
    if place.name in names:
        return names.index(place.name), 0
    if place.at is None:
        raise LookupError(place.name)
    return 0, place.at


def _in_tensors(body: Body, tail: memoryview, place: Place) -> bytes | None:
    tensors = _tensors(body).inputs
    at, index = _tensor_at([tensor.name for tensor in tensors], place)
    tensor = tensors[at]
    if (size := tensor.parameters.get("binary_data_size")) is None:
        return _in_data(tensor, index)
    start = sum(one.parameters.get("binary_data_size", 0) for one in tensors[:at])
    return _in_binary(tail[start : start + size], tensor.datatype, index)


def _in_data(tensor: _Tensor, index: int | None) -> bytes | None:
    """The value in data that is flat, or nested as the tensor's shape is."""
    data = tensor.data
    while _is(bytes(memoryview(data)[:32]).lstrip()[1:], b"["):
        data = _list(data)[0]
    value = _values(data)[index or 0]
    return text_of(np.float32(value) if tensor.datatype == "FP32" and isinstance(value, int | float) else value)


def _in_binary(data: memoryview, datatype: str, index: int | None) -> bytes | None:
    if datatype == "BYTES":
        (size,) = _LENGTH.unpack_from(data)
        return text_of(bytes(data[_LENGTH.size : _LENGTH.size + size]).decode()) if not index else None
    dtype = np.dtype("<u2") if datatype == "BF16" else NUMPY_TYPES[datatype].newbyteorder("<")
    start = (index or 0) * dtype.itemsize
    values = np.frombuffer(data, dtype, 1, start)
    return text_of((widened(values) if datatype == "BF16" else values)[0])
