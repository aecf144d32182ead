"""How good a classifier's probabilities are: ranking, calibration, intervals, and the curves behind the plots.

Everywhere: y = outcomes 0.0 or 1.0, float64[n]; p = probabilities of the positive class, float64[n]. Both classes
must occur.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.data.quality import area

Floats = NDArray[np.float64]

_EPSILON = 1e-12


def auc(y: Floats, p: Floats) -> float:
    """Area under the ROC curve: the chance that a positive is ranked above a negative."""
    return area(y, p)


def gini(y: Floats, p: Floats) -> float:
    """2 AUC - 1, as scorecards are quoted."""
    return 2 * auc(y, p) - 1


def ks(y: Floats, p: Floats) -> float:
    """Kolmogorov-Smirnov distance: the largest gap between the two classes' cumulative shares."""
    return ks_cutoff(y, p)[0]


def ks_cutoff(y: Floats, p: Floats) -> tuple[float, float]:
    """The largest gap between the classes, and the cut-off c at which `p >= c` opens it."""
    thresholds, true_rate, false_rate = _rates(y, p)
    best = int(np.argmax(true_rate - false_rate))
    return float(true_rate[best] - false_rate[best]), float(thresholds[best])


def log_loss(y: Floats, p: Floats) -> float:
    """Mean cross-entropy in nats."""
    q = np.clip(p, _EPSILON, 1 - _EPSILON)
    return float(-np.mean(y * np.log(q) + (1 - y) * np.log1p(-q)))


def brier(y: Floats, p: Floats) -> float:
    """Mean squared distance of probability and outcome (Brier 1950)."""
    return float(np.mean((p - y) ** 2))


def calibration_error(y: Floats, p: Floats, bins: int = 10) -> float:
    """Expected calibration error over equally filled bins: mean gap of stated and observed rate."""
    gaps = [abs(part["stated"] - part["observed"]) * part["rows"] for part in calibration_curve(y, p, bins)]
    return float(sum(gaps) / len(y))


def measures(y: Floats, p: Floats) -> dict[str, float]:
    """Every measure of one set of predictions."""
    return {
        "auc": auc(y, p),
        "ks": ks(y, p),
        "gini": gini(y, p),
        "log_loss": log_loss(y, p),
        "brier": brier(y, p),
        "ece": calibration_error(y, p),
    }


def auc_interval(y: Floats, p: Floats, resamples: int = 500, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the AUC; each class is resampled within itself."""
    rng = np.random.default_rng(seed)
    positives, negatives = np.sort(p[y > 0]), np.sort(p[y == 0])
    # How many negatives lie below each positive, ties counted half: one AUC is then a mean of these.
    areas = np.empty(resamples)
    for index in range(resamples):
        above = rng.choice(positives, len(positives))
        below = np.sort(rng.choice(negatives, len(negatives)))
        wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
        areas[index] = wins.mean() / (2 * len(below))
    low, high = np.quantile(areas, (0.025, 0.975))
    return float(low), float(high)


def roc_curve(y: Floats, p: Floats, points: int = 101) -> dict[str, list[float]]:
    """The ROC curve, thinned to at most so many points."""
    _, true_rate, false_rate = _rates(y, p)
    x, z = np.concatenate([[0.0], false_rate]), np.concatenate([[0.0], true_rate])
    keep = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).astype(int))
    return {"false_positive_rate": _short(x[keep]), "true_positive_rate": _short(z[keep])}


def calibration_curve(y: Floats, p: Floats, bins: int = 10) -> list[dict[str, Any]]:
    """Stated and observed rate in equally filled bins."""
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    return [
        {"stated": round(float(p[rows].mean()), 6), "observed": round(float(y[rows].mean()), 6), "rows": len(rows)}
        for rows in parts
        if len(rows)
    ]


def score_distribution(y: Floats, p: Floats, bins: int = 20) -> dict[str, list[float]]:
    """How many of each class got which probability, in equal steps from 0 to 1."""
    edges = np.linspace(0, 1, bins + 1)
    return {
        "edges": _short(edges),
        "negative": np.histogram(p[y == 0], edges)[0].tolist(),
        "positive": np.histogram(p[y > 0], edges)[0].tolist(),
    }


def _rates(y: Floats, p: Floats) -> tuple[Floats, Floats, Floats]:
    """For each distinct probability c, descending: c and the shares of positives and negatives with p >= c."""
    order = np.argsort(-p, kind="stable")
    q, z = p[order], y[order]
    last = np.flatnonzero(np.diff(q, append=-np.inf))
    hits, rows = np.cumsum(z)[last], last + 1
    return q[last], hits / z.sum(), (rows - hits) / (len(z) - z.sum())


def _short(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 6) for value in values]
