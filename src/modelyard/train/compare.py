"""Which candidate learns best: stratified cross-validation, with every row predicted by a model that never saw it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.features import Contract
from modelyard.contract.tensor import Matrix
from modelyard.train.estimators import Estimator, Floats, Trees, make
from modelyard.train.evaluate import auc, log_loss, measures
from modelyard.train.progress import Progress
from modelyard.train.recipe import Recipe

CLOSE_AUC = 0.002  # candidates this near to the best are told apart by log-loss
RULE = f"the lowest out-of-fold log-loss among candidates within {CLOSE_AUC} of the highest out-of-fold AUC"


class Candidate(msgspec.Struct, frozen=True):
    """What cross-validation found of one candidate."""

    name: str
    predictions: Floats  # out of fold, float64[n]
    measures: dict[str, float]
    rounds: int | None = None  # boosted trees only: the number that generalised best ...
    losses: dict[str, list[float]] = {}  # ... and the mean log-loss after each round, train and valid


def stratified_folds(y: Floats, folds: int, seed: int) -> NDArray[np.int64]:
    """Each row's fold, int64[n]; every fold has its share of both classes."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(y), dtype=np.int64)
    for outcome in (0.0, 1.0):
        rows = rng.permutation(np.flatnonzero(y == outcome))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


def stratified_split(y: Floats, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row positions for training and for the test that training never sees, each with its share of both classes."""
    rng = np.random.default_rng([seed, 1])
    test = [
        rng.permutation(rows)[: max(1, round(share * len(rows)))]
        for rows in (np.flatnonzero(y == 0), np.flatnonzero(y == 1))
    ]
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(y)), chosen), chosen


def cross_validate(name: str, contract: Contract, recipe: Recipe, matrix: Matrix, y: Floats) -> Candidate:
    """One candidate's out-of-fold predictions and measures."""
    fold = stratified_folds(y, recipe.folds, recipe.seed)
    if name == "lightgbm":
        return _cross_validate_trees(contract, recipe, matrix, y, fold)
    predictions = np.empty(len(y))

    def learn(part: int) -> None:
        inside = fold == part
        fitted = make(name, contract, recipe).fit(matrix[~inside], y[~inside])
        predictions[inside] = fitted.predict_proba(matrix[inside])

    with ThreadPoolExecutor(recipe.threads) as pool:
        list(pool.map(learn, range(recipe.folds)))
    return Candidate(name, predictions, measures(y, predictions))


def _cross_validate_trees(
    contract: Contract, recipe: Recipe, matrix: Matrix, y: Floats, fold: NDArray[np.int64]
) -> Candidate:
    """One number of rounds for all folds: where the mean loss over the folds is lowest.

    A number for each fold, stopped on the very rows that it then predicts, would flatter the model.
    """

    def learn(part: int) -> tuple[Trees, dict[str, list[float]]]:
        inside = fold == part
        trees = Trees(contract, recipe)
        return trees, trees.fit_watching(matrix[~inside], y[~inside], matrix[inside], y[inside])

    with ThreadPoolExecutor(recipe.threads) as pool:  # the libraries let go of the interpreter while they learn
        learned = list(pool.map(learn, range(recipe.folds)))
    curves = [curve for _, curve in learned]
    losses = {name: np.mean([curve[name] for curve in curves], axis=0) for name in ("train", "valid")}
    rounds = int(np.argmin(losses["valid"])) + 1
    predictions = np.empty(len(y))
    for part, (trees, _) in enumerate(learned):
        predictions[fold == part] = trees.predict_proba(matrix[fold == part], rounds)
    rounded = {name: [round(float(loss), 6) for loss in values] for name, values in losses.items()}
    return Candidate("lightgbm", predictions, measures(y, predictions), rounds, rounded)


def choose(candidates: list[Candidate]) -> Candidate:
    """The candidate that `RULE` names."""
    best = max(candidate.measures["auc"] for candidate in candidates)
    close = [candidate for candidate in candidates if candidate.measures["auc"] >= best - CLOSE_AUC]
    return min(close, key=lambda candidate: candidate.measures["log_loss"])


def refit(candidate: Candidate, contract: Contract, recipe: Recipe, matrix: Matrix, y: Floats) -> Estimator:
    """The candidate, learned from all training rows."""
    if candidate.name == "lightgbm":
        return Trees(contract, recipe, candidate.rounds).fit(matrix, y)
    return make(candidate.name, contract, recipe).fit(matrix, y)


def learning_curve(
    candidate: Candidate, contract: Contract, recipe: Recipe, matrix: Matrix, y: Floats, progress: Progress
) -> list[dict[str, Any]]:
    """AUC and log-loss on one fold after learning from 20, 40 ... 100 % of the others: does more data still help?"""
    inside = stratified_folds(y, recipe.folds, recipe.seed) == 0
    train = np.random.default_rng([recipe.seed, 2]).permutation(np.flatnonzero(~inside))
    shares = (0.2, 0.4, 0.6, 0.8, 1.0)

    def learn(share: float) -> dict[str, Any] | None:
        rows = train[: round(share * len(train))]
        if not 0 < y[rows].sum() < len(rows):
            return None
        p = refit(candidate, contract, recipe, matrix[rows], y[rows]).predict_proba(matrix[inside])
        return {
            "rows": len(rows),
            "auc": round(auc(y[inside], p), 6),
            "log_loss": round(log_loss(y[inside], p), 6),
        }

    curve = []
    with ThreadPoolExecutor(recipe.threads) as pool:
        for done, point in enumerate(pool.map(learn, shares), start=1):
            curve += [point] if point else []
            progress.tick(done, len(shares))
    return curve
