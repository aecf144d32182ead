"""The candidates: boosted trees, logistic regression, scorecard. Each learns from the matrix and packs itself."""

from __future__ import annotations

import math
from typing import Any, Protocol

import lightgbm as lgb
import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from modelyard.contract.features import Column, Contract
from modelyard.contract.tensor import Matrix
from modelyard.optimise.forest_files import forest_files
from modelyard.optimise.trees import float32_at_or_below, read_lightgbm, thresholds
from modelyard.train.additive import Additive, Levels, Line, Steps, Term, signed_log
from modelyard.train.recipe import Recipe

Floats = NDArray[np.float64]

_NARROW = 200  # columns of a design


class Packed(msgspec.Struct, frozen=True):
    """A fitted candidate as files, and where its answers jump."""

    files: dict[str, bytes]
    cuts: dict[int, list[float]]  # feature position -> thresholds, for the parity gate's edge rows


class Estimator(Protocol):
    """One candidate. `fit` returns a fitted one; probabilities are of the positive class."""

    name: str

    def fit(self, matrix: Matrix, y: Floats) -> Estimator:
        """Learn. matrix: finished rows, float32[n, features]; y: 0.0 or 1.0, float64[n]."""
        ...

    def predict_proba(self, matrix: Matrix) -> Floats:
        """Probability of the positive class, float64[n]."""
        ...

    def contributions(self, matrix: Matrix) -> Floats:
        """Log-odds of each feature and, last, the base: float64[n, features + 1]."""
        ...

    def pack(self) -> Packed:
        """The fitted model as ONNX and, for trees, the tables of its answers and explanations."""
        ...

    def describe(self) -> dict[str, Any]:
        """What people want to see of the fitted model."""
        ...


class Trees:
    """Gradient-boosted trees (LightGBM), categories and missing values understood natively."""

    name = "lightgbm"

    def __init__(self, contract: Contract, recipe: Recipe, rounds: int | None = None) -> None:
        self.contract, self.recipe = contract, recipe
        self.rounds = rounds or recipe.lightgbm.max_rounds
        self._booster: lgb.Booster | None = None

    @property
    def booster(self) -> lgb.Booster:
        """The fitted LightGBM model."""
        if self._booster is None:
            raise RuntimeError("fit comes first")
        return self._booster

    def fit(self, matrix: Matrix, y: Floats) -> Trees:
        """See `Estimator.fit`."""
        self._booster = lgb.train(self._parameters(), self._dataset(matrix, y), self.rounds)
        return self

    def fit_watching(self, matrix: Matrix, y: Floats, other: Matrix, other_y: Floats) -> dict[str, list[float]]:
        """Learn, and return the log-loss after each round on the training rows and on others: `train`, `valid`."""
        losses: dict[str, dict[str, list[float]]] = {}
        train = self._dataset(matrix, y)
        valid = lgb.Dataset(other, other_y, reference=train, free_raw_data=False)
        self._booster = lgb.train(
            self._parameters(),
            train,
            self.rounds,
            valid_sets=[train, valid],
            valid_names=["train", "valid"],
            callbacks=[lgb.record_evaluation(losses)],
        )
        return {name: values["binary_logloss"] for name, values in losses.items()}

    def predict_proba(self, matrix: Matrix, rounds: int | None = None) -> Floats:
        """See `Estimator.predict_proba`; with `rounds`, of the first so many trees."""
        return np.asarray(self.booster.predict(matrix, num_iteration=rounds or -1, num_threads=1))

    def contributions(self, matrix: Matrix) -> Floats:
        """See `Estimator.contributions`: TreeSHAP as LightGBM computes it."""
        return np.asarray(self.booster.predict(matrix, pred_contrib=True, num_threads=1))

    def pack(self) -> Packed:
        """See `Estimator.pack`."""
        forest = read_lightgbm(self.booster.dump_model())
        return Packed(forest_files(forest), thresholds(forest))

    def describe(self) -> dict[str, Any]:
        """Number of trees and leaves."""
        dump = self.booster.dump_model()["tree_info"]
        return {"trees": len(dump), "leaves": sum(tree["num_leaves"] for tree in dump)}

    def _dataset(self, matrix: Matrix, y: Floats) -> lgb.Dataset:
        categorical = [i for i, column in enumerate(self.contract.features) if column.kind == "category"]
        names = [f"f{position}" for position in range(matrix.shape[1])]  # LightGBM refuses some characters in names
        return lgb.Dataset(matrix, y, feature_name=names, categorical_feature=categorical, free_raw_data=False)

    def _parameters(self) -> dict[str, Any]:
        trees = self.recipe.lightgbm
        return {
            "objective": "binary",
            "metric": "binary_logloss",
            "num_leaves": trees.num_leaves,
            "max_depth": trees.max_depth,
            "learning_rate": trees.learning_rate,
            "min_data_in_leaf": trees.min_rows_in_leaf,
            "feature_fraction": trees.feature_share,
            "bagging_fraction": trees.row_share,
            "bagging_freq": 1 if trees.row_share < 1 else 0,
            "lambda_l2": trees.l2,
            "seed": self.recipe.seed,
            "deterministic": True,
            "force_col_wise": True,
            # One thread each: several wait for one another at every split, which is ruinous on a busy machine.
            "num_threads": 1,
            "verbosity": -1,
        }


