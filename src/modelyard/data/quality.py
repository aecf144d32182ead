"""What a table is like before anybody learns from it: missing, odd, constant, leaking and sensitive columns."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

LEAK_AUC = 0.98  # a single column that ranks this well knows the outcome
OUTLIER_Z = 3.5  # Iglewicz and Hoaglin (1993): modified z-score
OUTLIER_IQR = 1.5  # Tukey (1977)
MAX_LEVELS = 200
MAX_DISTINCT_SHARE = 0.6
_FOLDS = 5
_LEAK_BINS = 20

ColumnKind = Literal["number", "integer", "category", "boolean", "date", "other"]


class ColumnQuality(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one column is like."""

    name: str
    kind: ColumnKind
    missing: int
    missing_share: float
    distinct: int
    outliers_z: int | None = None  # numbers only
    outliers_iqr: int | None = None
    constant: bool = False
    identifier: bool = False
    leaking: bool = False
    equals_target: bool = False
    sensitive: bool = False
    target_auc: float | None = None  # how well this column alone ranks the outcome, out of fold
    notes: tuple[str, ...] = ()


class QualityReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a table is like, column by column."""

    rows: int
    columns: tuple[ColumnQuality, ...]
    duplicate_rows: int
    target: str | None = None
    target_missing: int = 0
    classes: dict[str, int] = {}  # class -> rows

    def names(self, flag: str) -> list[str]:
        """The columns that carry a flag: constant, identifier, leaking, equals_target or sensitive."""
        return [column.name for column in self.columns if getattr(column, flag)]

    def column(self, name: str) -> ColumnQuality:
        """One column's entry. Raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def quality_report(table: pl.DataFrame, target: str | None = None) -> QualityReport:
    """What the table is like; with a two-class `target`, also which columns know the outcome too well."""
    truth = table[target] if target is not None and target in table.columns else None
    classes = {} if truth is None else _class_counts(truth)
    outcome = _outcome(truth, classes) if truth is not None and len(classes) == 2 else None
    columns = [_column_quality(table[name], outcome, truth) for name in table.columns if name != target]
    return QualityReport(
        rows=table.height,
        columns=tuple(columns),
        duplicate_rows=table.height - table.n_unique(),
        target=target,
        target_missing=0 if truth is None else truth.null_count(),
        classes=classes,
    )


def class_names(truth: pl.Series) -> pl.Series:
    """A target column as class names: text as it is, whole numbers without a point, true and false in words."""
    if truth.dtype == pl.Boolean:
        return truth.replace_strict({True: "true", False: "false"}, return_dtype=pl.String)
    if truth.dtype.is_float() and (truth.drop_nulls() % 1 == 0).all():
        truth = truth.cast(pl.Int64)
    return truth.cast(pl.String)


def kind_of(column: pl.Series) -> ColumnKind:
    """What a column holds, judged by its type and, for text, by whether all of it spells dates."""
    kind = column.dtype
    if kind == pl.Boolean:
        return "boolean"
    if kind.is_integer():
        return "integer"
    if kind.is_float():
        return "number"
    if kind.is_temporal():
        return "date"
    if kind == pl.String or kind == pl.Null:
        return "date" if _spells_dates(column) else "category"
    return "other"


# --- one column -------------------------------------------------------------------------------------------------


def _column_quality(column: pl.Series, outcome: NDArray[np.float64] | None, truth: pl.Series | None) -> ColumnQuality:
    kind = kind_of(column)
    seen = column.drop_nulls()
    distinct = seen.n_unique() if kind != "other" else 0
    missing = column.null_count()
    outliers = _outliers(seen.to_numpy().astype(np.float64)) if kind in ("number", "integer") and len(seen) else None
    equal = truth is not None and kind not in ("other", "date") and _is_same_partition(column, truth)
    auc = None if outcome is None or kind in ("other", "date") else _target_auc(column, kind, outcome)
    # A column with a value of its own for nearly every row cannot be judged by its levels.
    leaking = equal or (auc is not None and auc >= LEAK_AUC)
    return ColumnQuality(
        name=column.name,
        kind=kind,
        missing=missing,
        missing_share=round(missing / max(1, len(column)), 6),
        distinct=distinct,
        outliers_z=outliers[0] if outliers else None,
        outliers_iqr=outliers[1] if outliers else None,
        constant=distinct <= 1 and (missing == 0 or distinct == 0),
        identifier=_is_identifier(column.name, seen, kind, distinct, missing),
        leaking=leaking,
        equals_target=equal,
        sensitive=is_sensitive(column.name),
        target_auc=None if auc is None else round(auc, 4),
        notes=_notes(column.name),
    )


def _outliers(values: NDArray[np.float64]) -> tuple[int, int]:
    median = float(np.median(values))
    deviation = float(np.median(np.abs(values - median)))
    by_z = int(np.sum(np.abs(0.6745 * (values - median)) > OUTLIER_Z * deviation)) if deviation > 0 else 0
    low, high = np.quantile(values, (0.25, 0.75))
    reach = OUTLIER_IQR * (high - low)
    by_iqr = int(np.sum((values < low - reach) | (values > high + reach))) if reach > 0 else 0
    return by_z, by_iqr


_ID_WORDS = frozenset(
    [
        "id",
        "uuid",
        "guid",
        "index",
        "idx",
        "rownames",
        "rowname",
        "rownumber",
        "rownum",
        "rowid",
        "serial",
        "编号",
        "序号",
        "主键",
    ]
)


