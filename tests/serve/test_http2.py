"""The HTTP/2 edge against an independent client, and against frames that no client should send."""

from __future__ import annotations

import struct

import h2.events
import h2.settings
import hpack
import hyperframe.frame as frames
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.http2 import HEADERS, Link, frame
from modelyard.contract.errors import InvalidInput, TooLarge
from modelyard.contract.settings import Settings
from modelyard.serve import http2, http2_budget, http2_frames, http2_patience, http2_session, http2_stream
from modelyard.serve.http2_frames import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
)

DATA, HEAD, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32
COMPRESSION_ERROR = 9


def block(*extra: tuple[str, str], headers: list[tuple[str, str]] = HEADERS) -> bytes:
    """A header block that needs no table."""
    return hpack.Encoder().encode([(name, value, True) for name, value in [*headers, *extra]], huffman=False)


def test_a_request_comes_back() -> None:
    link = Link()
    number = link.ask(b"hello")
    link.exchange()
    assert link.answer(number) == b"hello"
    assert link.session.streams == {}
    assert link.session.budget.held == 0


@settings(max_examples=30, deadline=None)
@given(
    bodies=st.lists(st.integers(0, 40_000), min_size=1, max_size=5),
    window=st.sampled_from((2_000, 16_384, 65_535, 1_000_000)),
    cut=st.integers(100, 40_000),
)
def test_any_sizes_windows_and_cuts_give_the_same_bytes(bodies: list[int], window: int, cut: int) -> None:
    link = Link()
    link.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    link.exchange()
    numbers = {}
    for place, size in enumerate(bodies):
        body = bytes([place + 65]) * size
        numbers[link.ask(body)] = body
        sent = link.client.data_to_send()
        for at in range(0, len(sent), cut):
            link.connection.data_received(sent[at : at + cut])
        link.exchange()
    while not all(link.answer(number) is not None for number in numbers):
        for event in link.events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                link.client.increment_flow_control_window(event.flow_controlled_length)
                if event.stream_id in link.session.streams:
                    link.client.increment_flow_control_window(event.flow_controlled_length, event.stream_id)
                event.flow_controlled_length = 0
        assert link.exchange()
    assert {number: link.answer(number) for number in numbers} == numbers
    assert link.farewell is None
    assert (link.session.budget.held, link.session.unsent_bytes, link.session.blocked) == (0, 0, {})


def test_a_head_that_repeats_is_decoded_once_and_a_changed_one_again() -> None:
    link = Link(answers=False)
    for value in ("1", "1", "1", "2", "1"):
        link.ask(b"x", [*HEADERS, ("x-request-id", value)])
        link.exchange()
    heads = [receiver.stream.head for receiver in link.receivers]
    assert [head.headers[b"x-request-id"] for head in heads] == [b"1", b"1", b"1", b"2", b"1"]
    assert heads[1] is heads[2]
    assert heads[3] is not heads[2]
    assert heads[4].headers is not heads[3].headers


def test_a_kept_head_is_forgotten_when_the_table_moves() -> None:
    """The same bytes, an index into the table, mean another value once an entry was added before it."""
    link = Link(answers=False)
    plain = block()
    indexed = bytes((0x80 | 62,))  # the newest entry of the table
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 1, plain + b"\x40\x03x-a\x03one"))
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 3, plain + indexed))
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 5, plain + indexed))
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 7, plain + b"\x40\x03x-a\x03two"))
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 9, plain + indexed))
    assert [one.stream.head.headers[b"x-a"] for one in link.receivers] == [b"one", b"one", b"one", b"two", b"two"]


def test_the_answers_need_no_table_whatever_the_peer_allows() -> None:
    link = Link()
    link.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    link.exchange()
    number = link.ask(b"x")
    link.exchange()
    assert link.answer(number) == b"x"


# --- faults of the whole connection