class _AdditiveEstimator:
    """What logistic regression and scorecard share once they are fitted."""

    name = ""

    def __init__(self, contract: Contract, recipe: Recipe) -> None:
        self.contract, self.recipe = contract, recipe
        self._model: Additive | None = None

    @property
    def model(self) -> Additive:
        """The fitted base and terms."""
        if self._model is None:
            raise RuntimeError("fit comes first")
        return self._model

    def predict_proba(self, matrix: Matrix) -> Floats:
        """See `Estimator.predict_proba`."""
        return self.model.probability(matrix)

    def contributions(self, matrix: Matrix) -> Floats:
        """See `Estimator.contributions`."""
        return self.model.contributions(matrix)

    def pack(self) -> Packed:
        """See `Estimator.pack`."""
        cuts = {i: list(term.thresholds) for i, term in enumerate(self.model.terms) if isinstance(term, Steps)}
        return Packed({"model.onnx": self.model.to_onnx()}, cuts)


class Logistic(_AdditiveEstimator):
    """Logistic regression: numbers standardised, skewed ones as logarithms; categories one by one; missing apart."""

    name = "logistic"

    def fit(self, matrix: Matrix, y: Floats) -> Logistic:
        """See `Estimator.fit`."""
        designs = [_design(column, matrix[:, i]) for i, column in enumerate(self.contract.features)]
        inputs = [_design_columns(design, matrix[:, i]) for i, design in enumerate(designs)]
        weights, base = _fit_logistic(np.column_stack(inputs), y, self.recipe.logistic.l2)
        terms, at = [], 0
        for design, columns in zip(designs, inputs, strict=True):
            terms.append(_design_term(design, weights[at : at + columns.shape[1]]))
            at += columns.shape[1]
        self._model = Additive(base, tuple(terms)).centred(matrix)
        return self

    def describe(self) -> dict[str, Any]:
        """Every column's weight for one standard deviation, or for each category."""
        columns = self.contract.features
        return {"terms": {c.name: msgspec.to_builtins(t) for c, t in zip(columns, self.model.terms, strict=True)}}


class Scorecard(_AdditiveEstimator):
    """A scorecard: weight of evidence by bins, weighed by logistic regression, read as points."""

    name = "scorecard"

    def fit(self, matrix: Matrix, y: Floats) -> Scorecard:
        """See `Estimator.fit`."""
        card = self.recipe.scorecard
        evidence = [
            _evidence(column, matrix[:, i], y, card.max_bins, card.min_bin_share)
            for i, column in enumerate(self.contract.features)
        ]
        unit = Additive(0.0, tuple(evidence))
        weights, base = _fit_logistic(unit.contributions(matrix)[:, :-1], y, card.l2)
        terms = tuple(_scaled(term, float(weight)) for term, weight in zip(evidence, weights, strict=True))
        self._model = Additive(base, terms).centred(matrix)
        return self

    def describe(self) -> dict[str, Any]:
        """The card: the points of every column's bins, at 20 points to double the odds; more points, less risk."""
        factor = 20 / math.log(2)
        card = {}
        for column, term in zip(self.contract.features, self.model.terms, strict=True):
            if isinstance(term, Levels):
                names = dict(zip(column.categories or ("false", "true"), term.values, strict=False))
            elif isinstance(term, Steps):
                ends = [f"<= {cut:.6g}" for cut in term.thresholds] + ["above"]
                names = dict(zip(ends, term.values, strict=True))
            else:
                continue
            names["missing"] = term.missing
            card[column.name] = {name: round(-factor * value, 1) for name, value in names.items()}
        return {"points_to_double_the_odds": 20, "points": card}


def make(name: str, contract: Contract, recipe: Recipe) -> Estimator:
    """A new, unfitted candidate."""
    kinds: dict[str, Any] = {"lightgbm": Trees, "logistic": Logistic, "scorecard": Scorecard}
    return kinds[name](contract, recipe)  # type: ignore[no-any-return]


def _fit_logistic(design: Floats, y: Floats, l2: float) -> tuple[Floats, float]:
    """Weights and intercept. Newton's method is exact and fast for few columns; for many it would take their cube."""
    narrow = design.shape[1] <= _NARROW
    solver, tolerance = ("newton-cholesky", 1e-8) if narrow else ("newton-cg", 1e-5)
    model = LogisticRegression(C=1.0 / max(l2, 1e-9), max_iter=200, tol=tolerance, solver=solver)
    model.fit(design if narrow else csr_matrix(design), y)
    return model.coef_[0], float(model.intercept_[0])


# --- the logistic regression's design ---------------------------------------------------------------------------


