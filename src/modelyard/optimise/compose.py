"""Registered versions become one: an ensemble of them, proven to say what its members say together.

The artifact names its members by digest and carries none of them. What every member answers to a row on its own, asked
by its own contract, is compared with what it answers as a member; only then is the ensemble a version.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Lineage, Manifest, Member, Task
from modelyard.artifacts.store import Shelf
from modelyard.contract.decision import Decision
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.names import check_name
from modelyard.contract.settings import load_settings
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.contract.tensor import Matrix
from modelyard.optimise import stacking
from modelyard.optimise.ensemble_gate import alone, proven
from modelyard.optimise.joint_contract import joint_contract
from modelyard.optimise.outcomes import Outcomes, read_outcomes
from modelyard.optimise.parts import Composed, Files, Part, part_named, register_composed, workshop
from modelyard.runtimes.answers import answer_name, answer_specs
from modelyard.runtimes.catalogue import needs_worker
from modelyard.runtimes.ensemble import META
from modelyard.runtimes.ensemble_joins import (
    EnsembleRecipe,
    answer_output,
    joined_by,
    stacked,
)

By = Literal["mean", "vote", "stacking"]
_HALF = 0.5  # where a vote is taken, and from where on a member without a decision says yes
_KINDS = {"number": "FP64", "integer": "INT64", "category": "BYTES", "boolean": "BOOL"}


# --- by name ----------------------------------------------------------------------------------------------------


def compose_ensemble(
    name: str,
    of: Sequence[str],
    by: By = "mean",
    *,
    weights: Sequence[float] = (),
    log_odds: bool = False,
    table: str | Path | None = None,
    target: str | None = None,
    cutoff: float | None = None,
    home: str | Path | None = None,
) -> tuple[str, int]:
    """Compose and register; the model's name and the new version's number.

    of: two or more registered versions, `model:number` or `model:alias`. Else as `package_ensemble`, which also says
    what is raised.
    """
    where = Home(Path(home) if home is not None else load_settings()[0].root)
    parts = [part_named(where, one) for one in of]
    composed = package_ensemble(
        name, parts, by, weights=weights, log_odds=log_odds, table=table, target=target, cutoff=cutoff
    )
    return register_composed(composed)


# --- an ensemble ------------------------------------------------------------------------------------------------


def package_ensemble(
    name: str,
    parts: Sequence[Part],
    by: By = "mean",
    *,
    weights: Sequence[float] = (),
    log_odds: bool = False,
    table: str | Path | None = None,
    target: str | None = None,
    cutoff: float | None = None,
) -> Composed:
    """Versions as one version, proven.

    parts: two or more versions of one task; for `tensor`, of one signature. weights: one for each, else equal; a mean
    divides them by their sum. log_odds: the mean of the members' log-odds, which can be explained exactly, instead of
    that of their probabilities. table: a file with the outcome in `target`, to fit a stacking on and to measure any
    ensemble with; rows that a member learned from are left out. cutoff: of the decision; else the first member's, and
    0.5 of a vote. Raises InvalidInput with the reason, ParityFailed where a member would answer otherwise than alone.
    """
    check_name("model", name)
    _check_parts(parts, by, weights, log_odds)
    manifest = _manifest(name, parts, by, cutoff)
    known = None
    if table is not None:
        known = read_outcomes(table, target, manifest, parts)
    elif by == "stacking" or target is not None:
        raise InvalidInput("a stacking learns from a table: give a file and the column of its outcome (table, target)")
    with tempfile.TemporaryDirectory() as folder:
        shelf = workshop(Path(folder), parts)
        if by == "stacking":
            assert known is not None  # noqa: S101 - else it had raised
            return _stack(shelf, manifest, parts, known)
        recipe = _recipe(parts, by, weights, log_odds, manifest.task)
        manifest = _measured(manifest, known, recipe, parts) if known else manifest
        return _gated(shelf, manifest, recipe, parts)


def _check_parts(parts: Sequence[Part], by: By, weights: Sequence[float], log_odds: bool) -> None:
    if len(parts) < 2:
        raise InvalidInput("an ensemble has two members or more")
    digests = [part.artifact.digest for part in parts]
    if len(set(digests)) < len(digests):
        raise InvalidInput("a version is named twice; give it a larger weight instead")
    tasks = {part.manifest.task for part in parts}
    layouts = {part.manifest.signature.layout == "tensors" for part in parts}
    if len(tasks) > 1 or len(layouts) > 1:
        said = ", ".join(f"{part.name} is {part.manifest.task}" for part in parts)
        raise InvalidInput(f"members answer one kind of question, from rows or from tensors: {said}")
    (task,) = tasks
    if layouts == {True}:
        _check_tensors(parts)
    if by == "vote" and task not in ("binary", "multiclass"):
        raise InvalidInput("a vote is on classes; take the mean of numbers")
    if by == "stacking" and (task not in ("binary", "regression") or layouts == {True}):
        raise InvalidInput("a stacking is for rows with two classes or one number to predict")
    if log_odds and (by != "mean" or task != "binary"):
        raise InvalidInput("log-odds are of two classes, and only a mean is taken of them")
    if by == "stacking" and weights:
        raise InvalidInput("a stacking finds its own weights; leave them out")
    if weights and (len(weights) != len(parts) or not all(np.isfinite(one) and one > 0 for one in weights)):
        raise InvalidInput(f"weights are {len(parts)} numbers above 0, one for each member")


def _check_tensors(parts: Sequence[Part]) -> None:
    first = parts[0].manifest
    for part in parts[1:]:
        if (part.manifest.signature.inputs, part.manifest.signature.outputs) != (
            first.signature.inputs,
            first.signature.outputs,
        ):
            raise InvalidInput(f"{part.name} takes or gives other tensors than {parts[0].name}")
    if first.task == "tensor":
        odd = [spec.name for spec in first.signature.outputs if spec.datatype not in ("FP16", "FP32", "FP64")]
        if odd:
            raise InvalidInput(f"the output {odd[0]!r} is no number with a fraction: it has no mean")


def _manifest(name: str, parts: Sequence[Part], by: By, cutoff: float | None) -> Manifest:
    first = parts[0].manifest
    contract = joint_contract([part.manifest.contract for part in parts])
    outputs = first.signature.outputs
    if first.task != "tensor":
        for part in parts:
            answer_output(part.manifest)  # raises where it cannot be told
        outputs = answer_specs(first.task, contract.target.classes if contract.target else (), _width(first))
    if contract.columns:
        inputs = tuple(TensorSpec(column.name, _KINDS[column.kind], (-1,)) for column in contract.features)
        signature = Signature(inputs, outputs, "columns")
    else:
        signature = Signature(first.signature.inputs, outputs, "tensors")
    return Manifest(
        model=name,
        task=first.task,
        framework="ensemble",
        runtime="ensemble",
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={},
        signature=signature,
        contract=contract,
        decision=_decision(parts, by, cutoff),
        lineage=Lineage(
            source=f"{by} of {', '.join(part.name for part in parts)}",
            packages={package: version(package) for package in ("numpy", "onnxruntime")},
        ),
        trusted=any(part.manifest.trusted for part in parts),
        members=tuple(Member("member", part.name, part.artifact.digest) for part in parts),
        steps=tuple(part.name for part in parts),
        in_worker=any(needs_worker(part.manifest) for part in parts),
    )


def _width(manifest: Manifest) -> int:
    """Numbers in one row's prediction."""
    if manifest.task != "regression":
        return 1
    shape = next(s.shape for s in manifest.signature.outputs if s.name == answer_output(manifest))
    return shape[1] if len(shape) == 2 else 1