RAW = {
    "a frame larger than the limit": ([frame(DATA, 0, 1, b"x" * 16_385)], FRAME_SIZE_ERROR),
    "an even stream": ([frame(HEAD, END_HEADERS | END_STREAM, 2, block())], PROTOCOL_ERROR),
    "stream zero": ([frame(HEAD, END_HEADERS | END_STREAM, 0, block())], PROTOCOL_ERROR),
    "a falling stream": ([frame(HEAD, 5, 5, block()), frame(HEAD, 5, 3, block())], PROTOCOL_ERROR),
    "data of an idle stream": ([frame(DATA, END_STREAM, 7, b"x")], PROTOCOL_ERROR),
    "data of stream zero": ([frame(DATA, END_STREAM, 0, b"x")], PROTOCOL_ERROR),
    "a reset of an idle stream": ([frame(RST, 0, 9, b"\0\0\0\x08")], PROTOCOL_ERROR),
    "a short reset": ([frame(HEAD, 4, 1, block()), frame(RST, 0, 1, b"\0")], FRAME_SIZE_ERROR),
    "window of an idle stream": ([frame(WINDOW, 0, 9, b"\0\0\0\x08")], PROTOCOL_ERROR),
    "no window": ([frame(WINDOW, 0, 0, b"\0\0\0\0")], PROTOCOL_ERROR),
    "a short window": ([frame(WINDOW, 0, 0, b"\0")], FRAME_SIZE_ERROR),
    "too large a window": ([frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff")] * 2, FLOW_CONTROL_ERROR),
    "padding longer than data": ([frame(HEAD, 4, 1, block()), frame(DATA, PADDED, 1, b"\x05abc")], PROTOCOL_ERROR),
    "padding without data": ([frame(HEAD, 4, 1, block()), frame(DATA, PADDED, 1, b"")], PROTOCOL_ERROR),
    "padding longer than a head": ([frame(HEAD, 4 | PADDED, 1, b"\xff" + block())], PROTOCOL_ERROR),
    "a head shorter than its priority": ([frame(HEAD, 4 | WITH_PRIORITY, 1, b"ab")], PROTOCOL_ERROR),
    "a short priority": ([frame(PRIORITY, 0, 1, b"abcd")], FRAME_SIZE_ERROR),
    "a push": ([frame(PUSH, 4, 1, b"\0\0\0\x02" + block())], PROTOCOL_ERROR),
    "a short ping": ([frame(PING, 0, 0, b"1234567")], FRAME_SIZE_ERROR),
    "a ping of a stream": ([frame(PING, 0, 1, b"12345678")], PROTOCOL_ERROR),
    "settings of a stream": ([frame(SETTINGS, 0, 1)], PROTOCOL_ERROR),
    "a cut setting": ([frame(SETTINGS, 0, 0, b"12345")], FRAME_SIZE_ERROR),
    "a full acknowledgement": ([frame(SETTINGS, 1, 0, b"123456")], FRAME_SIZE_ERROR),
    "a window setting that is too large": ([frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31))], FLOW_CONTROL_ERROR),
    "a frame setting that is too small": ([frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 100))], PROTOCOL_ERROR),
    "a push setting of two": ([frame(SETTINGS, 0, 0, struct.pack(">HI", 2, 2))], PROTOCOL_ERROR),
    "a short goaway": ([frame(GOAWAY, 0, 0, b"123")], PROTOCOL_ERROR),
    "a continuation of nothing": ([frame(CONTINUATION, 4, 1, block())], PROTOCOL_ERROR),
    "a frame within a header block": ([frame(HEAD, 0, 1, block()), frame(PING, 0, 0, b"12345678")], PROTOCOL_ERROR),
    "another stream's continuation": ([frame(HEAD, 0, 1, b""), frame(CONTINUATION, 4, 3, block())], PROTOCOL_ERROR),
    "an index that is not in the table": ([frame(HEAD, 5, 1, b"\xff\xff\x0f")], COMPRESSION_ERROR),
    "a cut header block": ([frame(HEAD, 5, 1, b"\x40\x0aabc")], COMPRESSION_ERROR),
    "a table larger than allowed": ([frame(HEAD, 5, 1, b"\x3f\xff\xff\x0f" + block())], COMPRESSION_ERROR),
    "empty continuations": ([frame(HEAD, 0, 1, b"")] + [frame(CONTINUATION, 0, 1)] * 9, ENHANCE_YOUR_CALM),
    "a flood of pings": ([frame(PING, 0, 0, b"12345678") * 1100], ENHANCE_YOUR_CALM),
    "a flood of settings": ([frame(SETTINGS, 0, 0) * 1100], ENHANCE_YOUR_CALM),
    "a flood of unknown frames": ([frame(77, 0, 0, b"x") * 1100], ENHANCE_YOUR_CALM),
    "a flood of priorities": ([frame(PRIORITY, 0, 1, b"12345") * 1100], ENHANCE_YOUR_CALM),
    "a flood of empty data": ([frame(HEAD, 4, 1, block()), frame(DATA, 0, 1) * 1100], ENHANCE_YOUR_CALM),
    "a flood of tiny data": ([frame(HEAD, 4, 1, block()), frame(DATA, 0, 1, b"x") * 1100], ENHANCE_YOUR_CALM),
    "a flood of goaways": ([frame(GOAWAY, 0, 0, b"\0" * 8) * 1100], ENHANCE_YOUR_CALM),
}  # fmt: skip


