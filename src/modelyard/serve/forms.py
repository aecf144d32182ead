"""Rows and columns as plain JSON, the way V1 and MLflow write them: to a version's inputs, and its outputs to rows.

A list is rows, an object is columns. A table's version checks them by its contract; a version of tensors takes each
column as one tensor. Whole columns are converted at once; rows that are objects take the contract's own decoder.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.encoding import Encoder, decode_any, refusal
from modelyard.contract.errors import InvalidInput, Undecodable, Violation
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import Matrix, narrowed, widened
from modelyard.serve import v2
from modelyard.serve.call import Batch, Call
from modelyard.serve.tensors import BINARY_ONLY, MAX_DIMENSIONS, InputTensor, check_rows, read_tensors
from modelyard.serve.v2_answers import outputs_of

_NUMBERS = frozenset((int, float, NoneType))
# What comes before a bare NaN: anything but a quote, or a whole text. Possessive, so that a search is one walk.
_UP_TO_NAN = re.compile(rb'((?:[^"N]++|"(?:[^"\\]++|\\.)*+"|N(?!aN))*+)NaN', re.DOTALL)
_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Members = dict[str, Any]  # a value is JSON that is not read yet (msgspec.Raw), or what was read


# --- the body


def members(body: bytes | bytearray | Members, known: Sequence[str]) -> Members:
    """The members of the JSON object that a body is. Raises Undecodable, and InvalidInput for one that is not `known`.

    A body that is JSON but for the tokens NaN and Infinity is read too: some clients write them for floats.
    """
    parts = body if isinstance(body, dict) else open_object(body)
    for name in parts:
        if name not in known:
            raise InvalidInput(f"{_shown(name)} is no member of this request; known are {', '.join(known)}")
    return parts


def open_object(body: bytes | bytearray) -> Members:
    """All members of a JSON object, as JSON where the body is proper JSON. Raises Undecodable."""
    try:
        return _decode_members(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if b"NaN" not in body and b"Infinity" not in body:
            decode_any(body)  # says what is wrong, unless it is JSON of another kind
            raise Undecodable("the body is a JSON object") from None
    try:
        return _decode_members(_without_nan(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        value = json.loads(body.decode())  # the only reader of infinities, and slow
        json.dumps(value, ensure_ascii=False).encode()  # it lets half a surrogate pair through, which no text may hold
    except (ValueError, RecursionError):
        raise Undecodable("the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise Undecodable("the body is a JSON object")
    return value


def _without_nan(body: bytes | bytearray) -> bytes:
    """The same JSON with null for each bare NaN, which means the same here; what stands in a text is left alone."""
    parts = []
    at = 0
    while found := _UP_TO_NAN.match(body, at):
        parts.append(found[1])
        at = found.end()
    return b"null".join([*parts, bytes(body[at:])])


def value_of(part: Any) -> Any:
    """A member as a Python value. Raises Undecodable."""
    return decode_any(bytes(part)) if isinstance(part, msgspec.Raw) else part


def is_list(part: Any) -> bool:
    """Whether a member is a list, read or not."""
    return _begins(part, b"[") if isinstance(part, msgspec.Raw) else isinstance(part, list)


def is_object(part: Any) -> bool:
    """Whether a member is an object, read or not."""
    return _begins(part, b"{") if isinstance(part, msgspec.Raw) else isinstance(part, dict)


def _begins(part: msgspec.Raw, sign: bytes) -> bool:
    return bytes(memoryview(part)[:1]) == sign


def only_one(parts: Members, forms: Sequence[str]) -> str:
    """The one form in which the rows came. Raises InvalidInput where there is none, or more than one."""
    found = [form for form in forms if form in parts]
    if len(found) != 1:
        raise InvalidInput(
            f"the body has exactly one of {', '.join(forms)}; it has {' and '.join(found) if found else 'none'}"
        )
    return found[0]


def refuse_parameters(parts: Members, name: str) -> None:
    """No version takes parameters: nothing, null and an empty object are fine. Raises InvalidInput."""
    if name in parts and value_of(parts[name]) not in (None, {}):
        raise InvalidInput(f"{name!r} is left out or empty: a version takes no parameters")


# --- what the rows are


def read_listed(call: Call, data: Any, form: str, max_rows: int) -> None:
    """A list of rows, or an object of columns, as the call's inputs. Raises InvalidInput, Undecodable or TooLarge."""
    if is_list(data):
        read_rows(call, data, max_rows)
        return
    if not is_object(data):
        raise InvalidInput(f'Expected "{form}" to be a list')
    columns = value_of(data)
    loaded = call.deployment.replica.loaded
    signature = loaded.manifest.signature
    if signature.layout == "matrix" and columns.keys() == {signature.inputs[0].name}:
        (rows,) = columns.values()
        if not is_list(rows):
            raise InvalidInput(f"input '{signature.inputs[0].name}' is a list of rows")
        read_rows(call, rows, max_rows)
        return
    if loaded.is_table:
        columns = {name: _flat(values) for name, values in columns.items()}
    read_columns(call, columns, max_rows)