class _Design(msgspec.Struct, frozen=True):
    """How one column enters the regression."""

    levels: int  # of a category; 0: a number
    logarithmic: bool
    centre: float
    spread: float
    has_missing: bool


def _design(column: Column, x: NDArray[np.float32]) -> _Design:
    missing = bool(np.isnan(x).any())
    if column.kind == "category":
        return _Design(len(column.categories), False, 0.0, 1.0, missing)
    seen = x[~np.isnan(x)].astype(np.float64)
    if not len(seen):
        return _Design(0, False, 0.0, 1.0, missing)
    logarithmic = abs(_skew(signed_log(seen))) < abs(_skew(seen)) - 0.5
    values = signed_log(seen) if logarithmic else seen
    return _Design(0, logarithmic, float(values.mean()), float(values.std()) or 1.0, missing)


def _skew(values: Floats) -> float:
    spread = values.std()
    return float(np.mean(((values - values.mean()) / spread) ** 3)) if spread > 0 else 0.0


def _design_columns(design: _Design, x: NDArray[np.float32]) -> Floats:
    missing = np.isnan(x)
    if design.levels:
        one_hot = (x[:, None] == np.arange(design.levels)).astype(np.float64)
        return np.column_stack([one_hot, missing]) if design.has_missing else one_hot
    known = np.where(missing, 0.0, x).astype(np.float64)
    values = signed_log(known) if design.logarithmic else known
    standard = np.where(missing, 0.0, (values - design.centre) / design.spread)
    return np.column_stack([standard, missing]) if design.has_missing else standard[:, None]


def _design_term(design: _Design, weights: Floats) -> Term:
    missing = float(weights[-1]) if design.has_missing else 0.0
    if design.levels:
        return Levels(tuple(float(weight) for weight in weights[: design.levels]), missing)
    slope = float(weights[0]) / design.spread
    return Line(slope, -slope * design.centre, missing, design.logarithmic)


# --- the scorecard's bins ---------------------------------------------------------------------------------------


def _evidence(column: Column, x: NDArray[np.float32], y: Floats, max_bins: int, min_share: float) -> Term:
    """Weight of evidence for the positive class in each bin, log-odds against the whole; small bins draw to zero."""
    missing = np.isnan(x)
    at_missing = _woe(y[missing], y)
    if column.kind in ("category", "boolean"):
        levels = len(column.categories) or 2
        return Levels(tuple(_woe(y[x == level], y) for level in range(levels)), at_missing)
    cuts = _cuts(x[~missing], y[~missing], max_bins, min_share)
    bins = np.searchsorted(np.array(cuts), x, "left")
    values = tuple(_woe(y[~missing & (bins == part)], y) for part in range(len(cuts) + 1))
    return Steps(tuple(cuts), values, at_missing)


def _woe(part: Floats, y: Floats, prior: float = 10.0) -> float:
    """Log-odds of a bin against the whole, with `prior` rows at the whole's rate added."""
    rate = float(y.mean())
    share = (float(part.sum()) + prior * rate) / (len(part) + prior)
    return math.log(share / (1 - share)) - math.log(rate / (1 - rate))


def _cuts(x: NDArray[np.float32], y: Floats, max_bins: int, min_share: float) -> list[float]:
    """Thresholds between quantile bins, merged while neighbours differ least or a bin is too small."""
    if not len(x):
        return []
    fine = np.unique(np.quantile(x, np.linspace(0, 1, 4 * max_bins + 1)[1:-1], method="lower"))
    cuts = [float32_at_or_below(float(cut)) for cut in fine if cut < x.max()]
    while cuts:
        bins = np.searchsorted(np.array(cuts), x, "left")
        rows = np.bincount(bins, minlength=len(cuts) + 1)
        hits = np.asarray(np.bincount(bins, weights=y, minlength=len(cuts) + 1), dtype=np.float64)
        gaps = _gaps(rows, hits)
        small = np.minimum(rows[:-1], rows[1:]) < min_share * len(x)
        if small.any():
            gaps = np.where(small, gaps - 1e6, gaps)
        elif len(cuts) < max_bins and gaps.min() > 1.0:
            return cuts
        del cuts[int(np.argmin(gaps))]
    return cuts


def _gaps(rows: NDArray[np.signedinteger], hits: Floats) -> Floats:
    """How surely neighbouring bins differ in rate: squared difference over its variance."""
    rate = (hits + 0.5) / (rows + 1)
    both = (hits[:-1] + hits[1:] + 1) / (rows[:-1] + rows[1:] + 2)
    variance = both * (1 - both) * (1 / np.maximum(rows[:-1], 1) + 1 / np.maximum(rows[1:], 1))
    return np.asarray((rate[1:] - rate[:-1]) ** 2 / variance)


def _scaled(term: Term, weight: float) -> Term:
    if isinstance(term, Line):
        raise TypeError("a scorecard has no lines")
    return msgspec.structs.replace(term, values=tuple(v * weight for v in term.values), missing=term.missing * weight)