@pytest.mark.parametrize("case", RAW)
def test_a_fault_of_the_connection_ends_it_with_its_code(case: str) -> None:
    sent, code = RAW[case]
    link = Link(answers=False)
    link.raw(*sent)
    assert link.farewell is not None
    assert link.farewell[0] == code
    assert link.pipe.has_eof
    assert link.session.streams == {}
    link.clock.pass_time(2)
    assert link.pipe.is_aborted
    assert link.faults == []


def test_data_behind_the_answer_ends_the_connection() -> None:
    link = Link()
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 1, block()), frame(DATA, END_STREAM, 1, b"x"))
    assert link.farewell is not None
    assert link.farewell[0] == STREAM_CLOSED


def test_rapid_resets_end_the_connection() -> None:
    link = Link(answers=False)
    for number in range(1, 2001, 2):
        if link.farewell:
            break
        link.raw(frame(HEAD, END_HEADERS, number, block()), frame(RST, 0, number, struct.pack(">I", CANCEL)))
    assert link.farewell is not None
    assert link.farewell[0] == ENHANCE_YOUR_CALM
    most = http2_patience.PATIENCE // http2_session.RESET_COST
    assert len(link.receivers) <= most + 20  # some comes back while time passes
    assert all(receiver.told[-1] == "left" for receiver in link.receivers)


def test_making_the_server_reset_is_as_bad() -> None:
    link = Link(answers=False)
    for number in range(1, 2001, 2):
        if link.farewell:
            break
        link.raw(frame(HEAD, END_HEADERS, number, block()), frame(WINDOW, 0, number, b"\0\0\0\0"))
    assert link.farewell is not None
    assert link.farewell[0] == ENHANCE_YOUR_CALM


def test_resets_beside_answers_are_fine() -> None:
    link = Link()
    for _ in range(600):
        link.client.reset_stream(link.ask(b"half", end=False), CANCEL)
        numbers = [link.ask(b"x"), link.ask(b"y")]
        link.exchange()
        assert all(link.answer(number) for number in numbers)
        link.events.clear()


@pytest.mark.parametrize(
    "greeting", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r" + b"\0" * 9, b"\x16\x03"]
)
def test_another_greeting_is_refused(greeting: bytes) -> None:
    link = Link(greets=False)
    link.pipe.data = b""
    link.connection.data_received(greeting)
    assert link.pipe.has_eof
    assert (b"505" in link.pipe.data) == greeting.startswith(b"GET")


def test_a_preface_in_pieces_and_without_settings() -> None:
    link = Link(greets=False)
    for byte in http2_frames.PREFACE:
        link.connection.data_received(bytes((byte,)))
    assert not link.session.is_closing
    link.connection.data_received(frame(PING, 0, 0, b"12345678"))
    assert link.session.is_closing


