"""Examples that work as posted: one row of a version, in every form that callers may send it in."""

from __future__ import annotations

import csv
import io
from typing import Any

from modelyard.contract.features import Column
from modelyard.contract.signature import TensorSpec
from modelyard.serve.openapi_served import Held

MADE_UP_LENGTH = 4  # of a tensor's free dimensions
WHITE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="  # a PNG


def example_row(held: Held) -> dict[str, Any]:
    """A row that works as posted: the contract's own example, or one of typical values."""
    contract = held.manifest.contract
    if contract.example:
        return contract.example
    if not held.is_table:
        return {spec.name: _made_up(spec, spec.shape[1:]) for spec in held.manifest.signature.inputs}
    return {column.name: _typical(column) for column in contract.features}


def _typical(column: Column) -> Any:
    if column.kind == "category":
        code = int(column.typical) if column.typical is not None else 0
        return column.categories[min(max(code, 0), len(column.categories) - 1)]
    if column.kind == "boolean":
        return bool(column.typical)
    value = column.typical if column.typical is not None else column.default
    number = float(value) if isinstance(value, int | float) else 0.0
    if column.minimum is not None:
        number = max(number, column.minimum)
    if column.maximum is not None:
        number = min(number, column.maximum)
    return round(number) if column.kind == "integer" else number


def _made_up(spec: TensorSpec, shape: tuple[int, ...]) -> Any:
    if spec.content == "image":
        return WHITE_PIXEL
    if not shape:
        return {"BYTES": "text", "BOOL": True}.get(spec.datatype, 1 if "INT" in spec.datatype else 0.5)
    size = shape[0] if shape[0] >= 0 else MADE_UP_LENGTH
    return [_made_up(spec, shape[1:]) for _ in range(size)]


def forms_example(held: Held, form: str) -> dict[str, Any]:
    """The example row in one of the forms of V1 and MLflow."""
    row = example_row(held)
    if form == "inputs":
        return {form: {name: [value] for name, value in row.items()}}
    if form == "dataframe_split":
        return {form: {"columns": list(row), "data": [list(row.values())]}}
    return {form: [row]}


def csv_example(held: Held) -> str:
    """The example row as CSV with a header line."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    row = example_row(held)
    lines.writerow(row)
    lines.writerow("" if value is None else value for value in row.values())
    return text.getvalue()


def infer_example(held: Held) -> dict[str, Any]:
    """The example row as V2's tensors."""
    row, signature = example_row(held), held.manifest.signature
    if signature.layout == "matrix":
        (spec,) = signature.inputs
        values = [_as_number(column, row) for column in held.manifest.contract.features]
        return {"inputs": [_sent(spec, [1, len(values)], values)]}
    if signature.layout == "columns":
        known = [spec for spec in signature.inputs if spec.name in row]
        return {"inputs": [_sent(spec, [1] * len(spec.shape), [row[spec.name]]) for spec in known]}
    return {"inputs": [_sent(spec, [1, *_shape_of(row[spec.name])], flat(row[spec.name])) for spec in signature.inputs]}


def _sent(spec: TensorSpec, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data}


def _as_number(column: Column, row: dict[str, Any]) -> Any:
    value = row.get(column.name, column.default)
    if isinstance(value, str):
        return column.categories.index(value)
    return float(value) if isinstance(value, bool) else value


def flat(value: Any) -> list[Any]:
    """The elements of a nested list, row-major."""
    return [element for part in value for element in flat(part)] if isinstance(value, list) else [value]


def _shape_of(value: Any) -> list[int]:
    return [len(value), *_shape_of(value[0])] if isinstance(value, list) and value else []
