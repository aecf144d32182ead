"""Additive models: log-odds as a base and one term for each column. Logistic regression and scorecards are both.

A term is a straight line over a number (or over its signed logarithm), a staircase over a number, or a table over a
category's codes; missing has a value of its own. One representation gives the answer, the explanation and the graph.
Terms are centred: over the training rows each has mean zero, so a term says what sets a row apart.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import helper

from modelyard.contract.tensor import Matrix
from modelyard.optimise.convert import graph_to_bytes


class Line(msgspec.Struct, frozen=True):
    """slope * x + offset, or of sign(x) log(1 + |x|)."""

    slope: float
    offset: float
    missing: float
    logarithmic: bool = False


class Steps(msgspec.Struct, frozen=True):
    """values[k] where k thresholds lie below x; thresholds are float32 and ascend."""

    thresholds: tuple[float, ...]
    values: tuple[float, ...]  # one more than thresholds
    missing: float


class Levels(msgspec.Struct, frozen=True):
    """values[code]."""

    values: tuple[float, ...]
    missing: float


Term = Line | Steps | Levels


class Additive(msgspec.Struct, frozen=True):
    """A base and one term for each feature, in the order of the matrix."""

    base: float
    terms: tuple[Term, ...]

    def contributions(self, matrix: Matrix) -> NDArray[np.float64]:
        """Log-odds of each feature and, last, the base, float64[n, features + 1]; a row's sum is its log-odds."""
        columns = [term_values(term, matrix[:, position]) for position, term in enumerate(self.terms)]
        return np.column_stack([*columns, np.full(len(matrix), self.base)])

    def log_odds(self, matrix: Matrix) -> NDArray[np.float64]:
        """Log-odds of the positive class, float64[n]."""
        return np.asarray(self.contributions(matrix).sum(axis=1))

    def probability(self, matrix: Matrix) -> NDArray[np.float64]:
        """Probability of the positive class, float64[n]."""
        return np.asarray(1.0 / (1.0 + np.exp(-self.log_odds(matrix))))

    def centred(self, matrix: Matrix) -> Additive:
        """The same model with each term's mean over these rows moved into the base."""
        means = self.contributions(matrix)[:, :-1].mean(axis=0)
        terms = tuple(_shifted(term, -float(mean)) for term, mean in zip(self.terms, means, strict=True))
        return Additive(self.base + float(means.sum()), terms)

    def to_onnx(self) -> bytes:
        """`rows` float32[N, F] -> `probability` float32[N], `contributions` float32[N, F + 1]."""
        return _graph(self)


def term_values(term: Term, x: NDArray[np.floating]) -> NDArray[np.float64]:
    """One term at each value; NaN is missing, and so is a code beyond the table."""
    missing = np.isnan(x)
    known = np.where(missing, 0.0, x).astype(np.float64)
    if isinstance(term, Line):
        values = term.slope * (signed_log(known) if term.logarithmic else known) + term.offset
    elif isinstance(term, Steps):
        values = np.array(term.values)[np.searchsorted(np.array(term.thresholds), known, "left")]
    else:
        values = np.array([*term.values, term.missing])[np.minimum(known.astype(np.int64), len(term.values))]
    return np.where(missing, term.missing, values)


def signed_log(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """sign(x) log(1 + |x|): close to x near zero, slow far out."""
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)), dtype=np.float64)


def _shifted(term: Term, by: float) -> Term:
    if isinstance(term, Line):
        return msgspec.structs.replace(term, offset=term.offset + by, missing=term.missing + by)
    return msgspec.structs.replace(term, values=tuple(v + by for v in term.values), missing=term.missing + by)


# --- the graph --------------------------------------------------------------------------------------------------


