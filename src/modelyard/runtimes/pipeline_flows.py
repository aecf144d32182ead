"""What flows between the steps of a pipeline, and how one fits the next: datatypes, shapes, and whose rows they are.

A step may make rows of its own (each text that was found on a page); what is on one axis is never mixed with what is
on another. Where every row has a shape of its own, such as images, an array of arrays flows: it is *ragged*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import NUMPY_TYPES, Tensors

ROWS = ""  # the axis of the pipeline's own rows


class Flow(NamedTuple):
    """What a name stands for. shape: as in a signature; the first -1 is the rows of `axis`, a further one is free."""

    datatype: str
    shape: tuple[int, ...]
    axis: str = ROWS
    is_ragged: bool = False
    content: Literal["", "image", "json"] = ""  # of texts, as a signature says it

    def __str__(self) -> str:
        ragged = ", each row of its own shape" if self.is_ragged else ""
        return f"{self.datatype} {list(self.shape)}{ragged}"


PIXELS = (-1, -1, -1, 3)  # rows of height x width x red, green, blue; UINT8


class BuiltIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="do"):
    """A step that is part of Modelyard. Its parameters are its fields; it keeps no state."""

    takes: ClassVar[tuple[str, ...]] = ("x",)
    gives: ClassVar[tuple[str, ...]] = ("x",)

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """What comes out where these go in. Raises InvalidInput that says what does not fit."""
        raise InvalidInput(f"step {step!r} is of no kind that is known")

    def run(self, given: Tensors) -> Tensors:
        """Compute. Row i of what is on an axis belongs to row i of what went in."""
        raise InvalidInput("this step is of no kind that is known")


def expect(flow: Flow, port: str, datatypes: tuple[str, ...], shape: tuple[int, ...]) -> Flow:
    """The flow, if it has one of these datatypes and fits this shape, where -1 is any size. Raises InvalidInput."""
    fits = len(flow.shape) == len(shape) and all(
        wanted == -1 or size in (-1, wanted) for wanted, size in zip(shape[1:], flow.shape[1:], strict=True)
    )
    if flow.datatype not in datatypes or not fits:
        raise InvalidInput(f"{port!r} takes {' or '.join(datatypes)} {list(shape)} and is given {flow}")
    return flow


def one_axis(given: Mapping[str, Flow]) -> str:
    """The axis that all of them are on. Raises InvalidInput."""
    axes = {flow.axis for flow in given.values()}
    if len(axes) > 1:
        shown = ", ".join(f"{port!r} has those of {flow.axis or 'the input'}" for port, flow in given.items())
        raise InvalidInput(f"its inputs belong to different rows: {shown}")
    return axes.pop()


def ragged(items: list[NDArray[Any]]) -> NDArray[Any]:
    """Arrays of any shapes as one array of objects."""
    together = np.empty(len(items), dtype=object)
    for at, item in enumerate(items):
        together[at] = item
    return together


def is_ragged(values: NDArray[Any]) -> bool:
    """Whether every row is an array of its own."""
    return values.dtype == object and bool(len(values)) and isinstance(values[0], np.ndarray)


def groups(values: NDArray[Any]) -> list[tuple[NDArray[np.intp], NDArray[Any]]]:
    """Ragged rows of one shape together: which rows, and them as one array. What is not ragged is one group."""
    if not is_ragged(values):
        return [(np.arange(len(values)), values)]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for at, item in enumerate(values):
        by_shape.setdefault(item.shape, []).append(at)
    return [(np.array(rows, dtype=np.intp), np.stack([values[row] for row in rows])) for rows in by_shape.values()]


def ungrouped(parts: list[tuple[NDArray[np.intp], NDArray[Any]]], count: int, as_ragged: bool) -> NDArray[Any]:
    """Rows of several groups in their old order; one array where they have one shape, unless `as_ragged`."""
    shapes = {values.shape[1:] for _, values in parts}
    if not as_ragged and len(shapes) == 1:
        whole = np.empty((count, *shapes.pop()), dtype=parts[0][1].dtype)
        for rows, values in parts:
            whole[rows] = values
        return whole
    items: list[Any] = [None] * count
    for rows, values in parts:
        for row, item in zip(rows.tolist(), values, strict=True):
            items[row] = item
    return ragged(items)


def check_datatype(datatype: str, what: str) -> None:
    """Raises InvalidInput for one that does not exist."""
    if datatype not in NUMPY_TYPES:
        raise InvalidInput(f"{what}: {datatype!r} is no datatype; known are {', '.join(NUMPY_TYPES)}")