def read_rows(call: Call, data: Any, max_rows: int) -> None:
    """Rows: each an object of columns, a list of values in the columns' order, or the value of the only column."""
    loaded = call.deployment.replica.loaded
    if isinstance(data, msgspec.Raw):
        raw = bytes(data)
        if loaded.is_table and raw[1:32].lstrip()[:1] == b"{":
            accept(call, loaded.encoder.decode_json(raw, max_rows)[0])
            return
        data = decode_any(raw)
    check_rows(len(data), max_rows)
    is_named = isinstance(data[0], dict) and (loaded.is_table or data[0].keys() != {"b64"})
    if loaded.is_table:
        accept(call, loaded.encoder.encode_rows(data) if is_named else _listed_rows(data, loaded.encoder))
        return
    if is_named:
        read_columns(call, _transposed(data), max_rows)
        return
    specs = loaded.manifest.signature.inputs
    if len(specs) > 1:
        raise InvalidInput(f"a row is an object of the inputs {', '.join(spec.name for spec in specs)}")
    read_columns(call, {specs[0].name: data}, max_rows)


def read_columns(call: Call, columns: Mapping[str, Any], max_rows: int) -> None:
    """Whole columns by name, each a list of as many values as there are rows."""
    loaded = call.deployment.replica.loaded
    if not columns:
        raise InvalidInput("the body holds no column")
    if not all(isinstance(values, list | tuple) for values in columns.values()):
        raise InvalidInput("every column is a list of values, one for each row")
    if not loaded.is_table:
        specs = loaded.manifest.signature.inputs
        arrays = {spec.name: _tensor(spec, columns[spec.name]) for spec in specs if spec.name in columns}
        if len(arrays) < len(columns):
            raise InvalidInput(
                f"the inputs of this version are {', '.join(spec.name for spec in specs)}, and no others"
            )
        v2.accept_tensors(call, arrays, {spec.name: spec.datatype for spec in specs}, max_rows)
        return
    if len({len(values) for values in columns.values()}) > 1:
        raise InvalidInput("every column has the same number of values, one for each row")
    count = len(next(iter(columns.values())))
    check_rows(count, max_rows)
    accept(call, encode_table(columns, count, loaded.encoder))


def accept(call: Call, matrix: Matrix) -> None:
    """A table's rows as the call's inputs."""
    call.inputs, call.rows, call.reasons = matrix, len(matrix), "none"


def encode_table(columns: Mapping[str, Sequence[Any]], count: int, encoder: Encoder) -> Matrix:
    """The matrix of whole columns, each of `count` values. Raises InvalidInput with every broken rule.

    Written as rows of JSON again, they take the contract's own decoder: it costs a tenth of reading values one by one.
    """
    unknown = [name for name in columns if name not in encoder.known]
    if not unknown and not any(math.inf in values or -math.inf in values for values in columns.values()):
        whole = {column.name for column in encoder.features if column.kind == "integer"}
        names = tuple(columns)
        values = [_whole(column) if name in whole else column for name, column in columns.items()]
        try:
            body = _encode([dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)])
        except (OverflowError, RecursionError):
            pass  # a whole number that JSON's writer does not take: its column says so
        else:
            return encoder.decode_json(body, count)[0]
    violations = [
        Violation("unknown", "is not a column of this endpoint", name if _is_name(name) else None) for name in unknown
    ]
    return encoder.encode_columns(columns, count, violations)


def _whole(values: Sequence[Any]) -> Sequence[Any]:
    """30.0 as 30: the decoder's quick way takes whole numbers only as such."""
    if float not in set(map(type, values)):
        return values
    return [int(value) if type(value) is float and value.is_integer() else value for value in values]


def _listed_rows(rows: Sequence[Any], encoder: Encoder) -> Matrix:
    width = len(encoder.names)
    if width == 1 and not isinstance(rows[0], list):
        return encode_table({encoder.names[0]: rows}, len(rows), encoder)
    check_width(rows, width)
    if set(map(type, chain.from_iterable(rows))) <= _NUMBERS:
        try:
            return encoder.encode_matrix(np.array(rows, dtype=np.float64))  # None becomes NaN
        except OverflowError:
            pass  # a whole number that no float holds: its column says so
    return encode_table(dict(zip(encoder.names, zip(*rows, strict=True), strict=True)), len(rows), encoder)


