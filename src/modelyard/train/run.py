"""One training, from a table to a version that is proven and ready for the shelf."""

from __future__ import annotations

import datetime
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from modelyard import __version__
from modelyard.artifacts.manifest import Lineage, Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.decision import Decision
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column, Contract
from modelyard.contract.names import check_name
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.contract.tensor import Matrix
from modelyard.data.cleaning import encode_table, fit_cleaning
from modelyard.data.contracts import Labelled, infer_contract, read_target
from modelyard.data.quality import QualityReport, quality_report
from modelyard.data.rows import json_rows
from modelyard.data.sources import tidy
from modelyard.optimise.parity import ParityFailed, compare, edge_rows, prove, prove_ways
from modelyard.runtimes import conformance
from modelyard.runtimes.base import Runtime
from modelyard.runtimes.catalogue import open_runtime
from modelyard.train.card import model_card
from modelyard.train.compare import (
    RULE,
    Candidate,
    choose,
    cross_validate,
    learning_curve,
    refit,
    stratified_split,
)
from modelyard.train.estimators import Estimator, Floats, Packed
from modelyard.train.evaluate import (
    auc,
    auc_interval,
    calibration_curve,
    ks_cutoff,
    measures,
    roc_curve,
    score_distribution,
)
from modelyard.train.explain import importance
from modelyard.train.progress import Progress, Silent
from modelyard.train.recipe import DecisionTemplate, Recipe

MAX_HOLDOUT = 10_000  # rows kept in the artifact with the answers that they must get
SAMPLES = 4
EXPLANATION_TOLERANCE = 1e-4  # log-odds
_MIN_GROUP = 30  # rows below which a group's measures are noise
_PACKAGES = ("lightgbm", "msgspec", "numpy", "onnx", "onnxruntime", "polars", "scikit-learn")


class Trained(msgspec.Struct, frozen=True):
    """A version that is ready for the shelf: `Shelf.put(trained.manifest, trained.files)`."""

    manifest: Manifest
    files: dict[str, bytes]
    report: dict[str, Any]  # also in report.json


class _Learned(msgspec.Struct, frozen=True):
    """What learning leaves behind, for the packaging."""

    contract: Contract
    estimator: Estimator
    chosen: Candidate
    decision: Decision
    metrics: dict[str, float]
    report: dict[str, Any]