def _is_identifier(name: str, seen: pl.Series, kind: ColumnKind, distinct: int, missing: int) -> bool:
    if not len(seen) or kind in ("number", "boolean", "date", "other"):
        return False
    words = _words(name)
    share = distinct / len(seen)
    named = bool(words) and (words[-1] in _ID_WORDS or "".join(words) in _ID_WORDS)
    if named and (share > 0.5 or len(words) == 1):
        return True
    if share < 1.0 or len(seen) < 50:
        return False
    if kind == "category":
        return True
    low, high = seen.min(), seen.max()
    return isinstance(low, int) and isinstance(high, int) and missing == 0 and high - low < 1.2 * len(seen)


_DATE = (
    r"^(\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([T ].*)?"
    r"|[A-Z][a-z]{2}[- ]\d{4}|\d{4}年.*)$"
)


def _spells_dates(column: pl.Series) -> bool:
    seen = column.drop_nulls()
    return seen.dtype == pl.String and len(seen) > 0 and bool(seen.str.contains(_DATE).mean() > 0.95)  # type: ignore[operator]


# --- the outcome ------------------------------------------------------------------------------------------------


def _class_counts(truth: pl.Series) -> dict[str, int]:
    counts = class_names(truth).drop_nulls().value_counts(sort=True)
    return dict(zip(*counts.head(20).get_columns(), strict=True))


def _outcome(truth: pl.Series, classes: dict[str, int]) -> NDArray[np.float64]:
    """1 for the rarer class, 0 for the other, NaN where the outcome is missing."""
    rarer = min(classes, key=lambda name: classes[name])
    return (class_names(truth) == rarer).cast(pl.Float64).fill_null(np.nan).to_numpy()


def _is_same_partition(column: pl.Series, truth: pl.Series) -> bool:
    """Whether each value of the column means one class and each class one value."""
    if column.null_count() or column.n_unique() != 2 or truth.drop_nulls().n_unique() != 2:
        return False
    known = truth.is_not_null()
    pairs = pl.DataFrame({"column": column.cast(pl.String).filter(known), "truth": class_names(truth).filter(known)})
    return pairs.n_unique() == 2 and pairs["column"].n_unique() == 2


def _target_auc(column: pl.Series, kind: ColumnKind, outcome: NDArray[np.float64]) -> float | None:
    """How well the column alone ranks the outcome: outcome rates of its levels (or bins), learned out of fold."""
    known = ~np.isnan(outcome)
    y = outcome[known]
    if y.sum() < _FOLDS or (1 - y).sum() < _FOLDS:
        return None
    codes = _codes(column, kind)[known]
    fold = np.random.default_rng(0).permutation(len(y)) % _FOLDS
    score = np.empty(len(y))
    size = int(codes.max()) + 1
    for part in range(_FOLDS):
        inside, outside = fold == part, fold != part
        rows = np.bincount(codes[outside], minlength=size)
        hits = np.bincount(codes[outside], weights=y[outside], minlength=size)
        rate = (hits + 2 * y[outside].mean()) / (rows + 2)
        score[inside] = rate[codes[inside]]
    return area(y, score)


def _codes(column: pl.Series, kind: ColumnKind) -> NDArray[np.int64]:
    """Each row's level or quantile bin as a number; missing is one of its own."""
    if kind in ("number", "integer") and column.n_unique() > _LEAK_BINS:
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        edges = np.unique(np.nanquantile(values, np.linspace(0, 1, _LEAK_BINS + 1)[1:-1]))
        return np.asarray(np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values)), dtype=np.int64)
    return column.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64)


def area(y: NDArray[np.floating], score: NDArray[np.floating]) -> float:
    """Area under the ROC curve of `score` for 0/1 outcomes `y`, ties counted half (Mann-Whitney)."""
    _, position, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[position]
    positives = float(y.sum())
    return float((ranks[y > 0].sum() - positives * (positives + 1) / 2) / (positives * (len(y) - positives)))


# --- names ------------------------------------------------------------------------------------------------------

# What the law of most places protects. Marital status and age are protected in part (US Regulation B allows age in
# an empirically sound score system): they carry a note and stay, so that a person decides.
_SENSITIVE = frozenset(
    [
        "sex",
        "gender",
        "race",
        "racial",
        "ethnicity",
        "ethnic",
        "religion",
        "religious",
        "nationality",
        "foreign",
        "citizenship",
        "disability",
        "disabled",
        "afam",
        "pregnant",
        "pregnancy",
        "caste",
    ]
)
_SENSITIVE_ZH = ("性别", "民族", "种族", "宗教", "国籍", "残疾", "怀孕", "籍贯")
_NOTES = {
    "protected in some jurisdictions (age): see whether the use may rely on it": frozenset(
        ["age", "birth", "dob", "年龄"]
    ),
    "protected in some jurisdictions (marital status): see whether the use may rely on it": frozenset(
        ["marital", "married", "single", "婚姻"]
    ),
    "looks like the lender's own opinion (price or grade): it repeats an earlier decision": frozenset(
        ["int_rate", "interest_rate", "sub_grade", "grade"]
    ),
}


def is_sensitive(name: str) -> bool:
    """Whether a column's name says that it holds what the law of most places protects."""
    return bool(_SENSITIVE.intersection(_words(name))) or any(word in name for word in _SENSITIVE_ZH)


def is_protected(name: str) -> bool:
    """Whether a column's name says that some laws protect it: it may be learned from, and no reason names it."""
    return any(note.startswith("protected") for note in _notes(name))


def _notes(name: str) -> tuple[str, ...]:
    words = {*_words(name), name.lower()}
    return tuple(
        note
        for note, marks in _NOTES.items()
        if words & marks or any(mark in name for mark in marks if len(mark) == 2 and not mark.isascii())
    )


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
