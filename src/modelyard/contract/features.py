"""The data contract: every column's type, range, categories and fitted cleaning, as one value.

What callers may send, how a row becomes numbers, and what drift is measured against all come from here, so training
and serving cannot disagree. `encoding.py` compiles a contract into a decoder; `schema.py` shows it as JSON Schema.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

Kind = Literal["number", "integer", "category", "boolean"]
Role = Literal["feature", "sensitive", "unused"]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column: what a caller may send, and how it becomes one float32."""

    name: str
    kind: Kind
    role: Role = "feature"  # sensitive and unused columns are accepted and dropped: no model sees them
    nullable: bool = False
    default: float | str | bool | None = None  # stands in when the column is absent; None: the column is required
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()  # a category's position is its code
    unseen: Literal["refuse", "missing"] = "refuse"  # what an unlisted category is
    clip: tuple[float, float] | None = None  # fitted: values are drawn to these before the model
    fill: float | None = None  # fitted: stands in the matrix for a missing value; None leaves NaN
    typical: float | None = None  # median or most frequent code: what "high" and "low" are said against
    bins: tuple[float, ...] = ()  # inner edges, ascending, that drift is counted in
    unit: str = ""
    sensitive: bool = False  # declared: the model sees it, and no reason ever names it
    pii: Literal["none", "personal", "free_text"] = "none"  # personal and free text never reach a record
    label: dict[str, str] = {}  # language -> what people call it
    note: str = ""  # why it is unused or sensitive, for people

    def __post_init__(self) -> None:
        if self.kind == "category" and self.role == "feature" and not self.categories:
            raise ValueError(f"column {self.name!r}: a category needs its categories listed")
        if len(set(self.categories)) != len(self.categories) or "" in self.categories:
            raise ValueError(f"column {self.name!r}: categories are distinct and not empty strings")
        if self.sensitive and self.role == "unused":
            raise ValueError(f"column {self.name!r}: an unused column need not be called sensitive")
        if self.kind != "category" and self.categories:
            raise ValueError(f"column {self.name!r}: only a category lists categories")
        if self.kind in ("category", "boolean") and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"column {self.name!r}: only numbers have a minimum and a maximum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"column {self.name!r}: minimum {self.minimum} is above maximum {self.maximum}")
        if not all(math.isfinite(bound) for bound in (self.minimum or 0, self.maximum or 0, *(self.clip or ()))):
            raise ValueError(f"column {self.name!r}: minimum, maximum and clip are finite numbers")
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError(f"column {self.name!r}: clip is a lower and an upper value")
        if list(self.bins) != sorted(self.bins):
            raise ValueError(f"column {self.name!r}: bins ascend")
        if self.default is not None and self.role == "feature" and not self._fits(self.default):
            raise ValueError(f"column {self.name!r}: the default breaks the column's own rules")

    def _fits(self, value: float | str | bool) -> bool:
        if self.kind == "category":
            return value in self.categories
        if self.kind == "boolean" or not isinstance(value, int | float) or isinstance(value, bool):
            return self.kind == "boolean" and isinstance(value, bool)
        least = -math.inf if self.minimum is None else self.minimum
        most = math.inf if self.maximum is None else self.maximum
        return least <= value <= most and (self.kind == "number" or float(value).is_integer())

    def title(self, language: str = "en") -> str:
        """What people call this column."""
        return self.label.get(language) or self.label.get("en") or self.name


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the model predicts; `positive` is the class whose probability it gives."""

    name: str
    classes: tuple[str, ...] = ()  # negative first when there are two
    positive: str | None = None


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All columns in matrix order, the target, and one row that works as posted. No columns: a version of tensors."""

    columns: tuple[Column, ...]
    target: Target | None = None
    example: dict[str, Any] = {}

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns appear twice: {doubled}")
        if self.columns and not self.features:
            raise ValueError("a contract needs at least one feature column")

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that the model sees; their order is the order of the matrix."""
        return tuple(column for column in self.columns if column.role == "feature")
