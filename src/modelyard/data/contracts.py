"""A contract inferred from a table: which columns a caller sends, their types, ranges and categories.

The schema is read off the whole table; what is *fitted* (clips, typical values, drift bins) comes from training rows
only and is added by `cleaning.py`. Ranges are sanity limits, wide on purpose: an honest new row passes.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import msgspec
import numpy as np
import polars as pl

from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column, Contract, Kind, Role, Target
from modelyard.data.quality import (
    MAX_DISTINCT_SHARE,
    MAX_LEVELS,
    ColumnQuality,
    QualityReport,
    class_names,
    is_protected,
    quality_report,
)

MIN_ROWS = 50
MIN_CLASS_ROWS = 10  # two for each of five folds
_MARGIN = 10.0  # how much wider than the largest value seen the sanity limits are
_POSITIVE_WORDS = frozenset(
    [
        "bad",
        "yes",
        "y",
        "1",
        "true",
        "default",
        "defaulted",
        "charged_off",
        "fraud",
        "churn",
        "churned",
        "deny",
        "denied",
        "是",
        "坏",
        "违约",
        "不良",
    ]
)
_PERSONAL = frozenset(
    [
        "name",
        "surname",
        "firstname",
        "lastname",
        "email",
        "mail",
        "phone",
        "telephone",
        "mobile",
        "address",
        "ssn",
        "passport",
        "姓名",
        "电话",
        "手机",
        "地址",
    ]
)


class Labelled(msgspec.Struct, frozen=True):
    """The rows whose outcome is known, their outcome as 0 and 1, and how the target was understood."""

    table: pl.DataFrame
    y: np.ndarray
    target: Target
    rows: np.ndarray  # each row's position in the source table
    dropped: int  # rows without an outcome
    note: str  # which class is positive, and why


def read_target(table: pl.DataFrame, target: str, positive: str | None = None) -> Labelled:
    """The two-class outcome of a table. Raises InvalidInput that says what a target must be."""
    if target not in table.columns:
        raise InvalidInput(f"there is no column {target!r}; the columns are: {', '.join(table.columns[:40])}")
    if table.height < MIN_ROWS:
        raise InvalidInput(f"{table.height} rows are too few to learn from; at least {MIN_ROWS} are needed")
    names = class_names(table[target])
    known = names.is_not_null()
    counts = dict(names.drop_nulls().value_counts(sort=True).iter_rows())
    if len(counts) < 2:
        raise InvalidInput(f"target {target!r} has {len(counts)} class; two are needed")
    if len(counts) > 2:
        shown = f": {', '.join(sorted(counts))}" if len(counts) <= 10 else ""
        raise InvalidInput(f"target {target!r} has {len(counts)} classes{shown}; two are needed for a decision")
    chosen, note = _positive(counts, positive, target)
    if min(counts.values()) < MIN_CLASS_ROWS:
        raise InvalidInput(
            f"target {target!r}: a class has {min(counts.values())} rows; at least {MIN_CLASS_ROWS} are needed"
        )
    (negative,) = counts.keys() - {chosen}
    return Labelled(
        table=table.filter(known),
        y=(names.filter(known) == chosen).cast(pl.Float64).to_numpy(),
        target=Target(target, (negative, chosen), chosen),
        rows=np.flatnonzero(known.to_numpy()),
        dropped=int((~known).sum()),
        note=note,
    )


def infer_contract(
    table: pl.DataFrame,
    target: str | None = None,
    positive: str | None = None,
    declared: Collection[str] = (),
    quality: QualityReport | None = None,
) -> Contract:
    """The contract of a table's rows.

    `declared` names columns to keep though they look sensitive, leaking or like identifiers. Raises InvalidInput if
    the target is unfit or no usable column is left.
    """
    known = None if target is None else read_target(table, target, positive)
    quality = quality or quality_report(table, target)
    if strangers := set(declared) - set(table.columns):
        raise InvalidInput(f"declared columns that the table lacks: {', '.join(sorted(strangers))}")
    columns = tuple(
        infer_column(table[name], quality.column(name), name in declared) for name in table.columns if name != target
    )
    if not any(column.role == "feature" for column in columns):
        reasons = "; ".join(f"{column.name}: {column.note}" for column in columns[:10])
        raise InvalidInput(f"no column is left to learn from ({reasons}); declare those that are to be kept")
    return Contract(columns, known.target if known else None, example_row(table, columns))


def infer_column(values: pl.Series, quality: ColumnQuality, declared: bool = False) -> Column:
    """The contract of one column."""
    role: Role
    role, note = ("feature", "; ".join(quality.notes)) if declared else _role(values, quality)
    if quality.kind in ("date", "other"):
        role = "unused"
        note = note or "dates and nested values are not used"
    kind: Kind = quality.kind if quality.kind not in ("date", "other") else "category"  # type: ignore[assignment]
    column = Column(
        name=values.name,
        kind=kind,
        role="sensitive" if role == "feature" else role,  # until its categories are known
        nullable=quality.missing > 0,
        sensitive=role == "feature" and (quality.sensitive or is_protected(values.name)),
        pii="personal" if _is_personal(values.name) else "none",
        note=note,
    )
    if role == "unused":
        return column
    if kind == "category":
        return _with_categories(column, role, values)
    return _with_range(column, role, values)


def example_row(table: pl.DataFrame, columns: tuple[Column, ...]) -> dict[str, object]:
    """A row that nobody ever was: of each column its median or most frequent value, so that no person is shown."""
    example: dict[str, object] = {}
    for column in columns:
        seen = table[column.name].drop_nulls()
        if column.role != "feature" or not len(seen):
            continue
        if column.kind in ("number", "integer"):
            middle = seen.quantile(0.5, "nearest")
            example[column.name] = int(middle) if column.kind == "integer" else middle  # type: ignore[arg-type]
        else:
            counts = seen.value_counts(sort=True)
            most = counts.filter(counts["count"] == counts["count"].max())[column.name].sort()
            example[column.name] = most[0]
    return example


# --- the rules --------------------------------------------------------------------------------------------------


def _positive(counts: dict[str, int], positive: str | None, target: str) -> tuple[str, str]:
    if positive is not None:
        if positive not in counts:
            raise InvalidInput(
                f"target {target!r} has no class {positive!r}; its classes are: {', '.join(sorted(counts))}"
            )
        return positive, f"{positive!r} is the positive class, as asked"
    if len(named := [name for name in counts if name.strip().lower() in _POSITIVE_WORDS]) == 1:
        return named[0], f"{named[0]!r} is taken as the positive class, by its name"
    rarer = min(sorted(counts), key=lambda name: counts[name])
    return rarer, f"{rarer!r} is taken as the positive class: it is the rarer one"


def _role(values: pl.Series, quality: ColumnQuality) -> tuple[Role, str]:
    seen = len(values) - quality.missing
    text = quality.kind == "category"
    rules: list[tuple[bool, Role, str]] = [
        (quality.sensitive, "sensitive", "sensitive by its name: left out unless declared"),
        (not seen, "unused", "holds no value"),
        (quality.constant, "unused", "always the same value"),
        (quality.kind == "date", "unused", "a date: make a number of it, such as an age in days"),
        (quality.kind == "other", "unused", "holds lists or objects, not single values"),
        (quality.identifier, "unused", "looks like an identifier"),
        (quality.equals_target, "unused", "repeats the target"),
        (
            quality.leaking,
            "unused",
            f"knows the target too well (AUC {quality.target_auc} alone): a leak unless declared",
        ),
        (text and quality.distinct > MAX_LEVELS, "unused", f"text with more than {MAX_LEVELS} different values"),
        (
            text and quality.distinct > 2 and quality.distinct > MAX_DISTINCT_SHARE * max(1, seen),
            "unused",
            "text that hardly ever repeats",
        ),
    ]
    for holds, role, note in rules:
        if holds:
            return role, note
    return "feature", "; ".join(quality.notes)


def _with_categories(column: Column, role: Role, values: pl.Series) -> Column:
    """Closed when no level was seen only once: by Good and Turing, new levels are about as likely as those."""
    counts = values.drop_nulls().cast(pl.String).value_counts()
    categories = tuple(sorted(counts[values.name].to_list()))
    once = int((counts["count"] == 1).sum())
    unseen: Literal["refuse", "missing"] = "missing" if once else "refuse"
    return msgspec.structs.replace(column, role=role, categories=categories, unseen=unseen)


def _with_range(column: Column, role: Role, values: pl.Series) -> Column:
    seen = values.drop_nulls()
    if column.kind == "boolean" or not len(seen):
        return msgspec.structs.replace(column, role=role)
    lowest, highest = float(seen.min()), float(seen.max())  # type: ignore[arg-type]
    limit = rounded_up(_MARGIN * max(abs(lowest), abs(highest), 1.0))
    return msgspec.structs.replace(column, role=role, minimum=0.0 if lowest >= 0 else -limit, maximum=limit)


def rounded_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten, at or above a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    for step in (1.0, 2.0, 5.0, 10.0):
        if value <= step * power * (1 + 1e-12):
            return step * power
    return 10.0 * power


def _is_personal(name: str) -> bool:
    return bool(_PERSONAL.intersection(name.lower().replace("-", "_").split("_")))
