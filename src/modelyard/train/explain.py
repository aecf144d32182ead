"""What moves a model's answers: each column's weight over a whole table."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelyard.contract.features import Contract
from modelyard.contract.tensor import Matrix
from modelyard.train.estimators import Estimator

MAX_ROWS = 5000  # enough for an average


def importance(estimator: Estimator, contract: Contract, matrix: Matrix) -> list[dict[str, Any]]:
    """Every column's mean absolute contribution in log-odds, largest first: `column`, `log_odds`, `share`."""
    terms = np.abs(estimator.contributions(matrix[:MAX_ROWS])[:, :-1]).mean(axis=0)
    total = float(terms.sum()) or 1.0
    ranked = sorted(zip(contract.features, terms.tolist(), strict=True), key=lambda pair: -pair[1])
    return [
        {"column": column.name, "log_odds": round(term, 6), "share": round(term / total, 4)} for column, term in ranked
    ]
