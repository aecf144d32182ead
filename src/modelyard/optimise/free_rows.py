"""A graph that was exported for a fixed number of rows takes any number, where that changes no answer.

Exporters write the shape of the example that they were given, most often of one row. Declaring the first dimension free
is enough for most graphs; whether it is for this one is tried, on made-up tensors.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from modelyard.contract.errors import InvalidInput
from modelyard.contract.tensor import Tensors
from modelyard.optimise.graph_file import open_session, sound, tensor_spec
from modelyard.runtimes.conformance import random_tensors

TOLERANCE = 1e-4  # a deep network sums in another order for several rows; answers that are mixed up differ by far more
FREE_SIZES = (32, 48, 8)  # tried for dimensions that are free
_TRIED = 3  # rows, of a graph for one


def with_free_rows(data: bytes) -> bytes:
    """An ONNX file with its first dimension free; as it is, if it is free already, or if only one row alone will do.

    Raises InvalidInput for what is no sound graph, or takes a fixed number of rows above one and no other.
    """
    model = sound(data)
    fixed = _fixed_rows(model)
    if not fixed:
        return data
    freed = _freed(model, fixed)
    if _answer_alike(freed, data, fixed):
        return freed
    if fixed == 1:
        return data  # the runtime asks it row by row
    raise InvalidInput(f"this graph takes {fixed} rows at a time, and no other number; export it with a free dimension")


def _fixed_rows(model: onnx.ModelProto) -> int:
    """How many rows all inputs insist on; 0 if any number will do, or if they differ."""
    constants = {tensor.name for tensor in model.graph.initializer}
    given = [tensor.type.tensor_type.shape.dim for tensor in model.graph.input if tensor.name not in constants]
    if not all(given):
        return 0
    first = {dims[0].dim_value for dims in given}
    return max(first.pop(), 0) if len(first) == 1 else 0  # some exporters write -1 for any number


def _freed(model: onnx.ModelProto, fixed: int) -> bytes:
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    del freed.graph.value_info[:]  # what the exporter thought of shapes inside
    for tensor in (*freed.graph.input, *freed.graph.output):
        dims = tensor.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == fixed:
            dims[0].dim_param = "N"
    return bytes(freed.SerializeToString())


def _answer_alike(freed: bytes, data: bytes, fixed: int) -> bool:
    """Whether rows together are answered as the graph answers them in the number that it asks for."""
    given = open_session(data)
    try:
        free = open_session(freed)
    except InvalidInput:
        return False
    count = _TRIED if fixed == 1 else fixed
    specs = tuple(map(tensor_spec, free.get_inputs()))
    for size in FREE_SIZES:
        tensors = random_tensors(specs, count, size)
        wanted = _asked(given, tensors, fixed)
        if wanted is not None:
            return _same(free, tensors, wanted) and _same(free, _rows(tensors, 0, 2), [part[:2] for part in wanted])
    return False


def _asked(session: ort.InferenceSession, tensors: Tensors, fixed: int) -> list[np.ndarray] | None:
    """All answers, asked for in the number that the graph insists on; None if it takes no tensors of this size."""
    count = len(next(iter(tensors.values())))
    try:
        parts = [session.run(None, _rows(tensors, at, fixed)) for at in range(0, count, fixed)]
        return [np.concatenate(values) for values in zip(*parts, strict=True)]
    except Exception:  # ONNX Runtime's exceptions share no base class
        return None


def _same(session: ort.InferenceSession, tensors: Tensors, wanted: list[np.ndarray]) -> bool:
    try:
        found = session.run(None, tensors)
    except Exception:  # a shape inside that was written down for the fixed number
        return False
    return all(map(_equal, found, wanted))


def _equal(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind == "f":
        return np.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    return np.array_equal(found, wanted)


def _rows(tensors: Tensors, start: int, count: int) -> Tensors:
    return {name: np.ascontiguousarray(values[start : start + count]) for name, values in tensors.items()}