def check_width(rows: Sequence[Any], width: int) -> None:
    """Every row is a list of `width` values. Raises InvalidInput that names the rows which are not."""
    if set(map(type, rows)) == {list} and set(map(len, rows)) == {width}:
        return
    raise refusal(
        [
            Violation("type", f"a row is a list of {width} values, one for each column", row=at)
            for at, row in enumerate(rows)
            if not isinstance(row, list) or len(row) != width
        ]
    )


def _flat(values: Any) -> Any:
    """[[1], [2]] as [1, 2]: a column may have the shape [rows, 1]."""
    if isinstance(values, list) and values and all(isinstance(one, list) and len(one) == 1 for one in values):
        return [one for (one,) in values]
    return values


def _is_name(name: str) -> bool:
    return len(name) <= 64 and name.isprintable()


def _shown(name: str) -> str:
    """A caller's name may itself be data: it is said only if it looks like a name."""
    return repr(name) if _is_name(name) else f"a name of {len(name)} characters"


# --- tensors


def _transposed(rows: Sequence[Any]) -> dict[str, list[Any]]:
    names = rows[0].keys()
    if not all(isinstance(row, dict) and row.keys() == names for row in rows):
        raise InvalidInput("every row is an object of the same inputs")
    return {name: [row[name] for row in rows] for name in names}


def _tensor(spec: TensorSpec, data: Sequence[Any]) -> NDArray[Any]:
    """Nested lists as a tensor of the datatype that `spec` says. Raises InvalidInput."""
    shape, flat = _unnested(list(data), f"input '{spec.name}'")
    if spec.datatype == "BYTES" and dict in set(map(type, flat)):
        texts = np.empty(len(flat), dtype=object)
        texts[:] = [_text_of(one) for one in flat]
        return texts.reshape(shape)
    # What has no JSON form in the other protocol comes as plain numbers here, and is rounded to what it can hold.
    datatype = "FP32" if spec.datatype in BINARY_ONLY else spec.datatype
    array = read_tensors([InputTensor(spec.name, shape, datatype, flat)], memoryview(b""))[spec.name]
    if spec.datatype == "FP16":
        return array.astype(np.float16)
    return widened(narrowed(array)) if spec.datatype == "BF16" else array


def _unnested(level: list[Any], label: str) -> tuple[list[int], list[Any]]:
    """The shape of nested lists, and all their values in a row. Raises InvalidInput where the lists are ragged."""
    shape = [len(level)]
    while level and isinstance(level[0], list):
        if len(shape) == MAX_DIMENSIONS:
            raise InvalidInput(f"{label}: lists are nested more than {MAX_DIMENSIONS} deep")
        if set(map(type, level)) != {list} or len(set(map(len, level))) != 1:
            raise InvalidInput(f"{label}: lists side by side have one length")
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    return shape, level


def _text_of(value: Any) -> str | bytes:
    """A text, or bytes as TensorFlow Serving writes them: {"b64": "…"}."""
    if isinstance(value, str):
        return value
    try:
        data = base64.b64decode(value["b64"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise InvalidInput('a text is a string, or {"b64": its bytes in base64}') from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


# --- answers


def outputs_by_name(call: Call, batch: Batch, start: int) -> dict[str, Any]:
    """Every output that callers see, as nested lists whose first axis is the rows."""
    said = {name: _listed(values) for name, _, values in outputs_of(call, batch, start)}
    for name in call.deployment.json_outputs:
        said[name] = [msgspec.Raw(text.encode()) for text in said[name]]
    return said


def predictions_of(outputs: dict[str, Any], rows: int) -> Any:
    """One prediction for each row: the value itself where there is one output, an object of outputs where several.

    A version whose rows are not independent may answer no rows at all; its outputs are then given whole.
    """
    columns = list(outputs.values())
    if len(columns) == 1:
        return columns[0]
    if not all(isinstance(values, list) and len(values) == rows for values in columns):
        return outputs
    names = list(outputs)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _listed(values: NDArray[Any]) -> Any:
    listed = values.tolist()
    return _in_json(listed) if values.dtype.kind in "OS" else listed


def _in_json(value: Any) -> Any:
    """A text as it is; bytes as text where they are UTF-8, else as TensorFlow Serving writes them."""
    if isinstance(value, list):
        return [_in_json(one) for one in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
