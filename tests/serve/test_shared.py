"""Tensors in shared memory arrive as they were sent, and a message that lies about them is refused."""

from __future__ import annotations

import gc
import os
import socket
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.contract.errors import TooLarge
from modelyard.contract.tensor import NUMPY_TYPES
from modelyard.serve import shared
from modelyard.serve.messages import MESSAGE_BYTES, Answer, Ask, Broken, Ready, receive, send
from modelyard.serve.shared import SHRINK_AFTER, Inbox, Outbox, Placed, Segment

NUMBERS = [dtype for name, dtype in NUMPY_TYPES.items() if name != "BYTES"]
TEXTS = st.one_of(st.text(max_size=9), st.binary(max_size=9))


@st.composite
def parts(draw: st.DrawFn) -> list[Any]:
    """Arrays of one type and trailing shape, of any number of rows."""
    trailing = draw(st.lists(st.integers(0, 3), max_size=2))
    dtype = draw(st.sampled_from([*NUMBERS, np.dtype(object)]))
    elements = TEXTS if dtype.kind == "O" else None
    rows = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    return [draw(hnp.arrays(dtype, (count, *trailing), elements=elements)) for count in rows]


def as_sent(array: Any) -> Any:
    """Bytes that are a text arrive as one."""
    if array.dtype != object:
        return array
    flat = np.empty(array.size, dtype=object)
    for row, value in enumerate(array.ravel().tolist()):
        try:
            flat[row] = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            flat[row] = value
    return flat.reshape(array.shape)


@given(st.dictionaries(st.text(max_size=5), parts(), min_size=1, max_size=4))
def test_what_is_written_is_read(batch: dict[str, list[Any]]) -> None:
    placed, descriptor = Outbox().write(batch)
    tensors, _ = Inbox().read(placed, descriptor)
    assert list(tensors) == list(batch)
    for name, arrays in batch.items():
        wanted = as_sent(np.concatenate(arrays))
        assert tensors[name].dtype == wanted.dtype
        assert tensors[name].shape == wanted.shape
        if wanted.dtype == object:
            assert tensors[name].tolist() == wanted.tolist()
        else:
            np.testing.assert_array_equal(tensors[name], wanted)


def test_one_segment_serves_batch_after_batch() -> None:
    outbox, inbox = Outbox(), Inbox()
    for size in (10, 5, 10):
        rows = np.full(size, size, dtype=np.float32)
        placed, descriptor = outbox.write({"x": [rows]})
        assert (descriptor is None) == (size == 5 or inbox._kept is not None)
        tensors, is_kept = inbox.read(placed, descriptor)
        assert is_kept
        np.testing.assert_array_equal(tensors["x"], rows)


def test_a_segment_that_is_too_large_for_long_is_given_back() -> None:
    outbox = Outbox()
    large, small = np.zeros(1 << 18, dtype=np.float32), np.zeros(10, dtype=np.float32)
    for _ in range(3):
        outbox.write({"x": [large]})
        made = [outbox.write({"x": [small]})[1] for _ in range(SHRINK_AFTER)]
        assert [descriptor is not None for descriptor in made] == [False] * (SHRINK_AFTER - 1) + [True]
        assert outbox._kept is not None
        assert outbox._kept.size < large.nbytes
    made = [outbox.write({"x": [small]})[1] for _ in range(3 * SHRINK_AFTER)]
    assert made == [None] * len(made)  # it cannot be smaller


def test_a_large_batch_has_a_segment_of_its_own_and_gives_it_back() -> None:
    outbox, inbox = Outbox(1 << 16), Inbox(1 << 16)
    rows = np.arange(1 << 15, dtype=np.float32)
    placed, descriptor = outbox.write({"x": [rows]})
    tensors, is_kept = inbox.read(placed, descriptor)
    assert not is_kept  # nobody will write into it again: no copy is needed
    before = len(mapped())
    np.testing.assert_array_equal(tensors["x"], rows)
    del tensors
    gc.collect()
    assert len(mapped()) == before - 1


def mapped() -> list[str]:
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "memfd:modelyard" in line]


