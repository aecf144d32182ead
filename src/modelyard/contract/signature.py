"""The tensors that a version takes and gives, as callers of the Open Inference Protocol see them."""

from __future__ import annotations

from typing import Literal

import msgspec


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tensor: V2 datatype and shape. A first -1 is the number of rows; a further one is free, such as a length."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: Literal["", "image", "json"] = ""  # of BYTES: image files, or texts that are JSON


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes in and what comes out.

    `layout` says how a caller's tensors become what the runtime takes. A table's version takes the one matrix that the
    contract makes: from `columns`, one tensor for each column, or from a `matrix`, one tensor that already is it.
    `tensors` go to the runtime as they are; such a version has a contract without columns.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layout: Literal["columns", "matrix", "tensors"] = "columns"
