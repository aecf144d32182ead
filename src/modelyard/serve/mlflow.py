"""MLflow's scoring protocol: `/invocations` with a data frame, rows, columns or CSV; one prediction a row.

Answers never repeat what was sent, and no stack trace leaves the house. Keeps no state.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from modelyard.contract.errors import InvalidInput, TooLarge, Undecodable
from modelyard.contract.features import Column
from modelyard.serve.call import Batch, Call
from modelyard.serve.content import media_type
from modelyard.serve.forms import (
    accept,
    check_width,
    encode_table,
    is_list,
    members,
    only_one,
    outputs_by_name,
    predictions_of,
    read_columns,
    read_listed,
    refuse_parameters,
    value_of,
)
from modelyard.serve.problems import UnsupportedMedia
from modelyard.serve.tensors import check_rows
from modelyard.serve.v1 import who

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_MEMBERS = (*FORMS, "params")
_JSON, _CSV = b"application/json", b"text/csv"
_TRUTH = {"true": True, "false": False, "1": True, "0": False}
_encode = msgspec.json.Encoder().encode


def read_invocations(call: Call, max_rows: int) -> None:
    """The body, JSON or CSV by its Content-Type, as the deployment's inputs. Raises InvalidInput, Undecodable,
    TooLarge or UnsupportedMedia."""
    headers = call.exchange.headers
    media = media_type(headers) if b"content-type" in headers else _JSON
    if media not in (_JSON, _CSV):
        raise UnsupportedMedia("the Content-Type is application/json or text/csv")
    _check_charset(headers.get(b"content-type", b""))
    read = _read_csv if media == _CSV else _read_json
    read(call, max_rows)


def say_invocations(call: Call, batch: Batch, start: int) -> None:
    """Answer with `predictions`, one for each row."""
    predictions = predictions_of(outputs_by_name(call, batch, start), call.rows)
    call.exchange.respond(200, _encode({"predictions": predictions} | who(call)))


def _check_charset(content_type: bytes) -> None:
    _, *parameters = (part.strip().lower() for part in content_type.decode("latin-1").split(";"))
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip() != "charset":
            raise UnsupportedMedia("the Content-Type has no parameter but charset")
        if value.strip().strip('"') not in ("utf-8", "utf8"):
            raise UnsupportedMedia("the only charset is utf-8")


def _read_json(call: Call, max_rows: int) -> None:
    parts = members(call.exchange.body, _MEMBERS)
    form = only_one(parts, FORMS)
    refuse_parameters(parts, "params")
    data = parts[form]
    if form == "dataframe_split":
        read_columns(call, _split_frame(value_of(data), max_rows), max_rows)
        return
    if form != "inputs" and not is_list(data):
        raise InvalidInput(f'Expected "{form}" to be a list')
    read_listed(call, data, form, max_rows)


def _split_frame(frame: Any, max_rows: int) -> dict[str, Any]:
    """The columns of a frame as pandas splits it: their names, and rows of values. Its index says nothing here."""
    if not isinstance(frame, dict) or not frame.keys() <= {"columns", "data", "index"}:
        raise InvalidInput('dataframe_split is {"columns": [names], "data": [rows of values]}')
    names, rows = frame.get("columns"), frame.get("data")
    if not isinstance(names, list) or not isinstance(rows, list) or set(map(type, names)) != {str}:
        raise InvalidInput("dataframe_split has columns, a list of names, and data, a list of rows of values")
    if len(set(names)) != len(names):
        raise InvalidInput("a column appears twice in dataframe_split")
    check_rows(len(rows), max_rows)
    check_width(rows, len(names))
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _read_csv(call: Call, max_rows: int) -> None:
    """Lines as RFC 4180 writes them, the first with the columns' names; an empty field is a missing value."""
    encoder = call.deployment.replica.loaded.encoder
    if not call.deployment.replica.loaded.is_table:
        raise InvalidInput("CSV is read for versions of tables; send this version's tensors as JSON")
    try:
        text = bytes(call.exchange.body).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Undecodable("the body is not UTF-8") from None
    if "\0" in text:
        raise Undecodable("the CSV holds a NUL byte")
    names, rows = _records(text, max_rows)
    kinds = {column.name: column for column in encoder.contract.columns}
    if unknown := [str(at) for at, name in enumerate(names, 1) if name not in kinds]:
        # Not by name: where the header is missing, its fields are a caller's values.
        raise InvalidInput(
            f"the first line names the columns; its fields {', '.join(unknown[:20])} are no columns of this endpoint"
        )
    if len(set(names)) != len(names):
        raise InvalidInput("a column appears twice in the first line")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    held = {name: _parsed(kinds[name], texts) for name, texts in columns}
    accept(call, encode_table(held, len(rows), encoder))


def _records(text: str, max_rows: int) -> tuple[list[str], list[list[str]]]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(lines, [])
        rows = list(islice(filter(None, lines), max_rows + 1))  # an empty line is no row
    except csv.Error:
        raise Undecodable(
            f"the CSV breaks off, is quoted wrongly, or has a field of more than {csv.field_size_limit()} characters, "
            f"near line {lines.line_num}"
        ) from None
    if len(rows) > max_rows:
        raise TooLarge(f"the CSV has more rows than the limit max_rows={max_rows}; send them in parts")
    check_rows(len(rows), max_rows)
    check_width(rows, len(names))
    return names, rows


def _parsed(column: Column, texts: Sequence[str]) -> Sequence[Any]:
    """A column's values by its kind; a text that is none stays a text, so that the contract names its row."""
    if column.role != "feature" or column.kind == "category":
        return [text or None for text in texts]
    if column.kind == "boolean":
        meant = {text: _TRUTH.get(text.strip().lower(), text or None) for text in set(texts)}
        return [meant[text] for text in texts]
    if "_" not in "".join(texts):  # Python takes 1_000, no other reader of CSV does
        try:
            return [float(text) if text else None for text in texts]
        except ValueError:
            pass
    return [_number(text) for text in texts]


def _number(text: str) -> float | str | None:
    try:
        return text if "_" in text else float(text) if text else None
    except ValueError:
        return text
