"""Every row of the table: hostile frames in, the documented answer out, and the next caller is answered."""

from __future__ import annotations

import gzip
import socket
import struct
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h2.errors
import hpack
import hyperframe.frame as frames
import numpy as np
import pytest

from kit.gateway import Gateway, gateway
from kit.graphs import store_graph, total
from kit.grpc import caller, infer
from kit.http2 import frame
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.secure.keys import digest_of
from modelyard.serve.grpc_messages import message_class

pytestmark = [pytest.mark.hostile, pytest.mark.xdist_group("hostile_frames")]

CASES = tomllib.loads((Path(__file__).parent / "frames/grpc.toml").read_text("utf-8"))["case"]
KEY = "my_key_of_the_hostile_frames"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TYPES = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE",
         "CONTINUATION"]  # fmt: skip
FLAGS = {"-": 0, "END_STREAM": 1, "END_HEADERS": 4, "PADDED": 8, "PRIORITY": 32}
CODES = [code.name for code in h2.errors.ErrorCodes]
HEAD = {":method": "POST", ":scheme": "http", ":path": "/inference.GRPCInferenceService/ModelInfer",
        ":authority": "localhost", "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
OTHER = {"path:": ":path", "authority:": ":authority", "type:": "content-type"}


def request(**fields: Any) -> Any:
    data = np.array([[1, 2]], dtype="<f4").tobytes()
    tensor = {"name": "rows", "datatype": "FP32", "shape": [1, 2]}
    kind = message_class("inference.ModelInferRequest")
    return kind(**{"model_name": "sums", "inputs": [tensor], "raw_input_contents": [data], **fields})


def message(data: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(data)) + data


WORDS = {
    "$GOOD": message(request().SerializeToString()),
    "$BOMB": message(gzip.compress(b"\0" * 2_000_000), 1),
    "$LONG": message(request(model_name="x" * 15_000).SerializeToString()),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("hostile_frames") / "home"
    digest = store_graph(Shelf(Home(root).prepare().shelf), total(), "sums", "matrix")
    endpoint = PlannedEndpoint("sums", "sums", (PlannedVersion(1, digest),), TrafficSplit({1: 100}))
    key = PlannedKey("k1", digest_of(KEY), "tester", ("infer",))
    limits = {"header_timeout_s": 1, "body_timeout_s": 1, "idle_timeout_s": 3, "max_inflated_bytes": 1_000_000}
    with gateway(root, ServingPlan(1, 0.0, (endpoint,), (key,), require_keys=True), **limits) as one:
        yield one


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_hostile_frames(running: Gateway, case: dict[str, Any]) -> None:
    with socket.create_connection(("127.0.0.1", running.grpc_port), timeout=10) as line:
        said = converse(line, case)
    goaways = [one.error_code for one in said if isinstance(one, frames.GoAwayFrame)]
    resets = {one.stream_id: one.error_code for one in said if isinstance(one, frames.RstStreamFrame)}
    if "goaway" in case:
        assert [CODES[code] for code in goaways] == [case["goaway"]]
    else:
        assert goaways == []
        check_answer(case, said, resets)
    with caller(running.grpc_port, x_api_key=KEY) as next_one:
        assert infer(next_one.call("ModelInfer", request())).raw_output_contents == [struct.pack("<f", 3.0)]


def check_answer(case: dict[str, Any], said: list[frames.Frame], resets: dict[int, int]) -> None:
    if "reset" in case:
        assert CODES[resets[1]] == case["reset"]
        return
    fields: dict[str, str] = {}
    decoder = hpack.Decoder()
    for one in said:
        if isinstance(one, frames.HeadersFrame):
            decoded = decoder.decode(one.data)
            fields |= {str(name): str(value) for name, value in decoded} if one.stream_id == 1 else {}
    if "http" in case:
        assert fields[":status"] == str(case["http"])
        return
    text = unquote(fields["grpc-message"])
    assert fields["grpc-status"] == str(case["status"]), text
    assert fields["modelyard-code"] == case.get("code", fields["modelyard-code"])
    assert case.get("says", "") in text
    assert "never" not in case or case["never"] not in text


def test_there_are_at_least_fifty_cases() -> None:
    assert len(CASES) >= 50


def test_no_worker_died_of_it(running: Gateway) -> None:
    state = running.state()
    assert state is not None
    assert state.restarts == ()


# --- the table's language


def converse(line: socket.socket, case: dict[str, Any]) -> list[frames.Frame]:
    """Send what the case says; all frames that came until its answer was there."""
    try:
        if "raw" in case:
            text = case["raw"]
            line.sendall(bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode())
        else:
            line.sendall(PREFACE + frame(4, 0, 0))
            sent = [written(text) for text in case.get("send", [])]
            if "rapid" in case:
                sent = [opened_and(case["rapid"], 2 * at + 1) for at in range(case["times"])]
            elif "drips" not in case:
                sent += sent[-1:] * (case.get("times", 1) - 1)
            line.sendall(b"".join(sent))
            for _ in range(case.get("drips", 0)):
                time.sleep(0.15)  # the attack itself: a trickle that keeps below every idle limit
                line.sendall(sent[-1])
    except (BrokenPipeError, ConnectionResetError):
        pass  # the gateway may close before it has read a flood to its end
    return read(line, is_over=lambda one: ends(one, case))


def ends(one: frames.Frame, case: dict[str, Any]) -> bool:
    if "goaway" in case:
        return isinstance(one, frames.GoAwayFrame)
    is_answer = isinstance(one, frames.HeadersFrame) and "END_STREAM" in one.flags
    return one.stream_id == 1 and (is_answer or ("reset" in case and isinstance(one, frames.RstStreamFrame)))


def read(line: socket.socket, is_over: Any) -> list[frames.Frame]:
    found: list[frames.Frame] = []
    data = b""
    while True:
        while len(data) >= 9:
            if data.startswith(b"HTTP/1.1 505") and b"gateway_port.\n" in data:  # told to whoever speaks HTTP/1.1
                data = data.partition(b"gateway_port.\n")[2]
                continue
            one, length = frames.Frame.parse_frame_header(memoryview(data)[:9])
            if len(data) < 9 + length:
                break
            one.parse_body(memoryview(data)[9 : 9 + length])
            data = data[9 + length :]
            found.append(one)
            if is_over(one):
                return found
        try:
            more = line.recv(65536)
        except ConnectionResetError:
            return found
        if not more:
            return found
        data += more


def opened_and(text: str, number: int) -> bytes:
    return written(f"HEADERS END_HEADERS {number} $HEAD") + written(text.replace(" N ", f" {number} "))


def written(text: str) -> bytes:
    kind, flags, number, *words = text.split(" ")
    bits = sum(FLAGS[flag] for flag in flags.split("+"))
    return frame(TYPES.index(kind) if kind in TYPES else int(kind), bits, int(number), payload(words))


def payload(words: list[str]) -> bytes:
    head = dict(HEAD)
    for word in words:
        for prefix, name in OTHER.items():
            if word.startswith(prefix):
                head[name] = word.removeprefix(prefix)
    return b"".join(value(word, head) for word in words)


def value(word: str, head: dict[str, str]) -> bytes:
    kind, _, rest = word.partition(":")
    if word in WORDS:
        return WORDS[word]
    if word in ("$HEAD", "$OPEN"):
        return block(head | ({"x-api-key": KEY} if word == "$HEAD" else {}))
    if kind == "hex":
        return bytes.fromhex(rest)
    if kind == "repeat":
        times, _, what = rest.partition(":")
        return value(what, head) * int(times)
    if kind == "field":
        name, _, said = rest.rpartition("=")
        return block({name: said.replace("$KEY", KEY)})
    assert f"{kind}:" in OTHER, word
    return b""


def block(fields: dict[str, str]) -> bytes:
    """A header block that uses no table."""
    return hpack.Encoder().encode([(name, said, True) for name, said in fields.items()], huffman=False)