def test_a_cut_header_block_and_a_silent_caller_have_deadlines() -> None:
    limits = Settings(header_timeout_s=5.0, idle_timeout_s=50.0)
    silent = Link(limits, greets=False)
    silent.clock.pass_time(5.5)
    assert silent.session.is_closing
    link = Link(limits)
    link.raw(frame(HEAD, 0, 1, block()[:5]))
    for _ in range(6):
        link.clock.pass_time(1)
        if not link.session.is_closing:
            link.raw(frame(CONTINUATION, 0, 1, b""))  # a trickle does not extend it
    link.exchange()
    assert link.farewell is not None
    assert link.farewell[0] == PROTOCOL_ERROR
    assert b"header_timeout_s" in link.farewell[1]


def test_idle_connections_close_and_pings_do_not_keep_them() -> None:
    link = Link(Settings(idle_timeout_s=50.0))
    number = link.ask(b"x")
    link.exchange()
    assert link.answer(number) == b"x"
    for _ in range(6):
        assert link.farewell is None
        link.clock.pass_time(10)
        link.raw(frame(PING, 0, 0, b"12345678"))
    assert link.farewell is not None
    assert link.farewell[0] == NO_ERROR


def test_a_body_has_a_deadline_that_a_trickle_does_not_extend() -> None:
    link = Link(Settings(body_timeout_s=5.0), answers=False)
    number = link.ask(b"x", end=False)
    for _ in range(6):
        link.client.send_data(number, b"x" * 100) if link.session.streams else None
        link.exchange()
        link.clock.pass_time(1)
    assert "expired" in link.receivers[0].told
    assert link.receivers[0].told.count("expired") == 1


def test_one_connection_too_many_is_told() -> None:
    link = Link(Settings(max_connections=1))
    first = link.session
    link.connect()
    assert link.farewell is not None
    assert link.farewell[0] == ENHANCE_YOUR_CALM
    assert b"max_connections" in link.farewell[1]
    assert not first.is_closing


# --- faults of one stream


def refused(link: Link, *frames: bytes) -> int:
    """The code with which stream 1 ends, while another one is answered as if nothing had been."""
    link.raw(*frames)
    code = link.resets()[1]
    assert link.farewell is None
    link.answers = True
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 101, block()))
    assert link.receivers[-1].stream.is_closed
    return code


