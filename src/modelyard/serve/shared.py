"""Tensors in memory that two processes share: written once by one, read in place by the other.

A segment has no name: its descriptor travels with a message, and when both processes are gone so is the memory. On
Linux it is sealed against shrinking, so that whoever maps it is never ended by a neighbour that cuts it short.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import TooLarge
from modelyard.contract.tensor import NUMPY_TYPES, Tensors, datatype_of, element_count

SEGMENT_BYTES = 1 << 30  # the largest batch, or the largest answer to one
KEPT_BYTES = 1 << 24  # up to this size a segment is used again for the next batch; a larger one lives for one batch
ANSWER_BYTES = 1 << 16  # the same for answers: smaller ones are copied by whoever reads them, larger ones are theirs
SHRINK_AFTER = 100  # batches in a row that need less than a quarter of the segment that is kept: it is given back
_FIRST_BYTES = 1 << 16
_ALIGNMENT = 64
_LENGTH = np.dtype("<u4")
_MAX_DIMENSIONS = 32


class Placed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where one tensor lies. Numbers are little-endian and row-major; texts are all lengths (u32), then all bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Segment:
    """One piece of shared memory as this process maps it; unmapped when nothing looks at it any more."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self.memory = mmap.mmap(descriptor, size)

    @classmethod
    def make(cls, size: int) -> tuple[Segment, int]:
        """A new segment of at least `size` bytes, and the descriptor to send; the caller closes it."""
        size = max(_FIRST_BYTES, 1 << (size - 1).bit_length()) if size <= KEPT_BYTES else size
        descriptor = anonymous_file()
        try:
            os.ftruncate(descriptor, size)
            if sys.platform == "linux":
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            return cls(descriptor, size), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def received(cls, descriptor: int) -> Segment:
        """A segment that somebody sent; the descriptor is closed here. Raises ValueError if it is none of ours."""
        try:
            size = os.fstat(descriptor).st_size
            if not 0 < size <= SEGMENT_BYTES:
                raise ValueError(f"a segment of {size} bytes")
            if sys.platform == "linux" and not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError("a segment that may shrink")
            return cls(descriptor, size)
        except OSError as error:
            raise ValueError(f"a descriptor that is no segment: {error.strerror}") from None
        finally:
            os.close(descriptor)


class Outbox:
    """The writing end: keeps one small segment, and makes a new one where that has not the room.

    What was written is overwritten by the next `write`, unless it was larger than `kept_bytes`: then it belongs to
    whoever reads it.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._kept: Segment | None = None
        self._small = 0  # batches in a row

    def write(self, parts: Mapping[str, Sequence[NDArray[Any]]]) -> tuple[tuple[Placed, ...], int | None]:
        """Each tensor from its parts, one after the other along the first axis: where they lie, and the descriptor
        to send (and close) if the segment is a new one. Raises TooLarge, or TypeError for texts that are none.
        """
        drafts = [_draft(name, arrays) for name, arrays in parts.items()]
        starts = [0, *itertools.accumulate(_aligned(draft.size) for draft in drafts)]
        if starts[-1] > SEGMENT_BYTES:
            raise TooLarge(f"a batch of {starts[-1]} bytes is above serve.shared.SEGMENT_BYTES={SEGMENT_BYTES}")
        segment, descriptor = self._segment(starts[-1])
        try:
            placed = tuple(draft.place(segment, start) for draft, start in zip(drafts, starts, strict=False))
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
                self._kept = None
            raise
        return placed, descriptor

    def _segment(self, size: int) -> tuple[Segment, int | None]:
        if size > self._kept_bytes:
            return Segment.make(size)
        if self._kept is not None and self._kept.size >= size:
            self._small = self._small + 1 if size < self._kept.size // 4 else 0
            if self._small < SHRINK_AFTER or self._kept.size == _FIRST_BYTES:
                return self._kept, None
        self._small = 0
        self._kept, descriptor = Segment.make(size)
        return self._kept, descriptor


class Inbox:
    """The reading end: remembers the segment that the other end keeps."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._kept: Segment | None = None

    def read(self, placed: Iterable[Placed], descriptor: int | None) -> tuple[Tensors, bool]:
        """The tensors as views, and whether the other end may overwrite them later: then copy what is to stay.

        Raises ValueError for a place outside the segment, or one that its shape does not fill.
        """
        placed = tuple(placed)
        segment = self._kept if descriptor is None else Segment.received(descriptor)
        if segment is None:
            raise ValueError("a message without a segment")
        tensors = {one.name: _view(one, segment) for one in placed}
        if len(tensors) != len(placed):
            raise ValueError("a tensor comes twice")
        if sum(_aligned(one.size) for one in placed) > self._kept_bytes:
            return tensors, False
        self._kept = segment
        return tensors, True


