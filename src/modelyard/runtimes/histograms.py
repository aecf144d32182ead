"""Histogram boosting of scikit-learn (`HistGradientBoosting…`), and what becomes of its thresholds in float32.

A column of more than 255 values is cut at values of the data itself, as doubles. A row that holds such a value says yes
to `x <= threshold`; rounded to float32 it may have become larger, and would say no. So thresholds are rounded as rows
are, to the nearest float32: then a row of the data takes its own path. (Only values beside a threshold that round to
the same float32 change sides.)
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

_LARGEST = float(np.finfo(np.float32).max)


def is_histogram_boosting(model: Any) -> bool:
    """Whether it is one of scikit-learn's two, by the trees that only they have."""
    return hasattr(model, "_predictors") and hasattr(model, "_baseline_prediction")


def rounded(model: Any) -> Any:
    """The model as rows of float32 have to be asked: thresholds rounded as they are, also inside a pipeline.

    A threshold of infinity, to which every value says yes that is not missing, becomes the largest float32. The same
    object if there is nothing to round, else a copy.
    """
    if not any(map(is_histogram_boosting, steps_of(model))):
        return model
    model = copy.deepcopy(model)
    for step in filter(is_histogram_boosting, steps_of(model)):
        for predictor in (tree for trees in step._predictors for tree in trees):
            nodes = predictor.nodes
            nodes["num_threshold"] = nodes["num_threshold"].clip(-_LARGEST, _LARGEST).astype(np.float32)
    return model


def steps_of(model: Any) -> list[Any]:
    """The steps of a pipeline, or the model alone."""
    return [step for _, step in getattr(model, "steps", ())] or [model]
