"""Records survive the way through a segment; a torn or damaged end stops the reader cleanly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.telemetry import Feedback, Prediction, Record, frame, frames

WHOLE = st.integers(0, 2**62)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
PREDICTIONS = st.builds(
    Prediction, TEXT, WHOLE, TEXT, WHOLE, WHOLE, TEXT, WHOLE, st.binary(max_size=40), st.binary(max_size=8), WHOLE, TEXT
)
RECORDS = st.lists(st.one_of(PREDICTIONS, st.builds(Feedback, TEXT, WHOLE, TEXT, TEXT, TEXT, WHOLE)), max_size=6)


@given(RECORDS)
def test_a_segment_gives_back_its_records_in_order(records: list[Record]) -> None:
    assert list(frames(b"".join(map(frame, records)))) == records


@given(RECORDS, st.data())
def test_a_torn_segment_gives_every_whole_record_and_stops(records: list[Record], data: st.DataObject) -> None:
    parts = [frame(record) for record in records]
    segment = b"".join(parts)
    cut = data.draw(st.integers(0, len(segment)))
    whole, end = 0, 0
    for part in parts:
        end += len(part)
        whole += end <= cut
    assert list(frames(segment[:cut])) == records[:whole]


@given(RECORDS.filter(bool), st.data())
def test_a_damaged_byte_costs_its_own_record_and_what_follows_only(records: list[Record], data: st.DataObject) -> None:
    parts = [frame(record) for record in records]
    segment = bytearray(b"".join(parts))
    at = data.draw(st.integers(0, len(segment) - 1))
    segment[at] ^= data.draw(st.integers(1, 255))
    before, end = 0, 0
    for part in parts:
        end += len(part)
        before += end <= at
    assert list(frames(bytes(segment))) == records[:before]


@given(RECORDS, st.one_of(st.just(b"\0" * 64), st.binary(max_size=7), st.just(b"\xff" * 16)))
def test_what_a_power_cut_leaves_behind_the_last_record_is_no_record(records: list[Record], tail: bytes) -> None:
    assert list(frames(b"".join(map(frame, records)) + tail)) == records
