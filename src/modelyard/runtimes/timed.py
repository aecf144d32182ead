"""Outputs of a version that is made of several, with the time of each of its steps."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


class TimedOutputs(dict[str, NDArray[Any]]):
    """Outputs, and how long each step took: nanoseconds, in the order of the runtime's `steps`."""

    __slots__ = ("took_ns",)

    def __init__(self, outputs: dict[str, NDArray[Any]], took_ns: list[int]) -> None:
        super().__init__(outputs)
        self.took_ns = took_ns
