"""Forests answered by tables beside ONNX Runtime on the same trees: in process, one core, in turns.

The bounds in `optimise/masks.py` come from here: from how many trees on, and up to how many leaves and features, tables
are the better way.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from rich.console import Console

from benchmarks.check import WrongAnswer
from benchmarks.document import table
from modelyard.optimise import masks
from modelyard.optimise.convert import forest_to_onnx
from modelyard.optimise.trees import Forest, read_lightgbm
from modelyard.runtimes.forest import ForestTables

ROWS = 6_000
SIZES = (1, 8, 32)
SHAPES = (  # trees, leaves, features
    (50, 31, 20), (100, 15, 10), (100, 31, 20), (200, 15, 13), (300, 31, 20), (300, 31, 40), (300, 63, 20),
    (1000, 31, 20),
)  # fmt: skip
COLUMNS = ("trees", "leaves", "features", "tables MB", *(f"{size} rows, us: graph / tables" for size in SIZES))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--turns", type=int, default=15, help="of each way, for each size (15)")


def run(console: Console, given: argparse.Namespace) -> int:
    """Measure and tell; the exit status."""
    rows = []
    for shape in SHAPES:
        rows.append(measured(*shape, turns=given.turns))
        console.print("  ".join(rows[-1]), highlight=False)
    console.print(table(COLUMNS, rows), highlight=False, soft_wrap=True)
    return 0


def measured(trees: int, leaves: int, features: int, turns: int) -> tuple[str, ...]:
    """One line of the table. Raises WrongAnswer if both ways disagree."""
    forest, rows = grown(trees, leaves, features)
    tables = tables_of(forest)
    session = ort.InferenceSession(forest_to_onnx(forest), _options(), providers=["CPUExecutionProvider"])

    def by_graph(part: np.ndarray) -> np.ndarray:
        return session.run(["probability"], {"rows": part})[0]

    def by_tables(part: np.ndarray) -> np.ndarray:
        return tables.answer(part)["probability"]

    if (worst := float(np.abs(by_graph(rows) - by_tables(rows)).max())) > 1e-5:
        raise WrongAnswer(f"tables and graph differ by {worst:.3g}")
    cells = [str(trees), str(leaves), str(features), f"{tables.size_bytes / 1e6:.1f}"]
    for size in SIZES:
        graph, table_ = both(by_graph, by_tables, rows, size, turns)
        cells.append(f"{graph:.1f} / {table_:.1f} ({graph / table_:.2f} x)")
    return tuple(cells)


def grown(trees: int, leaves: int, features: int) -> tuple[Forest, np.ndarray]:
    """A forest that LightGBM grows from a fixed seed, and rows to ask it."""
    import lightgbm

    random = np.random.default_rng(7)
    rows = random.normal(size=(ROWS, features)).astype(np.float32)
    log_odds = rows @ random.normal(size=features) + 2 * rows[:, 0] * rows[:, 1]
    outcome = (random.random(ROWS) < 1 / (1 + np.exp(-log_odds))).astype(float)
    parameters = {"objective": "binary", "num_leaves": leaves, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    return read_lightgbm(lightgbm.train(parameters, lightgbm.Dataset(rows, outcome), trees).dump_model()), rows


def tables_of(forest: Forest) -> ForestTables:
    """Its tables, also where they would not be made because they do not pay."""
    bounds = masks.MIN_TREES, masks.MAX_BYTES_A_TREE
    masks.MIN_TREES, masks.MAX_BYTES_A_TREE = 1, 10**9
    try:
        tables = masks.forest_tables(forest)
    finally:
        masks.MIN_TREES, masks.MAX_BYTES_A_TREE = bounds
    assert tables is not None
    return tables


def both(
    a: Callable[[np.ndarray], object], b: Callable[[np.ndarray], object], rows: np.ndarray, size: int, turns: int
) -> tuple[float, float]:
    """Microseconds of one call each, medians over turns; every call gets other rows."""
    took: tuple[list[float], list[float]] = ([], [])
    calls = min(len(rows) // size, max(40, 1_000 // size))
    parts = [rows[at * size : (at + 1) * size] for at in range(calls)]
    for _ in range(turns):
        for ask, times in ((a, took[0]), (b, took[1])):
            began = time.perf_counter()
            for part in parts:
                ask(part)
            times.append((time.perf_counter() - began) / calls * 1e6)
    return statistics.median(took[0]), statistics.median(took[1])


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options
