"""Two versions side by side: measures, contract, parity, size, speed. Pure: manifests in, differences out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.features import Column

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "rmse", "mae", "mse"})
HIGHER_IS_BETTER = frozenset({"auc", "ks", "gini", "accuracy", "r2", "oof_auc", "oof_ks"})
_ENDS = ("_low", "_high")  # of the interval around the measure whose name stands before it
_FIELDS = ("kind", "role", "nullable", "default", "minimum", "maximum", "unseen", "unit", "sensitive", "pii")


class Measure(msgspec.Struct, frozen=True):
    """One measure of both versions; None where one has none."""

    name: str
    a: float | None
    b: float | None
    difference: float | None  # b - a
    interval_a: tuple[float, float] | None = None
    interval_b: tuple[float, float] | None = None
    better: str | None = None  # a or b, where it is known which way is better and they differ
    apart: bool | None = None  # whether the intervals are: then chance alone hardly explains the difference


class ColumnChange(msgspec.Struct, frozen=True):
    """A column that both have and that asks something else in b."""

    name: str
    fields: dict[str, tuple[Any, Any]]  # what differs -> (in a, in b)
    categories_added: tuple[str, ...] = ()
    categories_removed: tuple[str, ...] = ()


class ContractChange(msgspec.Struct, frozen=True):
    """What callers would notice between a and b."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[ColumnChange, ...]
    signature_changed: bool  # the tensors of the Open Inference Protocol

    @property
    def is_same(self) -> bool:
        """Whether callers would notice nothing."""
        return not (self.added or self.removed or self.changed or self.signature_changed)


class Side(msgspec.Struct, frozen=True):
    """What each version is by itself."""

    version: int
    digest: str
    framework: str
    runtime: str
    created_at: str
    size_bytes: int
    trusted: bool
    parity: dict[str, Any] | None
    data_digest: str
    rows: int
    code_revision: str
    row_cost_us: float | None  # one row, measured where it was packaged
    cutoff: float | None
    observed: dict[str, Any] | None = None  # what gateways saw since they started, see `observed.py`


class Comparison(msgspec.Struct, frozen=True):
    """Two versions of a model, side by side."""

    model: str
    a: Side
    b: Side
    same_artifact: bool
    same_data: bool | None  # whether they learned from the same table; None where one does not say
    metrics: tuple[Measure, ...]
    contract: ContractChange
    decision: dict[str, tuple[Any, Any]]  # words, cut-off, scale: what differs -> (in a, in b)
    recipe: dict[str, tuple[Any, Any]]  # of the training: what differs -> (in a, in b)


def compare(
    model: str,
    a: tuple[int, str, Manifest],
    b: tuple[int, str, Manifest],
    observed: Mapping[int, dict[str, Any]] | None = None,
) -> Comparison:
    """Version a against version b, each (number, digest, manifest). observed: by number, what gateways saw."""
    (number_a, digest_a, manifest_a), (number_b, digest_b, manifest_b) = a, b
    seen = observed or {}
    data_a, data_b = manifest_a.lineage.data_digest, manifest_b.lineage.data_digest
    return Comparison(
        model=model,
        a=_side(*a, seen.get(number_a)),
        b=_side(*b, seen.get(number_b)),
        same_artifact=digest_a == digest_b,
        same_data=data_a == data_b if data_a and data_b else None,
        metrics=measures(manifest_a.metrics, manifest_b.metrics),
        contract=contract_change(manifest_a, manifest_b),
        decision=_differences(_decision(manifest_a), _decision(manifest_b)),
        recipe=_differences(_flat(manifest_a.lineage.recipe), _flat(manifest_b.lineage.recipe)),
    )


def measures(a: dict[str, float], b: dict[str, float]) -> tuple[Measure, ...]:
    """Every measure that either has, in a's order; `NAME_low` and `NAME_high` become the interval of NAME."""
    both = a | b
    ends = {name + end for name in both for end in _ENDS if all(name + other in both for other in _ENDS)}
    return tuple(_measure(name, a, b) for name in both if name not in ends)


def contract_change(a: Manifest, b: Manifest) -> ContractChange:
    """What callers of a would notice at b."""
    ours = {column.name: column for column in a.contract.columns}
    theirs = {column.name: column for column in b.contract.columns}
    changed = (_column_change(ours[name], theirs[name]) for name in ours if name in theirs)
    return ContractChange(
        added=tuple(name for name in theirs if name not in ours),
        removed=tuple(name for name in ours if name not in theirs),
        changed=tuple(change for change in changed if change is not None),
        signature_changed=(a.signature.outputs, a.signature.layout) != (b.signature.outputs, b.signature.layout)
        or (not ours and a.signature.inputs != b.signature.inputs),
    )


def _measure(name: str, a: dict[str, float], b: dict[str, float]) -> Measure:
    one, other = a.get(name), b.get(name)
    first, second = _interval(name, a), _interval(name, b)
    difference = other - one if one is not None and other is not None else None
    better = None
    if difference and name in LOWER_IS_BETTER | HIGHER_IS_BETTER:
        better = "b" if (difference < 0) == (name in LOWER_IS_BETTER) else "a"
    apart = None
    if first is not None and second is not None:
        apart = first[1] < second[0] or second[1] < first[0]
    return Measure(name, one, other, difference, first, second, better, apart)


def _interval(name: str, metrics: dict[str, float]) -> tuple[float, float] | None:
    low, high = (metrics.get(name + end) for end in _ENDS)
    return None if low is None or high is None else (low, high)


def _column_change(ours: Column, theirs: Column) -> ColumnChange | None:
    fields = {
        field: (getattr(ours, field), getattr(theirs, field))
        for field in _FIELDS
        if getattr(ours, field) != getattr(theirs, field)
    }
    added = tuple(one for one in theirs.categories if one not in ours.categories)
    removed = tuple(one for one in ours.categories if one not in theirs.categories)
    return ColumnChange(ours.name, fields, added, removed) if fields or added or removed else None


def _side(number: int, digest: str, manifest: Manifest, observed: dict[str, Any] | None) -> Side:
    return Side(
        version=number,
        digest=digest,
        framework=manifest.framework,
        runtime=manifest.runtime,
        created_at=manifest.created_at,
        size_bytes=sum(entry.size for entry in manifest.files.values()),
        trusted=manifest.trusted,
        parity=msgspec.to_builtins(manifest.parity),
        data_digest=manifest.lineage.data_digest,
        rows=manifest.lineage.rows,
        code_revision=manifest.lineage.code_revision,
        row_cost_us=manifest.row_cost_us,
        cutoff=manifest.decision.cutoff if manifest.decision else None,
        observed=observed,
    )


def _decision(manifest: Manifest) -> dict[str, Any]:
    """What is said at which probability; the reasons' texts are left out: they are many."""
    said = _flat(msgspec.to_builtins(manifest.decision) or {})
    return {name: value for name, value in said.items() if not name.startswith("reasons.")}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dots in the names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (a.get(name), b.get(name)) for name in a | b if a.get(name) != b.get(name)}
