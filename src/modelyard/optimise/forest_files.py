"""The files of a forest's version: its graph, and where they pay the tables that answer and explain instead of it."""

from __future__ import annotations

from modelyard.optimise.contributions import explain_trees
from modelyard.optimise.convert import forest_to_onnx
from modelyard.optimise.masks import forest_tables
from modelyard.optimise.trees import Forest
from modelyard.runtimes import contributions
from modelyard.runtimes import forest as runtime


def forest_files(forest: Forest) -> dict[str, bytes]:
    """Name -> bytes, as an artifact holds them."""
    files = {"model.onnx": forest_to_onnx(forest)}
    if (answers := forest_tables(forest)) is not None:
        files[runtime.FILE] = answers.dump()
    if forest.link == "logistic" and (explanation := explain_trees(forest)) is not None:
        files[contributions.FILE] = explanation.dump()
    return files