def train(
    table: pl.DataFrame,
    recipe: Recipe | None = None,
    *,
    name: str,
    target: str,
    positive: str | None = None,
    contract: Contract | None = None,
    decision: DecisionTemplate | None = None,
    columns: tuple[Column, ...] = (),
    source: str = "",
    data_digest: str = "",
    about: str = "",
    progress: Progress | None = None,
) -> Trained:
    """Learn to tell the two classes of `target` apart, and prove the packaged version equal to the trained one.

    contract: used as it is, but for fitted values that it lacks; else inferred, with `columns` replacing what the
    table alone would say of them. Raises InvalidInput for an unfit table, ParityFailed if packaging changed an answer.
    """
    recipe, progress = recipe or Recipe(), progress or Silent()
    check_name("model", name)
    table = tidy(table)
    labelled = read_target(table, target, positive)
    progress.step("read the table", _reading(table, labelled))
    quality = quality_report(table, target)
    progress.step("quality", _quality_line(quality))
    contract = contract or infer_contract(table, target, labelled.target.positive, recipe.declared, quality)
    contract = _with_columns(msgspec.structs.replace(contract, target=labelled.target), columns)
    _check_contract(contract, table, target)
    progress.step("contract", _contract_line(contract))

    raw = encode_table(contract, labelled.table)
    train_rows, test_rows = stratified_split(labelled.y, recipe.test_share, recipe.seed)
    contract = fit_cleaning(contract, raw[train_rows])
    finished = Encoder(contract).finish(raw)
    with threadpool_limits(1):  # the folds share the cores; threads within a fold would only wait for one another
        learned = _learn(contract, recipe, finished, labelled, (train_rows, test_rows), decision, progress)

    progress.step("package", "ONNX graph and explanation")
    packed = learned.estimator.pack()
    lineage = Lineage(
        source=source,
        data_digest=data_digest,
        rows=labelled.table.height,
        seed=recipe.seed,
        recipe=msgspec.to_builtins(recipe),
        code_revision=f"modelyard {__version__}",
        packages=_packages(),
    )
    manifest = Manifest(
        model=name,
        task="binary",
        framework=learned.estimator.name,
        runtime="onnx",
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={},
        signature=signature_of(contract),
        contract=contract,
        decision=learned.decision,
        metrics=learned.metrics,
        lineage=lineage,
    )
    manifest = _proven(manifest, packed, learned.estimator, finished[test_rows], raw[test_rows[:1]])
    assert manifest.parity is not None  # noqa: S101 - for the type checker
    progress.step(
        "parity",
        f"{manifest.parity.rows} rows, {manifest.parity.edge_rows} of them edge rows: "
        f"largest difference {manifest.parity.max_error:.2g} (allowed {manifest.parity.tolerance:.0e})",
    )
    groups = _groups(quality, labelled, test_rows, learned, finished)
    report = {**learned.report, "quality_notes": _noted(contract), "groups": groups, "parity": manifest.parity}
    files = dict(packed.files)
    files["report.json"] = _json(report)
    files["quality.json"] = _json(quality)
    files |= _answers(contract, labelled, test_rows, learned.estimator, finished)
    files["card.md"] = model_card(manifest, quality, report, about).encode()
    return Trained(manifest, files, msgspec.to_builtins(report))


def signature_of(contract: Contract) -> Signature:
    """The tensors of a binary version that takes the contract's columns."""
    datatypes = {"number": "FP64", "integer": "INT64", "category": "BYTES", "boolean": "BOOL"}
    inputs = tuple(TensorSpec(column.name, datatypes[column.kind], (-1,)) for column in contract.features)
    return Signature(inputs, (TensorSpec("probability", "FP32", (-1,)),), "columns")


# --- learning ---------------------------------------------------------------------------------------------------


def _learn(
    contract: Contract,
    recipe: Recipe,
    finished: Matrix,
    labelled: Labelled,
    split: tuple[np.ndarray, np.ndarray],
    template: DecisionTemplate | None,
    progress: Progress,
) -> _Learned:
    train_rows, test_rows = split
    matrix, y = finished[train_rows], labelled.y[train_rows]
    test_y = labelled.y[test_rows]
    progress.step("compare", f"{len(recipe.candidates)} candidates, {recipe.folds} folds, {len(y)} training rows")
    candidates = []
    for done, candidate in enumerate(recipe.candidates, start=1):
        candidates.append(cross_validate(candidate, contract, recipe, matrix, y))
        found = candidates[-1].measures
        progress.step(
            f"  {candidate}",
            f"out-of-fold AUC {found['auc']:.4f}, KS {found['ks']:.3f}, log-loss {found['log_loss']:.4f}, "
            f"Brier {found['brier']:.4f}",
        )
        progress.tick(done, len(recipe.candidates))
    chosen = choose(candidates)
    progress.step("choose", f"{chosen.name} ({RULE})")
    estimator = refit(chosen, contract, recipe, matrix, y)
    p = estimator.predict_proba(finished[test_rows])
    low, high = auc_interval(test_y, p, recipe.bootstrap, recipe.seed)
    tested = measures(test_y, p)
    metrics = {
        **tested,
        "auc_low": low,
        "auc_high": high,
        "oof_auc": chosen.measures["auc"],
        "oof_ks": chosen.measures["ks"],
        "test_rows": float(len(test_y)),
        "train_rows": float(len(y)),
    }
    progress.step(
        "test", f"AUC {tested['auc']:.4f} (95 % interval {low:.4f} to {high:.4f}) on {len(test_y)} unseen rows"
    )
    decision = _decide(template or DecisionTemplate(), labelled, y, chosen.predictions)
    report = {
        "chosen": chosen.name,
        "rule": RULE,
        "target": labelled.target,
        "target_note": labelled.note,
        "rows_without_outcome": labelled.dropped,
        "learning_rate": recipe.lightgbm.learning_rate if chosen.name == "lightgbm" else None,
        "rounds": chosen.rounds,
        "candidates": {c.name: {**c.measures, "rounds": c.rounds} for c in candidates},
        "loss_curves": {c.name: c.losses for c in candidates if c.losses},
        "learning_curve": learning_curve(chosen, contract, recipe, matrix, y, progress),
        "metrics": metrics,
        "test_curves": {
            "roc": roc_curve(test_y, p),
            "calibration": calibration_curve(test_y, p),
            "scores": score_distribution(test_y, p),
        },
        "cutoff": decision.cutoff,
        "importance": importance(estimator, contract, matrix),
        "model": estimator.describe(),
    }
    return _Learned(contract, estimator, chosen, decision, metrics, report)


