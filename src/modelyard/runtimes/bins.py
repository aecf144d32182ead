"""Between which thresholds of its feature each value of a matrix lies: the first step of every look-up in a forest."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.tensor import Matrix

_MAGNITUDE = np.int32(0x7FFFFFFF)


class Bins:
    """The bins of all features. Never changes; several threads may ask at once.

    edges: the features' thresholds end to end, ascending, float32; feature j's are edges[starts[j]:starts[j + 1]]. The
    bin of a value is the number of thresholds below it, and one more bin stands for missing. All features' bins follow
    each other as lines 0, 1, ... of whatever table is read.
    """

    def __init__(self, edges: NDArray[np.float32], starts: NDArray[np.int32]) -> None:
        self.edges, self.starts = edges, starts
        keys, lines = [], []
        for feature, (low, high) in enumerate(itertools.pairwise(starts.tolist())):
            # Beyond all numbers lie the NaNs, on either side: so they are looked for as any other value is.
            ends = np.array([np.inf, -np.inf], dtype=np.float32)
            infinite, lowest = _ordered(ends).tolist()
            own = _ordered(np.where(edges[low:high] == 0, np.float32(0), edges[low:high]))  # -0.0 is 0.0
            keys.append(np.array([lowest - 1, *own.tolist(), infinite, _MAGNITUDE], dtype=np.int64) + (feature << 32))
            first, missing = low + 2 * feature, high + 2 * feature + 1
            lines.append(np.array([missing, *range(first, missing), missing], dtype=np.intp))
        self._keys = np.concatenate([np.zeros(0, np.int64), *keys])
        self._lines = np.concatenate([np.zeros(0, np.intp), *lines])
        self._base = np.arange(len(starts) - 1, dtype=np.int64) << 32

    def __len__(self) -> int:
        return len(self.edges) + 2 * len(self._base)

    def lines(self, matrix: Matrix) -> NDArray[np.intp]:
        """The line of each value's bin, intp[n, features]; matrix: finished, float32[n, features]."""
        # One search for all features at once: a search for each of them costs ten times as much for a single row.
        return self._lines.take(self._keys.searchsorted(_ordered(matrix) + self._base))


def _ordered(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers in the order of the floats."""
    bits = values.view(np.int32)
    return bits ^ ((bits >> 31) & _MAGNITUDE)
