"""Finding one id's records in a segment gives what reading all of it would, and reads hardly anything."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.telemetry import Feedback, Prediction, Record, frame, frames, records_with

IDS = st.sampled_from(["a" * 32, "b" * 32, "c" * 32, "x", ""])


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    noise = draw(st.binary(max_size=60))
    return Prediction(draw(IDS), 1, "loans", 1, 7, "anna", 1, noise, b"", 5, draw(IDS))


@st.composite
def batches(draw: st.DrawFn) -> list[list[Record]]:
    feedback = st.builds(Feedback, IDS, st.just(2), st.just("loans"), st.just("anna"), st.sampled_from(["good", "bad"]))
    return draw(st.lists(st.lists(predictions() | feedback, min_size=1, max_size=4), max_size=8))


def bears(record: Record, text: str) -> bool:
    return record.request_id == text or getattr(record, "caller_id", None) == text


@given(batches(), st.sampled_from(["a" * 32, "b" * 32, "x"]), st.integers(0, 400))
def test_it_finds_what_reading_everything_finds(batches: list[list[Record]], text: str, cut: int) -> None:
    segment = b"".join(frame(*batch) for batch in batches)
    segment = segment[: len(segment) - cut] if cut % 3 == 0 else segment  # torn at its end
    found = [record for record in records_with(segment, text) if bears(record, text)]
    assert found == [record for record in frames(segment) if bears(record, text)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda segment: segment[:8] + b"\xff" + segment[9:],  # a byte of the payload
        lambda segment: struct.pack("<II", 1 << 30, 0) + segment[8:],  # a length beyond the end
        lambda segment: bytes(8) + segment,  # zeros, as a power cut leaves them
    ],
)
def test_nothing_behind_damage_is_believed(damage) -> None:
    segment = damage(frame(Prediction("a" * 32, 1, "loans", 1, 7, "anna", 1, b"", b"", 5)))
    assert list(records_with(segment, "a" * 32)) == list(frames(segment)) == []


def test_an_id_inside_of_other_bytes_is_no_record_of_it() -> None:
    hidden = Prediction("b" * 32, 1, "loans", 1, 7, "anna", 1, b"a" * 32, b"", 5)
    assert [one for one in records_with(frame(hidden), "a" * 32) if bears(one, "a" * 32)] == []
