"""Cleaning as fitted parameters of the contract: clips, typical values, drift bins, from training rows only.

The models that Modelyard trains understand a missing value, so nothing is filled unless the contract already says
with what: a filled value could no longer be named as "not stated".
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from modelyard.contract.encoding import Encoder
from modelyard.contract.features import Column, Contract
from modelyard.contract.tensor import Matrix

_CLIP = (0.001, 0.999)  # quantiles of the training rows beyond which a value is drawn back
_FEW = 20  # a number with so few values is a scale or a count: its ends are clipped at what was seen
_BINS = 10


def encode_table(contract: Contract, table: pl.DataFrame) -> Matrix:
    """A table as the contract's raw matrix, float32[rows, features]. Raises InvalidInput that names column and row."""
    return Encoder(contract).encode_columns(table_columns(contract, table), table.height)


def table_columns(contract: Contract, table: pl.DataFrame) -> dict[str, list[Any] | NDArray[Any]]:
    """The columns that the contract uses, as the encoder takes them."""
    return {
        column.name: _values(column, table[column.name]) for column in contract.features if column.name in table.columns
    }


def fit_cleaning(contract: Contract, matrix: Matrix) -> Contract:
    """The contract with what the training rows say: clip, typical value and drift bins of each feature.

    matrix: the raw training rows, float32[n, features]. What the contract already states is kept.
    """
    fitted = {
        column.name: _fit_column(column, matrix[:, position]) for position, column in enumerate(contract.features)
    }
    return msgspec.structs.replace(contract, columns=tuple(fitted.get(c.name, c) for c in contract.columns))


def _values(column: Column, values: pl.Series) -> list[Any] | NDArray[Any]:
    if column.kind in ("number", "integer") and values.dtype.is_numeric():
        return values.cast(pl.Float64).fill_null(np.nan).to_numpy()
    if column.kind == "category" and values.dtype != pl.String:
        return values.cast(pl.String).to_list()
    return values.to_list()


def _fit_column(column: Column, values: NDArray[np.float32]) -> Column:
    seen = np.sort(values[~np.isnan(values)].astype(np.float64))
    if not len(seen):
        return column
    distinct, counts = np.unique(seen, return_counts=True)
    if column.kind in ("category", "boolean"):
        return _keeping(column, typical=float(distinct[np.argmax(counts)]))
    ends = (seen[0], seen[-1]) if len(distinct) <= _FEW else tuple(np.quantile(seen, _CLIP))
    bins = np.unique([short(edge) for edge in np.quantile(seen, np.linspace(0, 1, _BINS + 1)[1:-1], method="nearest")])
    return _keeping(
        column,
        clip=(short(ends[0]), short(ends[1])),
        typical=float(seen[len(seen) // 2]),
        bins=tuple(float(edge) for edge in bins if edge < seen[-1]),
    )


def _keeping(column: Column, **fitted: Any) -> Column:
    """The fitted values, but never over what the contract already states."""
    unset = {name: value for name, value in fitted.items() if getattr(column, name) in (None, ())}
    return msgspec.structs.replace(column, **unset)


def short(value: float) -> float:
    """A number with six significant digits: what people can read in a contract file."""
    return float(f"{value:.6g}")
