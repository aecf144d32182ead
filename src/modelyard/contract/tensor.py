"""Open Inference Protocol datatypes and the numpy types that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# One batch on its way in or out of a model: tensor name -> array, first axis = rows.
Tensors = dict[str, NDArray[Any]]
Matrix = NDArray[np.float32]
Inputs = Matrix | Tensors  # of a table's version; of a version that takes tensors

# V2 datatype -> numpy dtype. BYTES is an array of Python str objects, or bytes where they are no UTF-8. numpy has no
# BF16: it is widened to float32 where it comes in, which loses nothing, and narrowed where it goes out.
NUMPY_TYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.float32),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}

_DATATYPES = {dtype: name for name, dtype in NUMPY_TYPES.items() if name != "BF16"}


def datatype_of(dtype: np.dtype) -> str:
    """The V2 datatype of a numpy dtype; raises KeyError for those that V2 has not."""
    if dtype.kind in "UOST":
        return "BYTES"
    return _DATATYPES[dtype]


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that BF16 bits stand for: the upper halves of float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrowed(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The bits of the nearest BF16 numbers, ties to even; a NaN stays one, and what is too large becomes infinite."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, nearest).astype(np.uint16)


def element_count(shape: list[int] | tuple[int, ...]) -> int:
    """How many elements `shape` holds. Python integers: nothing overflows."""
    count = 1
    for dimension in shape:
        count *= dimension
    return count


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Rows of several callers, one after the other. All parts have one set of names, datatypes and trailing shapes."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in first}  # type: ignore[call-overload]
    return np.concatenate(parts)  # type: ignore[arg-type]


def row_slice(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Rows `start` to `stop`, as views."""
    if isinstance(inputs, dict):
        return {name: values[start:stop] for name, values in inputs.items()}
    return inputs[start:stop]


def shapes_of(tensors: Tensors) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """What must be equal for two callers' tensors to be joined: names, types and trailing shapes."""
    return tuple(sorted((name, values.dtype.str, values.shape[1:]) for name, values in tensors.items()))
