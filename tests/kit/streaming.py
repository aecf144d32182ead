"""Classes that answer one row piece by piece."""
# ruff: noqa: RUF012 - users declare what goes in and out without ClassVar

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


class Counting:
    """Counts up to the row's number; then what the second number says: it stops (0), fails (1), or goes on (2)."""

    inputs = {"upto": ("INT64", (-1, 2))}
    outputs = {"number": ("INT64", (-1,)), "pad": ("BYTES", (-1,))}

    def predict(self, inputs: Arrays) -> Arrays:
        rows = len(inputs["upto"])
        return {"number": inputs["upto"][:, 0], "pad": np.full(rows, "", dtype=object)}

    def stream(self, inputs: Arrays) -> Iterator[Arrays]:
        upto, then = inputs["upto"][0].tolist()
        number = 0
        while number < upto or then == 2:
            yield {"number": np.array([number]), "pad": np.array(["x" * 10_000 if then == 2 else ""], dtype=object)}
            number += 1
        if then == 1:
            raise RuntimeError("what a caller sent: 4711")


class Slow:
    """Says a piece at once and the next only after the test's file is there."""

    inputs = {"file": ("BYTES", (-1,))}
    outputs = {"says": ("BYTES", (-1,))}
    example = {"file": np.array(["", ""], dtype=object)}

    def predict(self, inputs: Arrays) -> Arrays:
        return {"says": inputs["file"]}

    def stream(self, inputs: Arrays) -> Iterator[Arrays]:
        yield {"says": np.array(["first"], dtype=object)}
        until = time.monotonic() + 20
        while not Path(inputs["file"][0]).exists() and time.monotonic() < until:
            time.sleep(0.01)
        yield {"says": np.array(["second"], dtype=object)}
