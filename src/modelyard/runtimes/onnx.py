"""ONNX graphs on ONNX Runtime: the runtime of the gateway itself.

Versions that Modelyard trains take the contract's matrix as it is. Versions that users bring may want one tensor for
each column, strings included: the matrix is then taken apart here, codes becoming category names again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.contributions import TreeContributions
from modelyard.runtimes.sessions import open_session

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": object,
}


class OnnxRuntime:
    """One ONNX graph. Several threads may call it at once: ONNX Runtime sessions allow that."""

    is_thread_safe = True

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self._session = open_session(artifact, threads)
        is_table = artifact.manifest.signature.layout != "tensors"
        self._feed = _feed(self._session, artifact.manifest.contract.features) if is_table else None
        self._takes_one_row = all(tensor.shape[:1] == [1] for tensor in self._session.get_inputs())
        names = [output.name for output in self._session.get_outputs()]
        self._explains = "contributions" in names
        self._outputs = [name for name in names if name != "contributions"]
        self._trees = TreeContributions.beside(artifact)

    def predict(self, inputs: Tensors) -> Tensors:
        """Every output of the graph but its explanation; see `Runtime.predict`."""
        feeds = inputs if self._feed is None else self._feed(inputs["rows"])
        values = self._row_by_row(feeds) if self._takes_one_row else self._session.run(self._outputs, feeds)
        return dict(zip(self._outputs, values, strict=True))

    def _row_by_row(self, feeds: Tensors) -> list[NDArray[Any]]:
        count = len(next(iter(feeds.values())))
        rows = [{name: values[at : at + 1] for name, values in feeds.items()} for at in range(count)]
        answers = [self._session.run(self._outputs, row) for row in rows]
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """See `Runtime.contributions`."""
        if self._feed is None:
            return None
        if self._explains:
            answer: Matrix = self._session.run(["contributions"], self._feed(inputs["rows"]))[0]
            return answer
        return self._trees.of(inputs["rows"]) if self._trees else None

    def close(self) -> None:
        """Let go of the session; ONNX Runtime frees its memory with it."""
        del self._session, self._trees


class _MatrixFeed:
    """The graph takes the matrix itself."""

    def __init__(self, name: str, dtype: type) -> None:
        self.name, self.dtype = name, dtype

    def __call__(self, rows: Matrix) -> Tensors:
        return {self.name: rows if self.dtype is np.float32 else rows.astype(self.dtype)}


class _ColumnFeed:
    """The graph takes one tensor for each column, in the graph's own types."""

    def __init__(self, inputs: list[ort.NodeArg], features: tuple[Column, ...]) -> None:
        positions = {column.name: position for position, column in enumerate(features)}
        self.columns = []
        for tensor in inputs:
            if tensor.name not in positions:
                raise InvalidInput(f"the graph's input {tensor.name!r} is no column of the contract")
            position = positions[tensor.name]
            dtype = _NUMPY[tensor.type]
            names = np.array([*features[position].categories, ""], dtype=object) if dtype is object else None
            self.columns.append((tensor.name, position, dtype, names, len(tensor.shape)))

    def __call__(self, rows: Matrix) -> Tensors:
        feeds: Tensors = {}
        for name, position, dtype, names, rank in self.columns:
            column = rows[:, position]
            if names is not None:
                column = names[np.nan_to_num(column, nan=len(names) - 1).astype(np.int64)]
            elif dtype is not np.float32:
                column = np.nan_to_num(column).astype(dtype) if dtype is not np.float64 else column.astype(dtype)
            feeds[name] = column.reshape(-1, 1) if rank == 2 else column
        return feeds


def _feed(session: ort.InferenceSession, features: tuple[Column, ...]) -> _MatrixFeed | _ColumnFeed:
    inputs = session.get_inputs()
    for tensor in inputs:
        if tensor.type not in _NUMPY:
            raise InvalidInput(f"the graph's input {tensor.name!r} is of type {tensor.type}, which is not served")
    names = {column.name for column in features}
    only = inputs[0]
    if len(inputs) == 1 and len(only.shape) == 2 and not (only.name in names and len(features) == 1):
        return _MatrixFeed(only.name, _NUMPY[only.type])
    return _ColumnFeed(inputs, features)
