"""The contract of versions that answer together: what it takes, every one of them takes. Pure.

The columns are those of the first member in its order, then what the others add. Where members differ the stricter
rule holds: the narrower range, the categories that all know, required where it is required of one. Nothing is cleaned:
each member draws back and fills in as it was trained to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import msgspec

from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column, Contract

_PRIVACY = ("none", "personal", "free_text")


def joint_contract(contracts: Sequence[Contract]) -> Contract:
    """One contract for all of them. Raises InvalidInput that names the column, or the target, they disagree on."""
    target = contracts[0].target
    for contract in contracts[1:]:
        theirs = contract.target
        if (target is None) != (theirs is None):
            raise InvalidInput("some members name a target and others do not; they cannot answer as one")
        if target and theirs and (target.classes, target.positive) != (theirs.classes, theirs.positive):
            raise InvalidInput(
                "the members' targets have other classes, or in another order; they cannot answer as one"
            )
    names = dict.fromkeys(column.name for contract in contracts for column in contract.columns)
    columns = tuple(_joint([c for contract in contracts for c in contract.columns if c.name == name]) for name in names)
    example: dict[str, Any] = {}
    for contract in reversed(contracts):
        example |= contract.example
    joint = Contract(columns, target)
    return msgspec.structs.replace(joint, example=_accepted(joint, example))


def _joint(columns: Sequence[Column]) -> Column:
    """The rules of all columns of this name. A member that drops the column has no say in them."""
    used = [column for column in columns if column.role == "feature"]
    if not used:
        return columns[0]
    joint = reduce(_stricter, used)
    return msgspec.structs.replace(
        joint,
        clip=None,
        fill=None,
        typical=_typical(used[0], joint),
        sensitive=any(column.sensitive for column in columns),
        pii=max((column.pii for column in columns), key=_PRIVACY.index),
    )


def _stricter(one: Column, other: Column) -> Column:
    categories, unseen = _categories(one, other)
    least = [column.minimum for column in (one, other) if column.minimum is not None]
    most = [column.maximum for column in (one, other) if column.maximum is not None]
    if least and most and max(least) > min(most):
        raise InvalidInput(f"column {one.name!r}: no value is in the range of every member")
    joint = msgspec.structs.replace(
        one,
        kind=_kind(one, other),
        nullable=one.nullable and other.nullable,
        default=None,
        minimum=max(least, default=None),
        maximum=min(most, default=None),
        categories=categories,
        unseen=unseen,
    )
    try:
        return msgspec.structs.replace(joint, default=one.default if one.default == other.default else None)
    except ValueError:  # it lies outside the narrower rules
        return joint


def _kind(one: Column, other: Column) -> Any:
    if one.kind == other.kind:
        return one.kind
    if {one.kind, other.kind} == {"number", "integer"}:
        return "integer"
    raise InvalidInput(f"column {one.name!r} is {one.kind} for one member and {other.kind} for another")


def _categories(one: Column, other: Column) -> tuple[tuple[str, ...], Any]:
    """What every member knows, if one of them refuses what it does not know; otherwise what any of them knows."""
    if one.kind != "category" or other.kind != "category":
        return (), "refuse"
    refused = [frozenset(column.categories) for column in (one, other) if column.unseen == "refuse"]
    everything = dict.fromkeys((*one.categories, *other.categories))
    known = tuple(name for name in everything if all(name in listed for listed in refused))
    if not known:
        raise InvalidInput(f"column {one.name!r}: no category is known to every member")
    return known, "refuse" if refused else "missing"


def _typical(first: Column, joint: Column) -> float | None:
    """The first member's typical value; of a category it is a code, which counts in the joint list."""
    if first.kind != "category" or first.typical is None:
        return first.typical
    name = first.categories[int(first.typical)]
    return float(joint.categories.index(name)) if name in joint.categories else None


def _accepted(contract: Contract, example: dict[str, Any]) -> dict[str, Any]:
    """The members' examples as one row, if the joint contract takes it; else none is better than a wrong one."""
    if not example:
        return {}
    whole = {column.name: example.get(column.name, _made_up(column)) for column in contract.features}
    row = {name: value for name, value in whole.items() if value is not None}
    try:
        Encoder(contract).encode_rows([row])
    except InvalidInput:
        return {}
    return row


def _made_up(column: Column) -> Any:
    """A value for a column that only a later member has, as far as it is known."""
    if column.default is not None or column.typical is None:
        return column.default
    if column.kind == "category":
        return column.categories[int(column.typical)]
    return bool(column.typical) if column.kind == "boolean" else column.typical
