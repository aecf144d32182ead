"""A table with outcomes, to fit a stacking on and to measure ensembles with: only rows that are new to every member."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Matrix
from modelyard.data.cleaning import encode_table
from modelyard.data.contracts import read_target
from modelyard.data.sources import read_source
from modelyard.optimise import stacking
from modelyard.optimise.parts import Part
from modelyard.runtimes.ensemble_joins import Floats


class Outcomes(msgspec.Struct, frozen=True):
    """Rows with their outcome, of which some are new to every member."""

    matrix: Matrix  # raw rows of the joint contract, only those that are new
    y: Floats
    source: str
    digest: str
    rows: int  # in the whole table


def read_outcomes(path: str | Path, target: str | None, manifest: Manifest, parts: Sequence[Part]) -> Outcomes:
    """The rows that are new to every member, by the joint contract. Raises InvalidInput where they are too few."""
    contract = manifest.contract
    if not contract.columns or manifest.task not in ("binary", "regression"):
        raise InvalidInput("a table measures members that take rows and know two classes, or predict one number")
    read = read_source(path)
    wanted = target or (contract.target.name if contract.target else None)
    if wanted is None:
        raise InvalidInput("which column of the table is the outcome? name it (target)")
    table, y, rows = _outcome(read.table, wanted, manifest)
    fresh = stacking.new_rows([part.artifact for part in parts], read.digest, rows)
    if fresh.sum() < stacking.MIN_ROWS:
        raise InvalidInput(
            f"{int(fresh.sum())} of the table's {len(fresh)} rows are new to every member; at least "
            f"{stacking.MIN_ROWS} are needed, so give a table that they were not trained on"
        )
    matrix = encode_table(contract, table.filter(fresh))
    return Outcomes(matrix, y[fresh], Path(path).name, read.digest, len(fresh))


def _outcome(table: Any, target: str, manifest: Manifest) -> tuple[Any, Floats, np.ndarray]:
    known = manifest.contract.target
    if manifest.task == "binary":
        labelled = read_target(table, target, known.positive if known else None)
        if known and set(labelled.target.classes) != set(known.classes):
            raise InvalidInput(f"the column {target!r} has other classes than the members' target")
        return labelled.table, labelled.y, labelled.rows
    if target not in table.columns or not table[target].dtype.is_numeric():
        raise InvalidInput(f"the table has no column of numbers {target!r} to be predicted")
    there = table[target].is_not_null()
    return table.filter(there), table[target].filter(there).to_numpy().astype(np.float64), np.flatnonzero(there)