def _decision(parts: Sequence[Part], by: By, cutoff: float | None) -> Decision | None:
    """The first member's words, with the reasons that any member has for a column."""
    said = [part.manifest.decision for part in parts if part.manifest.decision is not None]
    if not said:
        if cutoff is not None:
            raise InvalidInput("no member has a decision whose cut-off could be set")
        return None
    reasons: dict[str, Any] = {}
    for decision in reversed(said):
        reasons |= decision.reasons
    wanted = cutoff if cutoff is not None else (_HALF if by == "vote" else said[0].cutoff)
    try:
        return msgspec.structs.replace(said[0], cutoff=wanted, reasons=reasons)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _recipe(parts: Sequence[Part], by: By, weights: Sequence[float], log_odds: bool, task: Task) -> EnsembleRecipe:
    given = np.array(weights or [1.0] * len(parts), dtype=np.float64)
    if by == "mean":
        return EnsembleRecipe("mean", tuple((given / given.sum()).tolist()), log_odds=log_odds)
    decisions = [part.manifest.decision for part in parts]
    cutoffs = tuple(decision.cutoff if decision else _HALF for decision in decisions) if task == "binary" else ()
    return EnsembleRecipe("vote", tuple(given.tolist()), cutoffs=cutoffs)


def _measured(manifest: Manifest, known: Outcomes, recipe: EnsembleRecipe, parts: Sequence[Part]) -> Manifest:
    task: Any = manifest.task
    said = joined_by(recipe, task, alone(parts, manifest, known.matrix, recipe.adds_log_odds(task)))
    metrics = stacking.measures(known.y, said, task) | {"test_rows": float(len(known.y))}
    return msgspec.structs.replace(manifest, metrics=metrics)


