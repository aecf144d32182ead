"""Exact explanations of tree ensembles by table look-up: TreeSHAP without the trees, without their framework.

What a tree gives each feature depends only on where the row's values lie among the thresholds of that tree, and those
places are few. `optimise/contributions.py` computes the answer for every combination once; a tree with too many of them
is cut into subtrees, which add up. Here a row's values become bins, bins become a place in the table of each (sub)tree,
and the table is read there.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact
from modelyard.contract.tensor import Matrix
from modelyard.runtimes.bins import Bins

FILE = "contributions.npz"

_CHUNK = 32  # rows at a time: what is looked up for them stays in the processor's cache


class TreeContributions:
    """The tables of one ensemble. Never changes; several threads may ask at once.

    edges, starts: the features' thresholds, as `Bins` takes them. A category's lie at code - 0.5, so that each code has
    a bin of its own and codes that no tree knows share the last one.
    steps: int32[all bins, trees]: how far each bin of a feature moves the place in each tree's table; origin: where
    that table begins in `shares`. A place holds what the tree gives each of its features there.
    pair_tree, pair_slot: for each (feature, tree) pair, sorted by feature: the tree, and which of its features it is.
    shares: float32, log-odds. first: where each feature's pairs begin.
    """

    def __init__(
        self,
        edges: NDArray[np.float32],
        starts: NDArray[np.int32],
        steps: NDArray[np.int32],
        origin: NDArray[np.int32],
        pair_tree: NDArray[np.int32],
        pair_slot: NDArray[np.int32],
        shares: NDArray[np.float32],
        first: NDArray[np.int32],
        base: float,
    ) -> None:
        self._arrays = {
            "edges": edges,
            "starts": starts,
            "steps": steps,
            "origin": origin,
            "pair_tree": pair_tree,
            "pair_slot": pair_slot,
            "shares": shares,
            "first": first,
            "base": np.float64(base),
        }
        self._features = len(starts) - 1
        self._bins = Bins(edges, starts)
        self._steps, self._shares = steps, shares
        self._pair_tree = pair_tree.astype(np.intp)
        self._pair_start = origin.astype(np.intp)[self._pair_tree] + pair_slot
        self._used = np.flatnonzero(np.diff(first))
        self._first = first[:-1][self._used].astype(np.intp)
        self._base = float(base)

    @classmethod
    def beside(cls, artifact: Artifact) -> TreeContributions | None:
        """The tables of a version; None if it has none."""
        return cls.load(artifact.read(FILE)) if FILE in artifact.manifest.files else None

    @classmethod
    def load(cls, data: bytes) -> TreeContributions:
        """The tables as `dump` wrote them. Raises ValueError if the bytes are none."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
        if "steps" not in held:
            raise ValueError("contributions.npz holds no tables of this form; train or register the version again")
        base = float(held.pop("base"))
        return cls(**held, base=base)

    def dump(self) -> bytes:
        """The tables as one .npz file."""
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **self._arrays)  # type: ignore[arg-type]
        return file.getvalue()

    def of(self, matrix: Matrix) -> Matrix:
        """Each feature's log-odds in each row, and the base: float32[n, features + 1]. A row's sum is its log-odds.

        matrix: the contract's finished matrix, float32[n, features].
        """
        result = np.zeros((len(matrix), self._features + 1), dtype=np.float32)
        result[:, -1] = self._base
        for start in range(0, len(matrix) if len(self._first) else 0, _CHUNK):
            part = matrix[start : start + _CHUNK]
            places = self._steps.take(self._bins.lines(part), axis=0).sum(axis=1, dtype=np.int32).astype(np.intp)
            shares = self._shares.take(places.take(self._pair_tree, axis=1) + self._pair_start)
            result[start : start + _CHUNK, self._used] = np.add.reduceat(shares, self._first, axis=1)
        return result
