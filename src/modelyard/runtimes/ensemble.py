"""Several versions answer as one: their weighted mean, their vote, or a small model over what they say.

How they are joined is a value in the artifact (`ensemble.json`); the members are versions of their own on the same
shelf. Each gets the columns that its own contract names and cleans them itself, so it says what it says alone.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact
from modelyard.contract.features import Column
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.answers import named_answers
from modelyard.runtimes.ensemble_joins import (
    COARSE,
    EnsembleRecipe,
    Floats,
    answer_of,
    answer_output,
    joined_by,
    joined_tensors,
    log_odds,
    stacked,
)
from modelyard.runtimes.members import open_members, timed
from modelyard.runtimes.timed import TimedOutputs
from modelyard.runtimes.version import LoadedVersion

FILE = "ensemble.json"
META = "meta"  # the role of the model over the members' answers


class EnsembleRuntime:
    """The members and how they are joined. Several threads may call it at once if every member allows that."""

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self.manifest = artifact.manifest
        self.recipe = msgspec.json.decode(artifact.read(FILE), type=EnsembleRecipe)
        self._opened = open_members(artifact, threads)
        self._meta = self._opened[-1] if self.manifest.members[-1].role == META else None
        versions = self._opened[:-1] if self._meta else self._opened
        self._seats = [_Seat(version, self.manifest.contract.features) for version in versions]
        self._meta_output = answer_output(self._meta.manifest) if self._meta else ""
        self._adds_log_odds = self.recipe.adds_log_odds(self.manifest.task)
        self.steps = self.manifest.steps
        self.is_thread_safe = all(version.runtime.is_thread_safe for version in self._opened)

    def predict(self, inputs: Tensors) -> Tensors:
        """See `Runtime.predict`. What it raises names the member that failed."""
        asked = [timed(seat.predict, inputs, step) for seat, step in zip(self._seats, self.steps, strict=False)]
        outputs, took_ns = [output for output, _ in asked], [ns for _, ns in asked]
        task = self.manifest.task
        if task == "tensor":
            return TimedOutputs(joined_tensors(self.recipe, outputs), took_ns)
        answers = [self._said(seat, inputs, output) for seat, output in zip(self._seats, outputs, strict=True)]
        if self._meta is None:
            joint = joined_by(self.recipe, task, answers)
        else:
            said, ns = timed(self._meta.predict, stacked(answers), self.steps[-1])
            took_ns.append(ns)
            joint = answer_of(said, self._meta_output, task)
        return TimedOutputs(named_answers(joint, self.manifest), took_ns)

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """Exact where the answer's log-odds are a sum of the members': each member's own, weighted and added up.

        The last column, the base, takes the members' rounding, so that a row sums to what was answered.
        """
        weights, rows = self.recipe.log_odds_weights, inputs.get("rows")
        if not weights or rows is None:
            return None
        total = np.zeros((len(rows), rows.shape[1] + 1))
        total[:, -1] = self.recipe.intercept
        for seat, weight in zip(self._seats, weights, strict=True):
            own = seat.explain(rows)
            if own is None:
                return None
            said = self._said(seat, inputs, seat.predict(inputs))
            total[:, seat.take] += weight * own[:, :-1]
            total[:, -1] += weight * (said - own[:, :-1].sum(axis=1, dtype=np.float64))
        return total.astype(np.float32)

    def _said(self, seat: _Seat, inputs: Tensors, outputs: Tensors) -> Floats:
        """What of a member's outputs is joined with the others'."""
        answer = seat.answer(outputs)
        return seat.log_odds(inputs["rows"], answer) if self._adds_log_odds else answer

    def close(self) -> None:
        """Give every member back."""
        for version in self._opened:
            version.close()


class _Seat:
    """One member, and how the ensemble's rows become its own: some of the columns, codes of its own categories."""

    def __init__(self, version: LoadedVersion, features: tuple[Column, ...]) -> None:
        self._version = version
        task = version.manifest.task
        self._task = task
        self._output = answer_output(version.manifest) if task != "tensor" else ""
        positions = {column.name: at for at, column in enumerate(features)}
        names = version.encoder.names
        self.take = np.array([positions[name] for name in names], dtype=np.intp)
        self._takes_all = version.is_table and self.take.tolist() == list(range(len(features)))
        self._codes = [
            (at, codes)
            for at, own in enumerate(version.encoder.features)
            if (codes := _own_codes(features[positions[own.name]], own)) is not None
        ]

    def predict(self, inputs: Tensors) -> Tensors:
        """What the member answers to the ensemble's inputs."""
        return self._version.predict(self._own(inputs["rows"]) if self._version.is_table else inputs)

    def answer(self, outputs: Tensors) -> Floats:
        """The one output that counts."""
        return answer_of(outputs, self._output, self._task)

    def log_odds(self, rows: Matrix, probability: Floats) -> Floats:
        """The member's answers as log-odds."""
        return log_odds_of(self._version, self._own(rows), probability)

    def explain(self, rows: Matrix) -> Matrix | None:
        """The member's own contributions, in the order of its own columns."""
        return self._version.explain(self._own(rows))

    def _own(self, rows: Matrix) -> Matrix:
        if self._takes_all and not self._codes:
            return rows
        own = rows[:, self.take]  # a copy: the ensemble's rows are the caller's
        for at, codes in self._codes:
            own[:, at] = codes[np.fmax(own[:, at], -1.0).astype(np.intp)]  # a missing one is the last
        return own


def log_odds_of(version: LoadedVersion, rows: Matrix, probability: Floats) -> Floats:
    """A version's probabilities as log-odds, float64[n]. rows: what it answered, float32[n, its features].

    A probability near 0 or 1 says little of its odds: there the sum of the version's explanation is taken, if it has
    one.
    """
    odds = log_odds(probability)
    coarse = np.flatnonzero(np.minimum(probability, 1 - probability) < COARSE)
    if len(coarse) and (own := version.explain(rows[coarse])) is not None:
        odds[coarse] = own.sum(axis=1, dtype=np.float64)
    return odds


def _own_codes(ours: Column, own: Column) -> NDArray[np.float32] | None:
    """The member's code of each of the ensemble's categories, and last of a missing one; None if they are the same."""
    if own.kind != "category" or own.categories[: len(ours.categories)] == ours.categories:
        return None
    known = {category: float(code) for code, category in enumerate(own.categories)}
    codes = [known.get(category, np.nan) for category in ours.categories]
    return np.array([*codes, np.nan], dtype=np.float32)