# --- stacking ---------------------------------------------------------------------------------------------------


def _stack(shelf: Shelf, manifest: Manifest, parts: Sequence[Part], known: Outcomes) -> Composed:
    task: Any = manifest.task
    columns = stacked(alone(parts, manifest, known.matrix, is_log_odds=task == "binary"))
    model = stacking.fit(columns, known.y, task)
    metrics = stacking.measures(known.y, stacking.out_of_fold(columns, known.y, task), task)
    metrics |= {"test_rows": float(len(known.y))}
    meta = _meta(manifest, parts, columns, known, metrics, stacking.graph_of(model, task))
    digest = shelf.put(*meta)
    members = (*manifest.members, Member(META, meta[0].model, digest))
    steps = (*manifest.steps, meta[0].model)
    manifest = msgspec.structs.replace(manifest, members=members, steps=steps, metrics=metrics)
    is_sum = task == "binary"
    recipe = EnsembleRecipe(
        "stacking",
        coefficients=model.coefficients if is_sum else (),
        intercept=model.intercept if is_sum else 0.0,
    )
    return _gated(shelf, manifest, recipe, parts, model, before=(meta,))


def _meta(
    manifest: Manifest, parts: Sequence[Part], columns: Matrix, known: Outcomes, metrics: dict[str, float], graph: bytes
) -> tuple[Manifest, Files]:
    """The small model as a version of its own: its columns are the members."""
    described = tuple(
        Column(part.name, "number", typical=float(np.median(columns[:, at])), note="what this member says")
        for at, part in enumerate(parts)
    )
    example = {column.name: column.typical for column in described}
    contract = Contract(described, manifest.contract.target, example)
    outputs = (TensorSpec(answer_name(manifest.task), "FP32", (-1,)),)
    signature = Signature((TensorSpec("rows", "FP32", (-1, len(parts))),), outputs, "matrix")
    lineage = Lineage(
        source=known.source,
        data_digest=known.digest,
        rows=len(known.y),
        packages={package: version(package) for package in ("numpy", "onnx", "onnxruntime", "scikit-learn")},
    )
    made = Manifest(
        model=f"{manifest.model}.meta",
        task=manifest.task,
        framework="logistic" if manifest.task == "binary" else "ridge",
        runtime="onnx",
        created_at=manifest.created_at,
        files={},
        signature=signature,
        contract=contract,
        metrics=metrics,
        lineage=lineage,
    )
    card = (
        f"# {made.model}\n\nThe {made.framework} model over the members of {manifest.model}, fitted on {len(known.y)} "
        f"of {known.rows} rows of {known.source}: those that no member learned from, as far as the members say.\n"
    )
    return made, {"model.onnx": graph, "card.md": card.encode()}


def _gated(
    shelf: Shelf,
    manifest: Manifest,
    recipe: EnsembleRecipe,
    parts: Sequence[Part],
    model: stacking.Linear | None = None,
    before: tuple[tuple[Manifest, Files], ...] = (),
) -> Composed:
    """The ensemble, once it has passed the gate."""
    manifest, files = proven(shelf, manifest, recipe, parts, model)
    return Composed(manifest, files | {"card.md": _card(manifest, recipe).encode()}, before)


# --- its card ---------------------------------------------------------------------------------------------------


def _card(manifest: Manifest, recipe: EnsembleRecipe) -> str:
    weights = recipe.coefficients or recipe.weights
    rows = [
        f"| {member.name} | {member.role} | {weights[at]:.4g} | `{member.digest[:12]}` |"
        if at < len(weights)
        else f"| {member.name} | {member.role} | | `{member.digest[:12]}` |"
        for at, member in enumerate(manifest.members)
    ]
    what = {"mean": "The weighted mean of", "vote": "The vote of", "stacking": "A small model over"}[recipe.by]
    of = " log-odds" if recipe.log_odds else " answers"
    listed = "\n".join(["| member | role | weight | artifact |", "|---|---|---|---|", *rows])
    assert manifest.parity is not None  # noqa: S101 - for the type checker
    card = (
        f"# {manifest.model}\n\n{what} its members'{of}.\n\n{listed}\n\nEvery member says in it what it says alone: "
        f"{manifest.parity.rows} rows, largest difference {manifest.parity.max_error:.2g}.\n"
    )
    if recipe.by == "vote":
        card += (
            "\nIts probability is the share of the votes. A tie of two classes says yes, as everywhere at the cut-off; "
            "of more classes the first of those that have as many votes wins.\n"
        )
    if manifest.in_worker:
        card += "\nA member needs a model worker, so the whole is served from one.\n"
    return card
