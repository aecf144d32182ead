"""The contract of a model that somebody brings, inferred from the rows that come with it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column, Contract, Target
from modelyard.contract.tensor import Matrix
from modelyard.data.cleaning import encode_table
from modelyard.data.contracts import example_row, infer_column, rounded_up
from modelyard.data.quality import MAX_LEVELS, quality_report
from modelyard.data.sources import read_table, tidy

MAX_TEXT = 200  # characters; longer values are free text, which a category cannot carry
_PROBES = 300


class Sample(msgspec.Struct, frozen=True):
    """Rows that a model takes, and what its maker knows of their categories."""

    table: pl.DataFrame
    categories: dict[str, tuple[str, ...]] = {}  # column -> categories in the model's own order


def read_sample(sample: Any) -> Sample:
    """A sample from a file, a polars or a pandas frame. Raises InvalidInput for anything else, or no rows."""
    categories: dict[str, tuple[str, ...]] = {}
    if isinstance(sample, Sample):
        return sample
    if isinstance(sample, str | Path):
        table = read_table(sample)
    elif isinstance(sample, pl.DataFrame):
        table = sample
    elif hasattr(sample, "dtypes") and hasattr(sample, "columns"):
        for name in sample.columns:
            if hasattr(sample[name], "cat"):
                categories[str(name)] = tuple(str(level) for level in sample[name].cat.categories)
        table = pl.from_pandas(sample.rename(columns=str))
    else:
        raise InvalidInput("a sample is a data frame (pandas, polars) or a table file; its column names are needed")
    if not table.height:
        raise InvalidInput("the sample holds no rows; a few that the model takes are needed")
    return Sample(tidy(table), categories)


def sample_contract(
    sample: Sample,
    columns: list[str],
    target: Target | None,
    known: dict[str, tuple[tuple[str, ...], bool]],
    margin: float,
) -> Contract:
    """The contract of the model's columns, in the model's order; every one is a feature.

    known: column -> its categories, and whether the model takes others too. margin: how much wider than the sample
    the ranges are; 0: the sample's own ends.
    """
    if missing := [name for name in columns if name not in sample.table.columns]:
        raise InvalidInput(f"the sample lacks columns that the model takes: {', '.join(missing[:20])}")
    table = sample.table.select(columns)
    quality = quality_report(table)
    found = tuple(
        _column(table[name], infer_column(table[name], quality.column(name), declared=True), known.get(name), margin)
        for name in columns
    )
    return Contract(found, target, example_row(table, found))


def probe_rows(contract: Contract, table: pl.DataFrame) -> Matrix:
    """The sample's raw rows, and many more mixed from its values, float32[n, features]."""
    rows = encode_table(contract, table)
    rng = np.random.default_rng(0)
    mixed = np.column_stack([rng.choice(rows[:, position], _PROBES) for position in range(rows.shape[1])])
    for position, column in enumerate(Encoder(contract).features):
        seen = rows[~np.isnan(rows[:, position]), position]
        if column.kind == "category":
            mixed[:, position] = rng.integers(0, len(column.categories), _PROBES)
        elif column.kind in ("number", "integer") and len(seen):
            between = rng.uniform(seen.min(), seen.max(), _PROBES // 2)
            mixed[: _PROBES // 2, position] = np.round(between) if column.kind == "integer" else between
    return np.concatenate([rows, mixed.astype(np.float32)])


def _column(values: pl.Series, column: Column, known: tuple[tuple[str, ...], bool] | None, margin: float) -> Column:
    if column.role != "feature":
        raise InvalidInput(f"column {column.name!r}: {column.note or 'cannot be served'}")
    if column.kind == "category":
        return _category(values, column, known)
    if known is not None:  # categories that are spelt as numbers in the sample
        return _category(values.cast(pl.String), column, known)
    seen = values.drop_nulls()
    if column.kind == "boolean" or not len(seen):
        return column
    low, high = float(seen.min()), float(seen.max())  # type: ignore[arg-type]
    if margin:
        limit = rounded_up(margin * max(abs(low), abs(high), 1.0))
        low, high = -limit, limit
    return msgspec.structs.replace(column, minimum=low, maximum=high)


def _category(values: pl.Series, column: Column, known: tuple[tuple[str, ...], bool] | None) -> Column:
    longest = values.str.len_chars().max()
    if isinstance(longest, int) and longest > MAX_TEXT:
        raise InvalidInput(f"column {column.name!r} holds free text, which rows of a contract cannot carry")
    seen = values.drop_nulls().unique().sort().to_list()
    listed, takes_others = known or (tuple(seen), False)
    # What the model knows comes first and keeps its order: for some models the position is the meaning.
    categories = tuple(dict.fromkeys(itertools.chain(listed, () if known else seen)))
    if known and not takes_others and (strange := set(seen) - set(listed)):
        raise InvalidInput(
            f"column {column.name!r}: the sample holds {len(strange)} categories that the model does not know"
        )
    if len(categories) > MAX_LEVELS:
        raise InvalidInput(f"column {column.name!r} has more than {MAX_LEVELS} categories; encode it as numbers first")
    return msgspec.structs.replace(
        column,
        kind="category",
        minimum=None,
        maximum=None,
        categories=tuple(c for c in categories if c),
        unseen="missing" if takes_others else "refuse",
    )