class _Graph:
    """Nodes and constants as they are written; every name once."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants[name] = np.asarray(value, dtype=dtype)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output


def _graph(model: Additive) -> bytes:
    """Lines together, tables together, then all terms in the order of the matrix."""
    graph = _Graph()
    lines = [(position, term) for position, term in enumerate(model.terms) if isinstance(term, Line)]
    tables = [(position, term) for position, term in enumerate(model.terms) if not isinstance(term, Line)]
    parts, order = [], []
    if lines:
        parts.append(_write_lines(graph, lines, len(model.terms)))
        order += [position for position, _ in lines]
    if tables:
        parts.append(_write_tables(graph, tables, len(model.terms)))
        order += [position for position, _ in tables]
    terms = graph.add("Concat", parts, "parts", axis=1) if len(parts) > 1 else parts[0]
    if order != sorted(order):
        graph.constant("order", np.argsort(order), np.int64)
        terms = graph.add("Gather", [terms, "order"], "terms", axis=1)
    graph.add(
        "Pad",
        [terms, graph.constant("pads", [0, 0, 0, 1], np.int64), graph.constant("base", model.base)],
        "contributions",
    )
    graph.add("ReduceSum", ["contributions", graph.constant("axis", [1], np.int64)], "log_odds", keepdims=0)
    graph.add("Sigmoid", ["log_odds"], "probability")
    width = len(model.terms)
    return graph_to_bytes(
        graph.nodes, graph.constants, width, {"probability": ["N"], "contributions": ["N", width + 1]}, "additive"
    )


def _select(graph: _Graph, positions: list[int], width: int, name: str) -> str:
    if positions == list(range(width)):
        return "rows"
    graph.constant(f"{name}_columns", positions, np.int64)
    return graph.add("Gather", ["rows", f"{name}_columns"], f"{name}_rows", axis=1)


def _write_lines(graph: _Graph, lines: list[tuple[int, Line]], width: int) -> str:
    x = _select(graph, [position for position, _ in lines], width, "line")
    graph.add("IsNaN", [x], "line_missing")
    if any(line.logarithmic for _, line in lines):
        graph.add("Abs", [x], "size")
        graph.add("Add", ["size", graph.constant("one", 1.0)], "size_above_one")
        graph.add("Log", ["size_above_one"], "logarithm")
        graph.add("Sign", [x], "sign")
        graph.add("Mul", ["sign", "logarithm"], "signed_logarithm")
        graph.constant("logarithmic", [line.logarithmic for _, line in lines], np.bool_)
        x = graph.add("Where", ["logarithmic", "signed_logarithm", x], "line_input")
    graph.add("Mul", [x, graph.constant("slope", [line.slope for _, line in lines])], "sloped")
    graph.add("Add", ["sloped", graph.constant("offset", [line.offset for _, line in lines])], "line_values")
    graph.constant("line_if_missing", [line.missing for _, line in lines])
    return graph.add("Where", ["line_missing", "line_if_missing", "line_values"], "line_terms")


def _write_tables(graph: _Graph, tables: list[tuple[int, Steps | Levels]], width: int) -> str:
    """One flat table for all: a value's place is its column's start plus the number of cuts below it."""
    cuts: list[list[float]] = []
    values: list[float] = []
    starts, missing = [], []
    for _, term in tables:
        starts.append(len(values))
        if isinstance(term, Steps):
            cuts.append(list(term.thresholds))
        else:
            cuts.append([])
        values += term.values
        missing.append(len(values))
        values.append(term.missing)
    x = _select(graph, [position for position, _ in tables], width, "table")
    graph.add("IsNaN", [x], "table_missing")
    graph.add("Where", ["table_missing", graph.constant("nothing", 0.0), x], "table_input")
    stepped = np.array([isinstance(term, Steps) for _, term in tables])
    places = []
    if stepped.any():
        longest = max(len(cut) for cut in cuts)
        padded = [[*cut, *[np.inf] * (longest - len(cut))] for cut in cuts]
        graph.add("Unsqueeze", ["table_input", graph.constant("last", [2], np.int64)], "upright")
        graph.add("Greater", ["upright", graph.constant("cuts", np.array(padded).reshape(len(cuts), longest))], "above")
        graph.add("Cast", ["above"], "above_one", to=1)
        graph.add("ReduceSum", ["above_one", "last"], "steps", keepdims=0)
        places.append("steps")
    if not stepped.all():
        places.append("table_input")
    if len(places) > 1:
        place = graph.add("Where", [graph.constant("stepped", stepped, np.bool_), *places], "place")
    else:
        place = places[0]
    graph.add("Cast", [place], "place_whole", to=7)
    graph.add("Add", ["place_whole", graph.constant("starts", starts, np.int64)], "place_known")
    graph.constant("place_if_missing", missing, np.int64)
    # A code beyond its table reads as missing: never another column's value.
    graph.add("Min", ["place_known", "place_if_missing"], "place_inside")
    graph.add("Where", ["table_missing", "place_if_missing", "place_inside"], "place_final")
    return graph.add("Gather", [graph.constant("values", values), "place_final"], "table_terms", axis=0)