def test_arrays_that_are_not_contiguous_are_sent_as_they_read() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    placed, descriptor = Outbox().write({"x": [rows[::-2, ::2], rows.T[:1, :2]]})
    tensors, _ = Inbox().read(placed, descriptor)
    np.testing.assert_array_equal(tensors["x"], [[9, 11], [3, 5], [0, 3]])


def test_a_batch_beyond_the_limit_is_refused_before_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "SEGMENT_BYTES", 1_000)
    with pytest.raises(TooLarge, match="SEGMENT_BYTES=1000"):
        Outbox().write({"x": [np.zeros(1_000, dtype=np.float32)]})


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="'x' holds something that is neither text nor bytes"):
        Outbox().write({"x": [np.array([None], dtype=object)]})


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": "FP8"},
        {"shape": (5, 3)},
        {"shape": (-4, -3)},
        {"shape": (4,) * 40},
        {"start": -64},
        {"start": 1 << 40},
        {"start": 2},
        {"size": 1 << 40},
        {"size": 47},
        {"datatype": "BYTES"},
        {"datatype": "BYTES", "shape": (1 << 40,)},
    ],
)
def test_a_place_that_lies_is_refused(change: dict[str, Any]) -> None:
    (placed,), descriptor = Outbox().write({"x": [np.full((4, 3), 7.0, dtype=np.float32)]})
    with pytest.raises(ValueError, match="tensor 'x'"):
        Inbox().read([msgspec.structs.replace(placed, **change)], descriptor)


def test_a_tensor_that_comes_twice_is_refused() -> None:
    (placed,), descriptor = Outbox().write({"x": [np.zeros(3)]})
    with pytest.raises(ValueError, match="twice"):
        Inbox().read([placed, placed], descriptor)


def test_a_descriptor_that_is_no_segment_is_refused() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises(ValueError, match="segment"):
        Segment.received(reader)
    shrinkable = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(shrinkable, 4096)
    with pytest.raises(ValueError, match="may shrink"):
        Segment.received(shrinkable)
    for descriptor in (reader, shrinkable):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_nobody_cuts_a_segment_short() -> None:
    segment, descriptor = Segment.make(100)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    assert bytes(segment.memory[:4]) == bytes(4)
    os.close(descriptor)


# --- messages


@pytest.fixture
def ends() -> Any:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_a_message_arrives_with_its_segment(ends: Any) -> None:
    placed, descriptor = Outbox().write({"x": [np.arange(3, dtype=np.int64)]})
    send(ends[0], Ask("predict", placed), descriptor)
    message, received = receive(ends[1], 1.0)
    assert message == Ask("predict", placed)
    assert Inbox().read(placed, received)[0]["x"].tolist() == [0, 1, 2]


def test_a_message_in_pieces_is_put_together(ends: Any) -> None:
    big = Ready(1, {size: 0.5 for size in range(1, 30_000)}, 0.0)
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    send(ends[0], big)
    assert receive(ends[1], 1.0)[0] == big


@pytest.mark.parametrize(
    "data",
    [b"\x05\x00\x00\x00hello", (MESSAGE_BYTES + 1).to_bytes(4, "little"), b"\x01\x00\x00\x00\x80\x80", b"\x09\x00"],
    ids=["no message", "too long", "more than one", "cut short"],
)
def test_what_is_no_message_breaks_the_line(ends: Any, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.serve.messages.PIECE_S", 0.05)
    ends[0].sendall(data)
    with pytest.raises(Broken):
        receive(ends[1], 1.0)


def test_silence_and_the_end_are_told_apart(ends: Any) -> None:
    with pytest.raises(TimeoutError):
        receive(ends[1], 0.01)
    ends[0].close()
    with pytest.raises(Broken, match="the line ended"):
        receive(ends[1], 1.0)
    with pytest.raises(Broken, match="cannot be told"):
        send(ends[1], Answer())


def test_descriptors_of_a_broken_message_are_closed(ends: Any) -> None:
    before = set(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    socket.send_fds(ends[0], [b"\x05\x00\x00\x00hello"], [reader, writer])
    os.close(reader)
    os.close(writer)
    with pytest.raises(Broken):
        receive(ends[1], 1.0)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_place_is_refused_what_it_does_not_know() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(["x", "FP32", [1], 0, 4, "more"], Placed)
