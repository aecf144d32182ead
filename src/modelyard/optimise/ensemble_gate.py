"""The gate of ensembles: what every member answers to a row on its own, it has to answer as a member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Manifest, Parity
from modelyard.artifacts.store import Shelf
from modelyard.contract.encoding import Encoder
from modelyard.contract.features import Column
from modelyard.contract.tensor import Matrix
from modelyard.optimise import stacking
from modelyard.optimise.parity import TOLERANCE, ParityFailed
from modelyard.optimise.parts import Files, Part, loaded
from modelyard.runtimes import conformance
from modelyard.runtimes.ensemble import FILE, log_odds_of
from modelyard.runtimes.ensemble_joins import (
    EnsembleRecipe,
    Floats,
    answer_of,
    answer_output,
    joined_by,
    joined_tensors,
    stacked,
)
from modelyard.runtimes.version import LoadedVersion

_PROBES = 300  # rows that the ensemble is proven on
_CONFORM = 32  # rows that the conformance kit asks, many times over


def proven(
    shelf: Shelf,
    manifest: Manifest,
    recipe: EnsembleRecipe,
    parts: Sequence[Part],
    model: stacking.Linear | None = None,
) -> tuple[Manifest, Files]:
    """The manifest with what was measured, and the files. Raises ParityFailed, or ModelFailed for a broken promise."""
    files = {FILE: msgspec.json.format(msgspec.json.encode(recipe)) + b"\n"}
    with loaded(shelf.open(shelf.put(manifest, files))) as whole:
        if whole.is_table:
            rows = probes(whole)
            said = alone(parts, manifest, rows, recipe.adds_log_odds(manifest.task))
            expected = _expected(recipe, manifest, said, model)
            got = answer_of(whole.predict(rows), answer_output(manifest), manifest.task)
            parity = _compared(expected, got)
            found = conformance.check(whole.runtime, whole.encoder.finish(rows[:_CONFORM]))
        else:
            parity = _compared_tensors(recipe, whole, parts)
            found = conformance.check(whole.runtime, conformance.random_tensors(manifest.signature.inputs))
        independent = conformance.rows_are_independent(found)
    manifest = msgspec.structs.replace(manifest, parity=parity, independent_rows=independent)
    return manifest, files


def probes(version_: LoadedVersion) -> Matrix:
    """Raw rows that the contract accepts, unlike each other, float32[n, features]."""
    rows = version_.varied_rows(_PROBES)
    for at, column in enumerate(version_.encoder.features):
        if column.kind == "integer":
            rows[:, at] = np.round(rows[:, at])
        if column.kind in ("number", "integer"):
            rows[:, at] = np.clip(rows[:, at], column.minimum, column.maximum)
    return rows


def plain_rows(encoder: Encoder, rows: Matrix) -> list[dict[str, Any]]:
    """Raw rows as callers would write them."""
    return [
        {column.name: _plain(column, value) for column, value in zip(encoder.features, row, strict=True)}
        for row in rows.tolist()
    ]


def _plain(column: Column, value: float) -> Any:
    if value != value:
        is_unlisted = column.kind == "category" and not column.nullable
        return "".join(column.categories) + "?" if is_unlisted else None  # longer than any that is listed
    if column.kind == "category":
        return column.categories[int(value)]
    return bool(value) if column.kind == "boolean" else int(value) if column.kind == "integer" else value


def alone(parts: Sequence[Part], manifest: Manifest, rows: Matrix, is_log_odds: bool) -> list[Floats]:
    """What each member answers to raw rows of the joint contract when it is asked by itself, by its own contract: its
    answers, or their log-odds."""
    plain = plain_rows(Encoder(manifest.contract), rows)
    said = []
    for part in parts:
        with loaded(part.artifact) as member:
            own = [{name: row[name] for name in member.encoder.names} for row in plain]
            matrix = member.encoder.encode_rows(own)
            answer = answer_of(member.predict(matrix), answer_output(part.manifest), part.manifest.task)
            said.append(log_odds_of(member, matrix, answer) if is_log_odds else answer)
    return said


def _expected(
    recipe: EnsembleRecipe, manifest: Manifest, said: Sequence[Floats], model: stacking.Linear | None
) -> Floats:
    task: Any = manifest.task
    return joined_by(recipe, task, said) if model is None else model.predict(stacked(said), task)


def _compared(expected: Floats, got: Floats) -> Parity:
    errors = np.abs(expected - got) / np.maximum(1.0, np.abs(expected))
    return _parity(len(expected), float(errors.max(initial=0.0)))


def _compared_tensors(recipe: EnsembleRecipe, whole: LoadedVersion, parts: Sequence[Part]) -> Parity:
    inputs = conformance.random_tensors(whole.manifest.signature.inputs)
    said = []
    for part in parts:
        with loaded(part.artifact) as member:
            said.append(member.predict(inputs))
    got = whole.predict(inputs)
    if whole.manifest.task == "tensor":
        expected = joined_tensors(recipe, said)
        errors = [np.abs(expected[name] - got[name]).max(initial=0.0) for name in expected]
        return _parity(len(next(iter(inputs.values()))), float(max(errors)))
    task = whole.manifest.task
    answers = [
        answer_of(outputs, answer_output(part.manifest), task) for part, outputs in zip(parts, said, strict=True)
    ]
    return _compared(joined_by(recipe, task, answers), answer_of(got, answer_output(whole.manifest), task))


def _parity(rows: int, worst: float) -> Parity:
    if not worst <= TOLERANCE:
        raise ParityFailed(
            f"the ensemble differs from what its members say alone by up to {worst:.3g} (allowed: {TOLERANCE:.3g}); "
            "a member's answer depends on more than its own columns"
        )
    return Parity(rows=rows, edge_rows=0, tolerance=TOLERANCE, max_error=worst)
