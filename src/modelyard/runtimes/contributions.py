"""Exact explanations of tree ensembles by table look-up: TreeSHAP without the trees, without their framework.

A leaf's share in a row's explanation depends only on *which* of the conditions on its path the row meets. With at most
six different features on a path there are at most 64 such patterns, so `optimise/contributions.py` computes every
leaf's share for every pattern once. Here a row's values become bins, bins become patterns, and patterns are looked up.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.tensor import Matrix

_CHUNK = 32  # rows at a time: their pairs stay in the processor's cache


class TreeContributions:
    """The tables of one ensemble. Never changes; several threads may ask at once.

    edges: the features' thresholds end to end, float32; feature j's are edges[starts[j]:starts[j + 1]]. Its bin is the
    number of thresholds below the value, and one more bin stands for missing. A category's thresholds lie at
    code - 0.5, so that each code has a bin of its own and codes that no tree knows share the last one.
    bits: uint8[all bins, leaves]: which conditions of each leaf a feature's bin meets.
    pair_leaf, pair_start: for each (feature, leaf) pair, sorted by feature: the leaf, and where its shares begin.
    shares: float32, indexed by pair_start + pattern. first: where each feature's pairs begin.
    """

    def __init__(
        self,
        edges: NDArray[np.float32],
        starts: NDArray[np.int32],
        bits: NDArray[np.uint8],
        pair_leaf: NDArray[np.int32],
        pair_start: NDArray[np.int32],
        shares: NDArray[np.float32],
        first: NDArray[np.int32],
        base: float,
    ) -> None:
        self._arrays = {
            "edges": edges,
            "starts": starts,
            "bits": bits,
            "pair_leaf": pair_leaf,
            "pair_start": pair_start,
            "shares": shares,
            "first": first,
            "base": np.float64(base),
        }
        self._features = len(starts) - 1
        bounds = starts.tolist()
        self._edges = [edges[low:high] for low, high in itertools.pairwise(bounds)]
        # One bin more than thresholds, and one for missing.
        self._rows = (starts[:-1] + 2 * np.arange(self._features)).astype(np.intp)
        self._missing = (np.diff(starts) + 1).astype(np.intp)
        self._bits, self._shares = bits, shares
        self._pair_leaf, self._pair_start = pair_leaf.astype(np.intp), pair_start.astype(np.intp)
        self._used = np.flatnonzero(np.diff(first))
        self._first = first[:-1][self._used].astype(np.intp)
        self._base = float(base)

    @classmethod
    def load(cls, data: bytes) -> TreeContributions:
        """The tables as `dump` wrote them. Raises ValueError if the bytes are none."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
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
            patterns = self._bits[self._bins(part)].sum(axis=1, dtype=np.uint8)
            shares = self._shares.take(self._pair_start + patterns.take(self._pair_leaf, axis=1))
            result[start : start + _CHUNK, self._used] = np.add.reduceat(shares, self._first, axis=1)
        return result

    def _bins(self, part: Matrix) -> NDArray[np.intp]:
        """Which rows of `bits` speak for each value, intp[n, features]."""
        bins = np.empty(part.shape, dtype=np.intp)
        for feature, edges in enumerate(self._edges):
            bins[:, feature] = edges.searchsorted(part[:, feature], "left")
        bins = np.where(np.isnan(part), self._missing, bins)
        bins += self._rows
        return bins
