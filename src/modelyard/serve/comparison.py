"""What two versions said to one call, compared. Pure: outputs and cut-offs in, one comparison out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.tensor import Tensors

# Two roundings of one number: the same version rounds its last bits by the size of the batch.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


class Comparison(NamedTuple):
    """How far two answers lie apart, and where."""

    difference: float  # the largest, absolute, of the probability or the first output of numbers; inf: one is no number
    differs: bool  # whether a decision, or where there is none a label, or where there is none a number is another one
    row: int  # the row that is furthest apart, of those that differ if any do; counted from 0
    answered: float  # its number, as it was answered ...
    shadowed: float  # ... and as the shadow says it


def compare(answered: Tensors, shadowed: Tensors, cutoffs: tuple[float, float] | None = None) -> Comparison | None:
    """Compare as many rows of the same outputs; None if they are not, or if there are no numbers in them.

    cutoffs: each side's own, at and above which a probability means the positive decision; None: not both have one.
    """
    if (name := _numbers_of(answered)) is None or not _are_alike(answered, shadowed, name):
        return None
    deciding = cutoffs if name == "probability" else None
    if answered[name].size == 1 and (deciding is not None or len(answered) == 1):
        return _of_one(answered[name].item(), shadowed[name].item(), deciding)
    ours, theirs = _in_rows(answered[name]).astype(np.float64), _in_rows(shadowed[name]).astype(np.float64)
    if not ours.size:
        return Comparison(0.0, False, 0, 0.0, 0.0)
    apart = _apart(ours, theirs)
    if deciding is not None:
        others = (ours >= deciding[0]) != (theirs >= deciding[1])
    elif (label := _label_of(answered, name)) is not None and _are_alike(answered, shadowed, label):
        others = _in_rows(np.asarray(answered[label] != shadowed[label], dtype=bool))
    else:
        others = apart > ABSOLUTE + RELATIVE * np.abs(np.nan_to_num(ours))
    furthest, differ = apart.max(axis=1), others.any(axis=1)
    row = int(np.argmax(np.where(differ, furthest, -1.0) if differ.any() else furthest))
    at = int(np.argmax(apart[row]))
    return Comparison(float(furthest.max()), bool(differ.any()), row, float(ours[row, at]), float(theirs[row, at]))


def _of_one(ours: float, theirs: float, cutoffs: tuple[float, float] | None) -> Comparison:
    """The same for one number, which is what most calls are told: a twentieth of the time."""
    ours, theirs = float(ours), float(theirs)
    if ours == theirs or (math.isnan(ours) and math.isnan(theirs)):
        apart = 0.0
    else:
        apart = math.inf if math.isnan(ours - theirs) else abs(ours - theirs)
    if cutoffs is not None:
        differs = (ours >= cutoffs[0]) != (theirs >= cutoffs[1])
    else:
        differs = apart > ABSOLUTE + (RELATIVE * abs(ours) if math.isfinite(ours) else 0.0)
    return Comparison(apart, differs, 0, ours, theirs)


def _numbers_of(outputs: Tensors) -> str | None:
    """The output that is compared as numbers: the probability, the first of fractions, or the first of whole ones."""
    if "probability" in outputs:
        return "probability"
    floats = (name for name, values in outputs.items() if values.dtype.kind == "f")
    whole = (name for name, values in outputs.items() if values.dtype.kind in "iub")
    return next(floats, None) or next(whole, None)


def _label_of(outputs: Tensors, numbers: str) -> str | None:
    """The output that says in a word what the numbers say: the first other one of texts or whole numbers."""
    return next((name for name, values in outputs.items() if name != numbers and values.dtype.kind in "iubOSUT"), None)


def _are_alike(answered: Tensors, shadowed: Tensors, name: str) -> bool:
    ours, theirs = answered[name], shadowed.get(name)
    return theirs is not None and theirs.shape == ours.shape and theirs.dtype.kind == ours.dtype.kind


def _in_rows(values: NDArray[Any]) -> NDArray[Any]:
    """Any shape as [rows, numbers of a row]."""
    return values.reshape(len(values) if values.ndim else 1, -1) if values.size else values.reshape(0, 1)


def _apart(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute differences: 0 between the same infinities and where both are no number, infinite where one is none."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours - theirs)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
