"""From a probability to a decision: cut-off, score points, and reasons in plain words. Values in the artifact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.features import Column
from modelyard.contract.tensor import Matrix

MAX_REASONS = 4  # what lenders customarily state, and what US Regulation B's commentary calls enough

_LOG_2 = math.log(2.0)

Texts = dict[str, str]  # language -> text


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log-odds as points: `points` at `odds`:1 in favour of the good outcome; `double` more points double the odds."""

    points: float = 600.0
    odds: float = 20.0
    double: float = 20.0

    def __post_init__(self) -> None:
        if self.odds <= 0 or self.double <= 0:
            raise ValueError("odds, and the points that double them, are above 0")

    def score(self, probability: NDArray[np.floating]) -> NDArray[np.int64]:
        """Points for probabilities of the *positive* (bad) class, float[n] -> int64[n]; higher is better."""
        return np.array([self.points_at(p) for p in np.asarray(probability).tolist()], dtype=np.int64)

    def points_at(self, probability: float) -> int:
        """Points for one probability of the positive (bad) class."""
        p = min(max(probability, 1e-9), 1 - 1e-9)
        return round(self.points + self.double / _LOG_2 * (math.log((1 - p) / p) - math.log(self.odds)))


class Reason(msgspec.Struct, frozen=True):
    """One column that spoke for the positive class, in plain words."""

    code: str
    column: str
    text: str
    contribution: float  # log-odds towards the positive class


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is said at which probability of the positive class."""

    cutoff: float
    positive: str  # what is said at and above the cut-off, such as decline
    negative: str
    meaning: str = ""  # of the probability, for people: "probability of default"
    scale: Scale = Scale()
    reasons: dict[str, dict[str, Texts]] = {}  # column -> high|low|value|missing -> language -> text

    def __post_init__(self) -> None:
        if not 0.0 < self.cutoff < 1.0:
            raise ValueError(f"a cut-off lies between 0 and 1, got {self.cutoff}")

    def reasons_for(
        self, contributions: NDArray[np.floating], row: Matrix, features: Sequence[Column], language: str = "en"
    ) -> list[Reason]:
        """Up to four columns that moved this row most towards the positive class; never a sensitive one.

        contributions: float[features], log-odds; row: float32[features], as the model saw it.
        """
        values = contributions.tolist()
        towards = [at for at, value in enumerate(values) if value > 0 and not features[at].sensitive]
        towards.sort(key=values.__getitem__, reverse=True)
        return [self._reason(features[at], float(row[at]), values[at], language) for at in towards[:MAX_REASONS]]

    def _reason(self, column: Column, value: float, contribution: float, language: str) -> Reason:
        aspect = _aspect(column, value)
        texts = self.reasons.get(column.name, {}).get(aspect) or {}
        text = texts.get(language) or _plain(column, aspect, language) if language != "en" else texts.get("en")
        code = f"{column.name}_{aspect}".upper()
        return Reason(code, column.name, text or _plain(column, aspect, language), round(contribution, 6))


_PLAIN: dict[str, Texts] = {
    "missing": {"en": "{} is not stated", "zh": "未提供{}"},
    "value": {"en": "{}: this value raises the probability", "zh": "{}：该取值提高了概率"},
    "high": {"en": "{} is high", "zh": "{}偏高"},
    "low": {"en": "{} is low", "zh": "{}偏低"},
    "typical": {"en": "{} raises the probability", "zh": "{}提高了概率"},
}


def _aspect(column: Column, value: float) -> str:
    if math.isnan(value):
        return "missing"
    if column.kind in ("category", "boolean"):
        return "value"
    if column.typical is None or value == column.typical:
        return "typical"
    return "high" if value > column.typical else "low"


def _plain(column: Column, aspect: str, language: str) -> str:
    texts = _PLAIN[aspect]
    return texts.get(language, texts["en"]).format(column.title(language))
