"""Rows as people hold them (a dict, a list of dicts, a data frame) become plain rows that JSON can carry.

Frames are known by what they can do, so no frame library is ever imported here.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from modelyard.contract.errors import InvalidInput, Violation

Row = dict[str, Any]

_MISSING_TYPES = frozenset({"NAType", "NaTType"})  # pandas' own signs for a missing value


def plain_rows(rows: Any) -> tuple[list[Row], bool]:
    """The rows as dicts of None, bool, int, float and str, and whether a single row was given.

    Takes a mapping (one row), a list of mappings, and a pandas, polars or pyarrow frame. NaN, NaT and NA become None.
    Raises InvalidInput naming row and column of a value that JSON cannot carry.
    """
    if isinstance(rows, Mapping):
        return [_plain(rows, 0)], True
    if hasattr(rows, "to_dict") and hasattr(rows, "index") and not hasattr(rows, "columns"):
        return [_plain(rows.to_dict(), 0)], True  # a pandas Series: one row of a frame
    return [_plain(row, index) for index, row in enumerate(_each(rows))], False


def _each(rows: Any) -> Iterable[Any]:
    if hasattr(rows, "to_dicts"):  # polars
        return rows.to_dicts()  # type: ignore[no-any-return]
    if hasattr(rows, "to_pylist"):  # pyarrow
        return rows.to_pylist()  # type: ignore[no-any-return]
    if hasattr(rows, "columns") and hasattr(rows, "itertuples"):  # pandas: by column, so that each keeps its own type
        names = [str(name) for name in rows.columns]
        columns = [rows.iloc[:, position].tolist() for position in range(len(names))]
        return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise InvalidInput("rows are a dict (one row), a list of dicts, or a data frame")
    return rows


def _plain(row: Any, index: int) -> Row:
    if not isinstance(row, Mapping):
        raise InvalidInput(
            f"row {index}: a row is a dict of columns", (Violation("type", "a row is a dict", row=index),)
        )
    return {str(name): _value(value, str(name), index) for name, value in row.items()}


def _value(value: Any, column: str, row: int) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float | decimal.Decimal):
        number = float(value)
        if math.isnan(number):
            return None
        if math.isinf(number):
            raise _refused("finite", "must be a finite number", column, row)
        return number
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | None):
        return value
    if type(value).__name__ in _MISSING_TYPES:
        return None
    raise _refused("type", "must be a number, text, true, false or missing", column, row)


def _refused(rule: str, message: str, column: str, row: int) -> InvalidInput:
    return InvalidInput(f"row {row}: column {column!r} {message}", (Violation(rule, message, column, row),))
