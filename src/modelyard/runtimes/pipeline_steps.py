"""Steps on plain tensors that need no model: softmax, the best class, scaling, choosing and joining columns, CTC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Tensors
from modelyard.runtimes.pipeline_flows import BuiltIn, Flow, expect, one_axis

_FLOATS = ("FP32", "FP64", "FP16")


class Softmax(BuiltIn, frozen=True, tag="softmax"):
    """Scores become probabilities: the last axis sums to 1."""

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """Of the same shape, FP32."""
        flow = _dense(given["x"], "x")
        return {"x": flow._replace(datatype="FP32")}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        x = given["x"].astype(np.float64)
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return {"x": (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)}


class Argmax(BuiltIn, frozen=True, tag="argmax"):
    """The class with the highest score, the first of equals, and that score."""

    takes: ClassVar[tuple[str, ...]] = ("scores",)
    gives: ClassVar[tuple[str, ...]] = ("label", "score")
    labels: tuple[str, ...] = ()  # of the classes; none: their numbers, from 0

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """`label` BYTES, or INT64 without labels, and `score` FP32: one for each row."""
        flow = expect(_dense(given["scores"], "scores"), "scores", _FLOATS, (-1, len(self.labels) or -1))
        return {
            "label": Flow("BYTES" if self.labels else "INT64", (-1,), flow.axis),
            "score": Flow("FP32", (-1,), flow.axis),
        }

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        scores = given["scores"]
        if self.labels and scores.shape[-1] != len(self.labels):
            raise InvalidInput(f"there are {scores.shape[-1]} scores and {len(self.labels)} labels")
        best = scores.argmax(axis=1)
        label = np.array(self.labels, dtype=object)[best] if self.labels else best.astype(np.int64)
        return {"label": label, "score": scores.max(axis=1).astype(np.float32)}


class Standardise(BuiltIn, frozen=True, tag="standardise"):
    """(x - mean) / spread, column by column."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.spread) or not all(abs(one) > 0 for one in self.spread):
            raise ValueError("standardise has as many means as spreads, and no spread is 0")

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """FP32 of the same shape."""
        flow = expect(_dense(given["x"], "x"), "x", (*_FLOATS, "INT64", "INT32"), (-1, len(self.mean)))
        return {"x": Flow("FP32", flow.shape, flow.axis)}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        scaled = (given["x"].astype(np.float64) - np.array(self.mean)) / np.array(self.spread)
        return {"x": scaled.astype(np.float32)}


class Select(BuiltIn, frozen=True, tag="select"):
    """Some columns of the last axis, in this order."""

    columns: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.columns or min(self.columns) < 0:
            raise ValueError("select names columns by their positions, from 0")

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """The same with fewer columns; with one, none is left: its last axis goes."""
        flow = _dense(given["x"], "x")
        if len(flow.shape) < 2 or -1 < flow.shape[-1] <= max(self.columns):
            raise InvalidInput(f"'x' has no column {max(self.columns)}: it is {flow}")
        last = () if len(self.columns) == 1 else (len(self.columns),)
        return {"x": flow._replace(shape=(*flow.shape[:-1], *last))}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        x = given["x"]
        return {"x": x[..., self.columns[0]] if len(self.columns) == 1 else x[..., list(self.columns)]}


class Concat(BuiltIn, frozen=True, tag="concat"):
    """Columns side by side: of each input its own, in the order in which `takes` names them; one for a plain list."""

    takes: ClassVar[tuple[str, ...]] = ()  # any

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """FP32 [rows, all columns]."""
        if not given:
            raise InvalidInput("takes at least one input")
        widths = []
        for port, flow in given.items():
            if flow.datatype not in (*_FLOATS, "INT64", "INT32", "BOOL") or len(flow.shape) > 2 or flow.is_ragged:
                raise InvalidInput(f"{port!r} is {flow}, which is no list of numbers for each row")
            widths.append(flow.shape[1] if len(flow.shape) == 2 else 1)
        return {"x": Flow("FP32", (-1, -1 if -1 in widths else sum(widths)), one_axis(given))}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        parts = [values.reshape(len(values), -1).astype(np.float32) for values in given.values()]
        return {"x": np.concatenate(parts, axis=1)}


class CtcDecode(BuiltIn, frozen=True, tag="ctc_decode"):
    """Texts from a recogniser's scores at each position: the best sign there, repeats taken once, blanks left out.

    Source: Graves et al. (2006), Connectionist temporal classification; best-path decoding.
    """

    takes: ClassVar[tuple[str, ...]] = ("scores",)
    gives: ClassVar[tuple[str, ...]] = ("text", "confidence")
    characters: tuple[str, ...]  # of the classes, without the blank; the blank is class 0

    def flows(self, given: Mapping[str, Flow], step: str) -> dict[str, Flow]:
        """`text` BYTES and `confidence` FP32, the mean score of its signs: one for each row."""
        flow = expect(given["scores"], "scores", _FLOATS, (-1, -1, len(self.characters) + 1))
        return {"text": Flow("BYTES", (-1,), flow.axis), "confidence": Flow("FP32", (-1,), flow.axis)}

    def run(self, given: Tensors) -> Tensors:
        """See `BuiltIn.run`."""
        texts = np.empty(len(given["scores"]), dtype=object)
        confidence = np.zeros(len(texts), dtype=np.float32)
        for row, scores in enumerate(given["scores"]):
            texts[row], confidence[row] = self._read(scores)
        return {"text": texts, "confidence": confidence}

    def _read(self, scores: NDArray[Any]) -> tuple[str, float]:
        if scores.shape[-1] != len(self.characters) + 1:
            raise InvalidInput(f"there are {scores.shape[-1]} scores and {len(self.characters)} characters")
        best = scores.argmax(axis=1)
        is_new = np.ones(len(best), dtype=np.bool_)
        is_new[1:] = best[1:] != best[:-1]
        kept = np.flatnonzero(is_new & (best != 0))
        text = "".join([self.characters[sign - 1] for sign in best[kept].tolist()])
        return text, float(scores[kept, best[kept]].mean()) if len(kept) else 0.0


def _dense(flow: Flow, port: str) -> Flow:
    if flow.is_ragged or flow.datatype == "BYTES":
        raise InvalidInput(f"{port!r} takes numbers in one array and is given {flow}")
    return flow