def _decide(template: DecisionTemplate, labelled: Labelled, y: Floats, out_of_fold: Floats) -> Decision:
    """The template with its cut-off: where the classes part best, on predictions of rows that were not learned from."""
    negative, positive = labelled.target.classes
    cutoff = template.cutoff if template.cutoff is not None else float(f"{ks_cutoff(y, out_of_fold)[1]:.4g}")
    return Decision(
        cutoff=min(max(cutoff, 0.0001), 0.9999),
        positive=template.positive or positive,
        negative=template.negative or negative,
        meaning=template.meaning or f"probability of {labelled.target.name} = {positive}",
        scale=template.scale,
        reasons=template.reasons,
    )


# --- packaging --------------------------------------------------------------------------------------------------


def _proven(manifest: Manifest, packed: Packed, estimator: Estimator, rows: Matrix, typical: Matrix) -> Manifest:
    """The manifest with its parity: what would be served, opened as it would be, against the trained model."""
    edges = edge_rows(manifest.contract, typical, packed.cuts)
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        runtime = open_runtime(shelf.open(shelf.put(manifest, packed.files)))
        try:
            _prove_explanation(runtime, estimator, np.concatenate([rows[:200], edges[:200]]))
            conformance.require(runtime, np.concatenate([rows[:32], edges[:32]]))
            cost = _row_cost(runtime, rows[:1])
        finally:
            runtime.close()
        parity = prove_ways(
            lambda runtime: prove(estimator.predict_proba, runtime, rows, edges), shelf, manifest, packed.files
        )
    return msgspec.structs.replace(manifest, parity=parity, row_cost_us=cost)


def _prove_explanation(runtime: Runtime, estimator: Estimator, rows: Matrix) -> None:
    """The explanation that would be served equals the trained model's, or ParityFailed."""
    if runtime.contributions({"rows": rows[:1]}) is not None:
        compare(estimator.contributions, lambda part: _explained(runtime, part), rows, rows[:0], EXPLANATION_TOLERANCE)


def _explained(runtime: Runtime, rows: Matrix) -> Matrix:
    """A runtime's contributions. Raises ParityFailed if it has none."""
    found = runtime.contributions({"rows": rows})
    if found is None:
        raise ParityFailed("the packaged model cannot explain every row")
    return found


def _row_cost(runtime: Runtime, row: Matrix) -> float:
    """Microseconds for one row: the median of many calls after some warm ones."""
    times = []
    for _ in range(300):
        start = time.perf_counter_ns()
        runtime.predict({"rows": row})
        times.append(time.perf_counter_ns() - start)
    return round(float(np.median(times[50:])) / 1000, 2)


