"""Everything that decides a training, as one value. Light: the control plane reads it without waking the workshop."""

from __future__ import annotations

from typing import Literal

import msgspec

from modelyard.contract.decision import Scale, Texts
from modelyard.contract.features import Column

Candidate = Literal["lightgbm", "logistic", "scorecard"]


class TreeRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the boosted trees learn. Depth stays at six so that every answer can be explained exactly and fast."""

    num_leaves: int = 15
    max_depth: int = 6
    learning_rate: float = 0.03
    max_rounds: int = 300  # cross-validation picks the best number of rounds up to this
    min_rows_in_leaf: int = 20
    feature_share: float = 0.8
    row_share: float = 0.8
    l2: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.num_leaves <= 64 or not 1 <= self.max_depth <= 6:
            raise ValueError("num_leaves lies between 2 and 64, max_depth between 1 and 6")
        if not 0 < self.learning_rate <= 1 or not 10 <= self.max_rounds <= 5000:
            raise ValueError("learning_rate lies between 0 and 1, max_rounds between 10 and 5000")
        if not 0 < self.feature_share <= 1 or not 0 < self.row_share <= 1 or self.l2 < 0 or self.min_rows_in_leaf < 1:
            raise ValueError("shares lie between 0 and 1, l2 at or above 0, min_rows_in_leaf at or above 1")


class ScorecardRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the scorecard bins and weighs."""

    max_bins: int = 6  # of a number; categories are bins of their own
    min_bin_share: float = 0.05  # of the training rows
    l2: float = 1.0


class LogisticRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How strongly the logistic regression is drawn to zero."""

    l2: float = 1.0


class DecisionTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said at and below the cut-off; the cut-off itself is found in training."""

    positive: str = ""  # such as decline; empty: the class's own name
    negative: str = ""
    meaning: str = ""  # of the probability, for people
    scale: Scale = Scale()
    reasons: dict[str, dict[str, Texts]] = {}
    cutoff: float | None = None  # given instead of found


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides a training besides the table: two trainings with the same recipe give the same model."""

    candidates: tuple[Candidate, ...] = ("lightgbm", "logistic", "scorecard")
    folds: int = 5
    seed: int = 0
    test_share: float = 0.2
    bootstrap: int = 500  # resamples behind every interval
    threads: int = 2  # folds that learn side by side; each learns on one core
    declared: tuple[str, ...] = ()  # columns to keep though they look sensitive, leaking or like identifiers
    lightgbm: TreeRecipe = TreeRecipe()
    logistic: LogisticRecipe = LogisticRecipe()
    scorecard: ScorecardRecipe = ScorecardRecipe()

    def __post_init__(self) -> None:
        if not self.candidates or len(set(self.candidates)) != len(self.candidates):
            raise ValueError("candidates: at least one, each named once")
        if not 2 <= self.folds <= 20:
            raise ValueError("folds lies between 2 and 20")
        if not 0.05 <= self.test_share <= 0.5:
            raise ValueError("test_share lies between 0.05 and 0.5")
        if self.bootstrap < 50 or self.threads < 1:
            raise ValueError("bootstrap is at least 50, threads at least 1")


class Blueprint(msgspec.Struct, frozen=True):
    """A ready service as a value: where its table lies, what it predicts, and what it says."""

    name: str
    title: Texts
    package: str  # the package that holds the table ...
    resource: str  # ... and the table's path in it
    target: str
    positive: str
    columns: tuple[Column, ...] = ()  # what is known of columns; replaces what the table alone would say
    recipe: Recipe = Recipe()
    decision: DecisionTemplate = DecisionTemplate()
    about: str = ""  # purpose and limits, for the model card
    licence: str = ""  # of the table