class _Numbers:
    """Arrays of numbers on their way into a segment."""

    def __init__(self, name: str, arrays: Sequence[NDArray[Any]]) -> None:
        self.name, self.arrays = name, arrays
        first = arrays[0]
        self.dtype = first.dtype.newbyteorder("<")
        self.datatype = datatype_of(first.dtype.newbyteorder("="))
        self.shape = first.shape if len(arrays) == 1 else (sum(len(array) for array in arrays), *first.shape[1:])
        self.size = element_count(self.shape) * self.dtype.itemsize

    def place(self, segment: Segment, start: int) -> Placed:
        target: NDArray[Any] = np.ndarray(self.shape, self.dtype, segment.memory, start)
        if len(self.arrays) == 1:
            target[...] = self.arrays[0]
        else:
            np.concatenate(self.arrays, out=target)
        return Placed(self.name, self.datatype, self.shape, start, self.size)


class _Texts:
    """Arrays of texts on their way into a segment: str, or bytes where they are not UTF-8."""

    def __init__(self, name: str, arrays: Sequence[NDArray[Any]]) -> None:
        self.name = name
        first = arrays[0]
        self.shape = first.shape if len(arrays) == 1 else (sum(len(array) for array in arrays), *first.shape[1:])
        pieces = [_encoded(text, name) for array in arrays for text in array.ravel().tolist()]
        self.lengths = np.fromiter(map(len, pieces), dtype=_LENGTH, count=len(pieces))
        self.bytes = b"".join(pieces)
        self.size = self.lengths.nbytes + len(self.bytes)

    def place(self, segment: Segment, start: int) -> Placed:
        middle = start + self.lengths.nbytes
        segment.memory[start:middle] = self.lengths.tobytes()
        segment.memory[middle : start + self.size] = self.bytes
        return Placed(self.name, "BYTES", self.shape, start, self.size)


def _draft(name: str, arrays: Sequence[NDArray[Any]]) -> _Numbers | _Texts:
    return _Texts(name, arrays) if arrays[0].dtype.kind in "OUST" else _Numbers(name, arrays)


def _encoded(text: object, name: str) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"tensor {name!r} holds something that is neither text nor bytes")


def _view(placed: Placed, segment: Segment) -> NDArray[Any]:
    dtype = NUMPY_TYPES.get(placed.datatype)
    if dtype is None or min((0, *placed.shape)) < 0 or len(placed.shape) > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {placed.name!r} of datatype {placed.datatype!r} and shape {placed.shape}")
    if placed.start < 0 or placed.size < 0 or placed.start + placed.size > segment.size:
        raise ValueError(f"tensor {placed.name!r} lies outside its segment")
    count = element_count(placed.shape)
    if dtype.kind == "O":
        return _texts(placed, segment, count)
    if count * dtype.itemsize != placed.size or placed.start % dtype.itemsize:
        raise ValueError(f"tensor {placed.name!r} does not fill its place")
    return np.ndarray(placed.shape, dtype.newbyteorder("<"), segment.memory, placed.start)


def _texts(placed: Placed, segment: Segment, count: int) -> NDArray[Any]:
    middle = placed.start + count * _LENGTH.itemsize
    if count * _LENGTH.itemsize > placed.size:
        raise ValueError(f"tensor {placed.name!r} does not fill its place")
    lengths = np.frombuffer(segment.memory[placed.start : middle], _LENGTH)
    ends = np.cumsum(lengths, dtype=np.int64)
    if (int(ends[-1]) if count else 0) != placed.size - lengths.nbytes:
        raise ValueError(f"tensor {placed.name!r} does not fill its place")
    data = segment.memory[middle : placed.start + placed.size]
    texts = np.empty(count, dtype=object)
    for row, (low, high) in enumerate(itertools.pairwise((0, *ends.tolist()))):
        piece = data[low:high]
        try:
            texts[row] = piece.decode()
        except UnicodeDecodeError:
            texts[row] = piece
    return texts.reshape(placed.shape)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def anonymous_file() -> int:
    """The descriptor of a new empty file in memory that has no name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("modelyard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
