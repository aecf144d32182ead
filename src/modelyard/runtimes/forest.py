"""Forests answered by table look-up instead of tree by tree: exact, and in batches several times as fast.

A table says, for each bin of each feature, which leaves of every tree a value in that bin rules out, one bit a leaf.
What a row's values rule out together leaves one leaf of each tree as the leftmost that is still possible, and that is
the one where the row ends. Source: QuickScorer (Lucchese et al. 2015), with the bits of all thresholds below a value
joined beforehand. `optimise/masks.py` makes the tables.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.bins import Bins
from modelyard.runtimes.contributions import TreeContributions

FILE = "forest.npz"
# What an output says of the sum, or of the probability where the sum is log-odds:
VALUE = "value"  # itself, [n]
COLUMN = "column"  # the same as [n, 1]
BOTH = "both"  # what is left of one, and itself, [n, 2]
LABEL = "label"  # of the likelier one of two classes, [n]
_CHUNK = 32  # rows at a time: what is looked up for them stays in the processor's cache
_HALF = 0.5
_LARGEST = 700.0  # the exponential of more has no float64


class ForestTables:
    """The tables of one forest. Never changes; several threads may ask at once.

    used: the features that the trees ask, int32; edges, starts: the thresholds of those, as `Bins` takes them.
    masks: unsigned[all bins, trees], the leaves that each bin rules out; leaf 0, the leftmost, is the lowest bit.
    leaves: float64[trees, as many as a mask has bits], the leaves' values. base: what is added to their sum.
    logistic: whether the sum is log-odds. answers: the name and the form of each output; labels: of the two classes.
    """

    def __init__(
        self,
        used: NDArray[np.int32],
        edges: NDArray[np.float32],
        starts: NDArray[np.int32],
        masks: NDArray[np.unsignedinteger],
        leaves: NDArray[np.float64],
        base: float,
        logistic: bool,
        answers: Mapping[str, str],
        labels: NDArray[Any],
    ) -> None:
        self._used = used.astype(np.intp)
        self._bins = Bins(edges, starts)
        self._masks, self._leaves, self._base = masks, leaves, base
        self._logistic, self._answers = logistic, dict(answers)
        self._labels = labels.astype(object) if labels.dtype.kind == "U" else labels
        self._values = leaves.reshape(-1)
        self._first = np.arange(len(leaves), dtype=np.intp) * leaves.shape[1] - 1  # the bits are counted from 1

    @property
    def size_bytes(self) -> int:
        """Of the masks, which are most of it."""
        return self._masks.nbytes

    @classmethod
    def load(cls, data: bytes) -> ForestTables:
        """The tables as `dump` wrote them. Raises ValueError if the bytes are none."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in ("used", "edges", "starts", "masks", "leaves", "labels")}
            answers = dict(arrays["answers"].tolist())
            return cls(**held, base=float(arrays["base"]), logistic=bool(arrays["logistic"]), answers=answers)

    def dump(self) -> bytes:
        """The tables as one .npz file."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            allow_pickle=False,
            used=self._used.astype(np.int32),
            edges=self._bins.edges,
            starts=self._bins.starts,
            masks=self._masks,
            leaves=self._leaves,
            base=np.float64(self._base),
            logistic=np.bool_(self._logistic),
            answers=np.array(list(self._answers.items())),
            labels=self._labels.astype(str) if self._labels.dtype == object else self._labels,
        )
        return file.getvalue()

    def answer(self, matrix: Matrix) -> Tensors:
        """Every output, n rows each; matrix: finished, float32[n, features]."""
        value = self.of(matrix)
        if self._logistic:
            value = 1 / (1 + np.exp(np.minimum(-value, _LARGEST)))
        return {name: self._said(value, form) for name, form in self._answers.items()}

    def _said(self, value: NDArray[np.float64], form: str) -> NDArray[Any]:
        if form == LABEL:
            return self._labels.take((value > _HALF).astype(np.intp))
        if form == BOTH:
            return np.stack([1 - value, value], axis=1).astype(np.float32)
        answer = value.astype(np.float32)
        return answer.reshape(-1, 1) if form == COLUMN else answer

    def of(self, matrix: Matrix) -> NDArray[np.float64]:
        """The sum of each row's leaves and the base, float64[n]; matrix: finished, float32[n, features].

        A row's sum is the same, to the last bit, in whatever batch it comes.
        """
        if len(matrix) <= _CHUNK:
            return self._sums(matrix)
        return np.concatenate([self._sums(matrix[at : at + _CHUNK]) for at in range(0, len(matrix), _CHUNK)])

    def _sums(self, part: Matrix) -> NDArray[np.float64]:
        if len(self._used) < part.shape[1]:
            part = part.take(self._used, axis=1)
        ruled_out = np.bitwise_or.reduce(self._masks.take(self._bins.lines(part), axis=0), axis=1)
        leaf = np.bitwise_count(ruled_out ^ (ruled_out + 1))  # the lowest bit that is not set, counted from 1
        sums: NDArray[np.float64] = self._values.take(leaf + self._first).sum(axis=1)
        return sums + self._base


class ForestRuntime:
    """One forest by its tables."""

    is_thread_safe = True

    def __init__(self, artifact: Artifact) -> None:
        self._tables = ForestTables.load(artifact.read(FILE))
        self._trees = TreeContributions.beside(artifact)

    def predict(self, inputs: Tensors) -> Tensors:
        """See `Runtime.predict`."""
        return self._tables.answer(inputs["rows"])

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """See `Runtime.contributions`."""
        return self._trees.of(inputs["rows"]) if self._trees else None

    def close(self) -> None:
        """Let go of the tables."""
        del self._tables, self._trees
