"""Open Inference Protocol datatypes and the numpy types that carry them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# One batch on its way in or out of a model: tensor name -> array, first axis = rows.
Tensors = dict[str, NDArray[Any]]
Matrix = NDArray[np.float32]

# V2 datatype -> numpy dtype. BYTES is an array of Python str objects.
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
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}

_DATATYPES = {dtype: name for name, dtype in NUMPY_TYPES.items()}


def datatype_of(dtype: np.dtype) -> str:
    """The V2 datatype of a numpy dtype; raises KeyError for those that V2 has not."""
    if dtype.kind in "UOST":
        return "BYTES"
    return _DATATYPES[dtype]


def element_count(shape: list[int] | tuple[int, ...]) -> int:
    """How many elements `shape` holds. Python integers: nothing overflows."""
    count = 1
    for dimension in shape:
        count *= dimension
    return count