def _answers(
    contract: Contract, labelled: Labelled, test_rows: np.ndarray, estimator: Estimator, finished: Matrix
) -> dict[str, bytes]:
    """Held-out rows as callers would send them, with the answers that the trained model gave."""
    kept = test_rows[:MAX_HOLDOUT]
    rows = json_rows(labelled.table[kept], contract)
    probabilities = estimator.predict_proba(finished[kept]).tolist()
    entries = [
        {"index": int(labelled.rows[position]), "row": row, "probability": probability}
        for position, row, probability in zip(kept, rows, probabilities, strict=True)
    ]
    order = np.argsort(probabilities, kind="stable")
    spread = [entries[order[at]] for at in np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).astype(int)]
    samples = [{"row": entry["row"], "probability": entry["probability"]} for entry in spread]
    return {"samples.json": _json(samples), "holdout.json": _json({"total": len(test_rows), "rows": entries})}


def _groups(
    quality: QualityReport, labelled: Labelled, test_rows: np.ndarray, learned: _Learned, finished: Matrix
) -> dict[str, Any]:
    """For each sensitive column, what the model does to its groups on the test rows, though it never saw the column."""
    p = learned.estimator.predict_proba(finished[test_rows])
    y = labelled.y[test_rows]
    table = labelled.table[test_rows]
    found: dict[str, Any] = {}
    for name in quality.names("sensitive"):
        if name == labelled.target.name or quality.column(name).distinct > 20:
            continue
        values = table[name].cast(pl.String).fill_null("missing").to_numpy()
        groups = {}
        for group in sorted(set(values.tolist())):
            inside = values == group
            if inside.sum() >= _MIN_GROUP:
                both = 0 < y[inside].sum() < inside.sum()
                groups[group] = {
                    "rows": int(inside.sum()),
                    "observed_rate": round(float(y[inside].mean()), 4),
                    "selection_rate": round(float((p[inside] >= learned.decision.cutoff).mean()), 4),
                    "auc": round(auc(y[inside], p[inside]), 4) if both else None,
                }
        found[name] = groups
    return found


# --- words ------------------------------------------------------------------------------------------------------


def _reading(table: pl.DataFrame, labelled: Labelled) -> str:
    dropped = f"; {labelled.dropped} rows without an outcome are left out" if labelled.dropped else ""
    share = 100 * float(labelled.y.mean())
    return f"{table.height} rows, {table.width} columns{dropped}; {labelled.note} ({share:.1f} % of rows)"


def _quality_line(quality: QualityReport) -> str:
    missing = sum(column.missing > 0 for column in quality.columns)
    parts = [f"{quality.duplicate_rows} duplicate rows", f"missing values in {missing} columns"]
    parts += [
        f"{flag}: {', '.join(names)}"
        for flag in ("constant", "identifier", "leaking", "sensitive")
        if (names := quality.names(flag))
    ]
    return "; ".join(parts)


def _contract_line(contract: Contract) -> str:
    left = [f"{column.name} ({column.note})" for column in contract.columns if column.role != "feature"]
    tail = f"; left out: {', '.join(left)}" if left else ""
    return f"{len(contract.features)} columns to learn from{tail}"


def _noted(contract: Contract) -> dict[str, str]:
    return {column.name: column.note for column in contract.columns if column.note}


def _with_columns(contract: Contract, columns: tuple[Column, ...]) -> Contract:
    known = {column.name: column for column in columns}
    if strangers := known.keys() - {column.name for column in contract.columns}:
        raise InvalidInput(f"columns described that the table lacks: {', '.join(sorted(strangers))}")
    return msgspec.structs.replace(contract, columns=tuple(known.get(c.name, c) for c in contract.columns))


def _check_contract(contract: Contract, table: pl.DataFrame, target: str) -> None:
    names = [column.name for column in contract.features]
    if target in names:
        raise InvalidInput(f"the contract has the target {target!r} among its features; take it out")
    if absent := [name for name in names if name not in table.columns]:
        raise InvalidInput(f"the contract names columns that the table lacks: {', '.join(absent[:20])}")


def _packages() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # installed under another name
            continue
    return found


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"
