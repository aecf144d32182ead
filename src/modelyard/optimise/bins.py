"""Where the splits of a forest cut its features into bins, and a value that stands for each bin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modelyard.optimise.trees import Forest, categorical_features, thresholds


def forest_bins(forest: Forest) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each feature where its bins end, and a value in each bin; the last stands for missing."""
    cuts, categorical = thresholds(forest), categorical_features(forest)
    return [_bins(cuts.get(feature, []), feature in categorical) for feature in range(forest.features)]


def edges_and_starts(edges: list[NDArray[np.float64]]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The ends of all features' bins as `runtimes.bins.Bins` takes them."""
    joined = np.concatenate([np.zeros(0), *edges]).astype(np.float32)
    return joined, np.cumsum([0, *(len(edge) for edge in edges)]).astype(np.int32)


def _bins(cuts: list[float], is_category: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A category's codes lie between halves; what lies beyond the codes that a split names is one bin."""
    if is_category:
        codes = np.arange(max(cuts) + 1)
        return np.append(codes, codes[-1] + 1) - 0.5, np.array([-1.0, *codes, codes[-1] + 1, np.nan])
    if not cuts:
        return np.zeros(0), np.array([0.0, np.nan])
    with np.errstate(over="ignore"):  # a split "missing or not" has the largest float32 as its threshold
        above = np.nextafter(np.float32(cuts[-1]), np.float32(np.inf))
    return np.array(cuts), np.array([*cuts, float(above), np.nan])
