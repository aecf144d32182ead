"""What we write of header blocks, and of messages, by hand is what independent libraries read."""

from __future__ import annotations

import hpack
from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from modelyard.serve.http2_heads import EMPTY_TABLE, field
from modelyard.serve.varint import varint


@given(name=st.integers(1, 400), value=st.integers(0, 40_000))
def test_a_field_of_any_length_is_read_without_a_table(name: int, value: int) -> None:
    decoder = hpack.Decoder()
    fields = decoder.decode(EMPTY_TABLE + field(b"n" * name, b"v" * value), raw=True)
    assert fields == [(b"n" * name, b"v" * value)]
    assert not decoder.header_table.dynamic_entries


@given(number=st.integers(1, 2**64 - 1))
def test_a_number_is_written_as_protobuf_writes_it(number: int) -> None:
    assert b"\x08" + varint(number) == UInt64Value(value=number).SerializeToString()
