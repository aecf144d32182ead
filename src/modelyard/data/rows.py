"""A table's rows as callers send them: JSON values in the contract's kinds."""

from __future__ import annotations

from typing import Any

import polars as pl

from modelyard.contract.features import Column, Contract


def json_rows(table: pl.DataFrame, contract: Contract) -> list[dict[str, Any]]:
    """The rows with the columns that the contract uses, as dicts of int, float, str, bool and None.

    Columns that the table lacks are left out, so that the contract's own rules speak of them.
    """
    held = [column for column in contract.features if column.name in table.columns]
    names = [column.name for column in held]
    values = [_json_values(column, table[column.name]) for column in held]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)] if held else [{}] * table.height


def _json_values(column: Column, values: pl.Series) -> list[Any]:
    if column.kind == "category" and values.dtype != pl.String:
        values = values.cast(pl.String)
    elif column.kind == "number" and values.dtype.is_numeric():
        values = values.cast(pl.Float64).fill_nan(None)
    elif column.kind == "integer" and values.dtype.is_float() and (values.drop_nulls() % 1 == 0).all():
        values = values.cast(pl.Int64)
    elif column.kind == "boolean" and values.dtype == pl.String:
        values = pl.select(pl.when(values.is_in(["true", "false"])).then(values == "true")).to_series()
    return values.to_list()
