"""The tensors that a version takes and gives, as callers of the Open Inference Protocol see them."""

from __future__ import annotations

import msgspec


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor: V2 datatype, and a shape in which -1 is the number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes in and what comes out.

    `layout` says how a caller's tensors become the one matrix that the contract makes:
    `columns` = one tensor for each column; `matrix` = one tensor that already is the matrix.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layout: str = "columns"