MALFORMED = {
    "upper case": [("X-Upper", "x")],
    "a pseudo header behind others": [(":path", "/other")],
    "connection": [("connection", "close")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "te": [("te", "gzip")],
    "an unknown pseudo header": [(":status", "200")],
    "a line break in a value": [("x-a", "a\r\nb")],
    "a name with a space": [("x a", "b")],
    "blanks around a value": [("x-a", " b")],
    "a length that is no number": [("content-length", "x")],
    "another host": [("host", "elsewhere")],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_heads_end_their_stream(case: str) -> None:
    link = Link(answers=False)
    assert refused(link, frame(HEAD, 5, 1, block(*MALFORMED[case]))) == PROTOCOL_ERROR
    assert len(link.receivers) == 1  # no receiver ever saw it


@pytest.mark.parametrize("missing", [":method", ":scheme", ":path"])
def test_heads_need_their_pseudo_headers(missing: str) -> None:
    headers = [pair for pair in HEADERS if pair[0] != missing]
    assert refused(Link(answers=False), frame(HEAD, 5, 1, block(headers=headers))) == PROTOCOL_ERROR


@pytest.mark.parametrize("body", [b"x", b"xyz"])
def test_a_body_unlike_its_length_ends_the_stream(body: bytes) -> None:
    head = frame(HEAD, END_HEADERS, 1, block(("content-length", "2")))
    assert refused(Link(answers=False), head, frame(DATA, END_STREAM, 1, body)) == PROTOCOL_ERROR


def test_more_than_the_window_ends_the_stream() -> None:
    link = Link(answers=False)
    link.raw(frame(HEAD, END_HEADERS, 1, block()))
    link.session.streams[1].wants_more = False  # nobody takes what comes
    full = [frame(DATA, 0, 1, b"x" * 16_384)] * (http2_stream.WINDOW_BYTES // 16_384)
    link.raw(*full)
    assert link.resets() == {}
    assert refused(link, frame(DATA, 0, 1, b"y" * 100)) == FLOW_CONTROL_ERROR
    assert link.session.budget.held == 0


def test_a_stream_window_that_overflows_ends_the_stream() -> None:
    sent = [frame(HEAD, END_HEADERS, 1, block())] + [frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff")] * 2
    assert refused(Link(answers=False), *sent) == FLOW_CONTROL_ERROR


def test_data_behind_the_end_of_an_open_stream() -> None:
    link = Link(answers=False)
    assert refused(link, frame(HEAD, 5, 1, block()), frame(DATA, 1, 1, b"x")) == STREAM_CLOSED
    assert link.receivers[0].told[-1] == "left"


def test_trailers_end_the_body_and_mean_nothing() -> None:
    link = Link(answers=False)
    trailers = hpack.Encoder().encode([("authorization", "Bearer stolen"), ("host", "elsewhere")])
    link.raw(frame(HEAD, END_HEADERS, 1, block()), frame(DATA, 0, 1, b"x" * 100), frame(HEAD, 5, 1, trailers))
    stream = link.receivers[0].stream
    assert stream.is_whole
    assert stream.head.headers.get(b"authorization") is None
    assert stream.head.headers[b"host"] == b"localhost"


def test_trailers_that_end_nothing_are_malformed() -> None:
    trailers = hpack.Encoder().encode([("x-a", "b")])
    sent = [frame(HEAD, END_HEADERS, 1, block()), frame(HEAD, END_HEADERS, 1, trailers)]
    assert refused(Link(answers=False), *sent) == PROTOCOL_ERROR


def test_pseudo_headers_in_trailers_are_malformed() -> None:
    trailers = hpack.Encoder().encode([(":path", "/other")])
    assert refused(Link(answers=False), frame(HEAD, 4, 1, block()), frame(HEAD, 5, 1, trailers)) == PROTOCOL_ERROR


def test_late_frames_of_a_stream_that_we_ended_are_no_fault() -> None:
    link = Link(answers=False)
    link.raw(frame(HEAD, END_HEADERS, 1, block()))
    link.receivers[0].stream.end(b"\x88")
    link.exchange()
    trailers = hpack.Encoder().encode([("x-a", "b")])
    late = [frame(DATA, 0, 1, b"late"), frame(WINDOW, 0, 1, b"\0\0\0\1"), frame(RST, 0, 1, b"\0\0\0\x08")]
    link.raw(*late, frame(HEAD, 5, 1, trailers))
    assert link.farewell is None
    assert link.resets()[1] == NO_ERROR  # the rest of the request is not wanted


# --- limits that only cost the request


def test_streams_above_the_limit_are_refused() -> None:
    link = Link(answers=False)
    link.raw(*[frame(HEAD, END_HEADERS, number, block()) for number in range(1, 2 * http2.MAX_STREAMS + 2, 2)])
    assert len(link.session.streams) == http2.MAX_STREAMS
    assert link.resets() == {2 * http2.MAX_STREAMS + 1: REFUSED_STREAM}
    assert link.farewell is None


def test_before_it_knows_our_settings_a_client_may_open_more() -> None:
    link = Link(answers=False, greets=False)
    early = b"".join(frame(HEAD, END_HEADERS, number, block()) for number in range(1, 601, 2))
    link.connection.data_received(http2_frames.PREFACE + frame(SETTINGS, 0, 0) + early)
    assert len(link.session.streams) == 300
    assert not link.session.is_closing


def test_heads_above_the_limits_are_told_to_the_application() -> None:
    link = Link(Settings(max_header_bytes=2000, max_headers=20), answers=False)
    link.raw(frame(HEAD, 5, 1, block(("x-long", "x" * 2000))))
    link.raw(frame(HEAD, 5, 3, block(*[(f"x-{i}", "y") for i in range(30)])))
    link.raw(frame(HEAD, 5, 5, block(("authorization", "a"), ("authorization", "b"))))
    problems = [receiver.stream.head.problem for receiver in link.receivers]
    assert [type(problem) for problem in problems] == [TooLarge, TooLarge, InvalidInput]
    assert "max_header_bytes=2000" in str(problems[0])
    assert link.farewell is None


def test_a_bomb_of_headers_ends_the_connection() -> None:
    link = Link(answers=False)
    link.raw(frame(HEAD, 5, 1, block() + b"\x40\x01a\x7f\xd1\x1e" + b"x" * 4048))  # one large entry for the table ...
    bomb = block() + bytes((0x80 | 62,)) * 15_000  # ... and each byte stands for it
    link.raw(frame(HEAD, 5, 3, bomb))
    assert link.farewell is not None
    assert link.farewell[0] == ENHANCE_YOUR_CALM
    assert b"max_header_bytes" in link.farewell[1]


def test_a_header_block_in_many_continuations_is_bounded() -> None:
    link = Link(Settings(max_header_bytes=20_000), answers=False)
    part = b"\x00\x01a\x7f\x81\x7f" + b"x" * 16_300
    link.raw(frame(HEAD, 0, 1, block()), *[frame(CONTINUATION, 0, 1, part[:16_384])] * 3)
    assert link.farewell is not None
    assert link.farewell[0] == ENHANCE_YOUR_CALM


# --- slow readers and much data


def test_a_reader_without_window_loses_its_answer_at_a_deadline() -> None:
    link = Link(Settings(write_timeout_s=5.0))
    link.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    link.exchange()
    number = link.ask(b"x" * 1000)
    link.exchange()
    stream = link.receivers[0].stream
    assert stream.unsent
    for _ in range(4):
        link.client.increment_flow_control_window(1, number)  # a byte a second extends nothing
        link.exchange()
        link.clock.pass_time(1.5)
    link.exchange()
    assert link.resets() == {number: CANCEL}
    assert (link.session.unsent_bytes, link.session.budget.held) == (0, 0)
    assert link.receivers[0].told[-1] == "left"


def test_a_socket_that_takes_nothing_is_cut_at_a_deadline() -> None:
    link = Link(Settings(write_timeout_s=5.0))
    link.connection.pause_writing()
    assert not link.pipe.is_reading
    link.clock.pass_time(4)
    assert not link.pipe.is_aborted
    link.clock.pass_time(2)
    assert link.pipe.is_aborted


def test_answers_wait_while_the_socket_is_full_and_go_on_after_it() -> None:
    link = Link()
    link.connection.pause_writing()
    number = link.ask(b"x" * 100)
    link.exchange()
    assert link.answer(number) is None
    link.connection.resume_writing()
    link.exchange()
    assert link.answer(number) == b"x" * 100


def test_unread_answers_are_bounded() -> None:
    link = Link(answers=False)
    link.ask(b"x")
    link.exchange()
    stream = link.receivers[0].stream
    assert stream.has_room(http2_stream.MAX_UNREAD_BYTES * 2)  # one always may
    link.connection.pause_writing()
    link.pipe.unsent = 10
    assert stream.has_room(http2_stream.MAX_UNREAD_BYTES - 10)
    assert not stream.has_room(http2_stream.MAX_UNREAD_BYTES - 9)


def test_many_large_bodies_share_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_budget, "MAX_HELD_BYTES", 4 * http2_stream.WINDOW_BYTES)
    link = Link(answers=True)
    size = 6 * http2_stream.WINDOW_BYTES
    numbers = {link.ask(b"", end=False): size for _ in range(12)}
    link.client.increment_flow_control_window(1 << 30)
    link.exchange()
    most = 0
    while numbers:
        moved = False
        for number, left in list(numbers.items()):
            room = min(left, link.client.local_flow_control_window(number), 16_384)
            if room:
                link.client.send_data(number, b"x" * room, end_stream=room == left)
                numbers[number] -= room
                moved = True
            if numbers[number] == 0:
                del numbers[number]
            link.take_answers()
            most = max(most, link.session.budget.held)
        assert moved, "nobody may send, and nobody is done"
    assert most <= 4 * http2_stream.WINDOW_BYTES + 12 * http2_stream.WINDOW_BYTES + size
    link.take_answers()
    assert link.session.budget.held == 0
    assert all(receiver.stream.received == size for receiver in link.receivers)


def test_a_receiver_that_wants_no_more_holds_its_peer_back() -> None:
    link = Link(answers=False)
    number = link.ask(b"", end=False)
    link.exchange()
    stream = link.receivers[0].stream
    stream.wants_more = False
    window = http2_stream.WINDOW_BYTES
    while room := min(link.client.local_flow_control_window(number), 16_384):
        link.client.send_data(number, b"x" * room)
        window -= room
        link.exchange()
    assert link.client.local_flow_control_window(number) == 0
    stream.body = b""
    stream.want(more=True)
    stream.took(stream.held)
    link.exchange()
    assert link.client.local_flow_control_window(number) > 0


# --- the end


def test_draining_takes_what_is_on_its_way_and_nothing_later() -> None:
    link = Link(answers=False)
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 1, block()))
    link.server.drain()
    link.raw(frame(HEAD, END_HEADERS | END_STREAM, 3, block()))  # sent before the client could know
    assert len(link.receivers) == 2
    ping = next(one for one in link.frames if isinstance(one, frames.PingFrame))
    link.raw(frame(PING, ACK, 0, ping.opaque_data))
    farewells = [one.last_stream_id for one in link.frames if isinstance(one, frames.GoAwayFrame)]
    assert farewells == [2**31 - 1, 3]
    assert link.receivers[0].told[-1] == "stop"
    for receiver in link.receivers:
        assert not link.pipe.has_eof
        receiver.stream.send(b"\x88", b"late", b"\x00\x01a\x01b")
    assert link.pipe.has_eof


def test_draining_does_not_wait_for_peers_that_answer_no_ping() -> None:
    link = Link()
    link.server.drain()
    link.clock.pass_time(http2_session.LINGER_S + 0.1)
    assert link.session.is_leaving
    assert link.pipe.has_eof


def test_a_peer_that_hangs_up_cancels_its_streams() -> None:
    link = Link(answers=False)
    link.ask(b"x")
    link.exchange()
    link.connection.connection_lost(None)
    assert link.receivers[0].told[-1] == "left"
    assert link.receivers[0].stream.is_closed
    assert link.server.connections == set()


def test_a_fault_of_ours_ends_the_connection_and_is_told() -> None:
    link = Link()

    def broken(stream: object) -> None:
        raise RuntimeError("broken")

    link.server.open = broken  # type: ignore[assignment]
    link.ask(b"x")
    link.exchange()
    assert link.farewell is not None
    assert [str(fault) for fault in link.faults] == ["broken"]


def test_an_answer_that_was_held_back_is_told_and_its_end_is_said_once() -> None:
    link = Link(answers=False)
    link.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    link.exchange()
    number = link.ask(b"x", end=False)
    link.exchange()
    stream = link.receivers[0].stream
    stream.send(b"\x88", b"0123456789abc", None)
    stream.send(b"\x88", b"", b"\x00\x01a\x01b")
    stream.send(b"\x88", b"never", b"\x00\x01a\x01b")  # nothing follows the end, though it has not left
    link.exchange()
    assert stream.is_ended
    assert not stream.is_closed
    link.client.increment_flow_control_window(10, number)
    link.exchange()
    assert link.answer(number) == b"0123456789abc"
    assert "sent" in link.receivers[0].told
    assert stream.is_closed
