"""How several versions' answers become one. Pure: arrays of the members' answers in, one array out.

Probabilities are added up in float64, member by member, so that a row's answer does not depend on how many rows there
are beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.manifest import Manifest, Task
from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Matrix, Tensors

NEAREST = 2.0**-24  # no float32 lies closer to 1: a probability nearer to 0 or to 1 is taken for this
COARSE = 0.0025  # nearer to 0 or to 1 than this, the rounding of float32 shows in log-odds

Floats = NDArray[np.float64]


class EnsembleRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the members' answers become one: the file `ensemble.json`. Everything is in the members' order."""

    by: Literal["mean", "vote", "stacking"]
    weights: tuple[float, ...] = ()  # of a mean: they sum to 1; of a vote: what each member's voice counts
    log_odds: bool = False  # of a mean: of the members' log-odds rather than of their probabilities
    cutoffs: tuple[float, ...] = ()  # of a vote on two classes: the probability from which on a member says yes
    coefficients: tuple[float, ...] = ()  # of a stacking that adds up log-odds: what each member's count ...
    intercept: float = 0.0  # ... and what is added to them

    def __post_init__(self) -> None:
        if not all(np.isfinite(weight) and weight > 0 for weight in self.weights):
            raise ValueError("weights are finite numbers above 0")
        if self.by == "mean" and abs(sum(self.weights) - 1) > 1e-9:
            raise ValueError("the weights of a mean sum to 1")
        if (self.by == "stacking") == bool(self.weights):
            raise ValueError("a mean and a vote have weights; a stacking has a model over the members instead")

    def adds_log_odds(self, task: Task) -> bool:
        """Whether the members' log-odds are what is joined, rather than their answers."""
        return self.log_odds or (self.by == "stacking" and task == "binary")

    @property
    def log_odds_weights(self) -> tuple[float, ...]:
        """What each member's log-odds are multiplied by, where the answer's are their sum; empty where they are not."""
        if self.by == "stacking":
            return self.coefficients
        return self.weights if self.log_odds else ()


def answer_output(manifest: Manifest) -> str:
    """The output that carries a version's answer: probability, probabilities of the classes, or prediction.

    Raises InvalidInput where that cannot be told.
    """
    specs = {spec.name: spec for spec in manifest.signature.outputs if spec.datatype in ("FP32", "FP64")}
    usual = {"binary": "probability", "multiclass": "probabilities"}.get(manifest.task, "prediction")
    if usual in specs:
        return usual
    wide = [name for name, spec in specs.items() if len(spec.shape) == 2] if manifest.task == "multiclass" else []
    found = wide or list(specs)
    if len(found) != 1:
        raise InvalidInput(f"{manifest.model} answers {', '.join(specs) or 'no numbers'}; which of them is its answer?")
    return found[0]


def answer_of(outputs: Tensors, name: str, task: Task) -> Floats:
    """One member's answer, float64: [n] probabilities or predictions, [n, classes] of more than two classes."""
    values = outputs[name].astype(np.float64)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 and task != "multiclass" else values


def joined_by(recipe: EnsembleRecipe, task: Task, answers: Sequence[Floats]) -> Floats:
    """The mean or the vote of the members' answers (or log-odds, see `adds_log_odds`), in the shape that one has."""
    if recipe.by == "mean":
        total = _sum(recipe.weights, answers)
        return squashed(total) if recipe.log_odds else total
    if task == "binary":
        return _votes(
            recipe, [(answer >= cut).astype(np.float64) for answer, cut in zip(answers, recipe.cutoffs, strict=True)]
        )
    return _votes(recipe, [_one_hot(answer) for answer in answers])


def joined_tensors(recipe: EnsembleRecipe, outputs: Sequence[Tensors]) -> Tensors:
    """The mean of each output that the members give, in its own type."""
    return {
        name: _sum(recipe.weights, [one[name].astype(np.float64) for one in outputs]).astype(values.dtype)
        for name, values in outputs[0].items()
    }


def stacked(answers: Sequence[Floats]) -> Matrix:
    """What the model over the members sees, float32[n, members]: of each its log-odds, or its prediction."""
    return np.stack(answers, axis=1).astype(np.float32)


def log_odds(probability: NDArray[Any]) -> Floats:
    """ln(p / (1 - p)), finite also for 0 and 1."""
    p = np.minimum(np.maximum(probability.astype(np.float64), NEAREST), 1 - NEAREST)  # np.clip costs four times this
    odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def squashed(odds: Floats) -> Floats:
    """1 / (1 + exp(-log-odds)), for log-odds of any size."""
    probability: Floats = np.exp(-np.logaddexp(0.0, -odds))
    return probability


def _sum(weights: Sequence[float], answers: Sequence[Floats]) -> Floats:
    total = weights[0] * answers[0]
    for weight, answer in zip(weights[1:], answers[1:], strict=True):
        total += weight * answer
    return total


def _votes(recipe: EnsembleRecipe, voices: Sequence[Floats]) -> Floats:
    return _sum(recipe.weights, voices) / sum(recipe.weights)


def _one_hot(answer: Floats) -> Floats:
    """1 for each row's likeliest class, the first of equals."""
    votes = np.zeros_like(answer)
    votes[np.arange(len(answer)), answer.argmax(axis=1)] = 1.0
    return votes
