"""Hostile messages of gRPC: the documented status comes back, and the next one is answered."""

from __future__ import annotations

import gzip
import os
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from kit.every_kind import grpc_message, plan_of, rows_of
from kit.gateway import Gateway, gateway
from kit.graphs import store_graph, total
from kit.grpc import Caller, caller, infer
from kit.tensor_versions import store_identity
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.serve.grpc_messages import message_class

pytestmark = pytest.mark.hostile

INVALID, EXHAUSTED = 3, 8
INFER = message_class("inference.ModelInferRequest")
STREAMED = message_class("inference.ModelStreamInferResponse")
HUGE, LARGEST = 1 << 40, (1 << 63) - 1
FLOATS = {"name": "in_FP32", "datatype": "FP32"}
WORDS = {"name": "in_BYTES", "datatype": "BYTES"}
ONE = [{**FLOATS, "shape": [1, 1, 1, 1]}, {**WORDS, "shape": [1, 1, 1, 1]}]
TEXT = b"\1\0\0\0a"
FLOAT = b"\0\0\x80\x3f"


def message(inputs: list[dict[str, Any]], raw: list[bytes], **more: Any) -> bytes:
    data: bytes = INFER(model_name="free", inputs=inputs, raw_input_contents=raw, **more).SerializeToString()
    return data


def floats(*shape: int) -> list[dict[str, Any]]:
    return [{**FLOATS, "shape": list(shape)}, ONE[1]]


def parameter(name: str, **value: Any) -> dict[str, Any]:
    """One parameter of a request or an output."""
    return {"parameters": {name: value}}


CASES: dict[str, tuple[bytes, int, str]] = {
    "dimensions whose product is 2^64": (message(floats(1 << 32, 1 << 32, 1, 1), [b"", TEXT]), INVALID, "no memory"),
    "dimensions of 2^63": (message(floats(LARGEST, LARGEST, LARGEST, LARGEST), [FLOAT, TEXT]), INVALID, "no memory"),
    "no element, of dimensions that no memory holds": (
        message(floats(1, HUGE, HUGE, 0), [b"", TEXT]), INVALID, "no memory"
    ),
    "the same in typed contents": (message(floats(1, HUGE, HUGE, 0), []), INVALID, "no memory"),
    "the least dimension there is": (message(floats(-LARGEST - 1, 1, 1, 1), [FLOAT, TEXT]), INVALID, "negative"),
    "a million million texts in four bytes": (
        message([{**WORDS, "shape": [HUGE]}], [b"\0\0\0\0"]), INVALID, "fewer elements"
    ),
    "a text of four gigabytes": (message(ONE, [FLOAT, b"\xff\xff\xff\xffa"]), INVALID, "longer than the data"),
    "a text cut off": (message(ONE, [FLOAT, b"\1\0"]), INVALID, ""),
    "bytes for nobody": (message(ONE, [FLOAT, TEXT, b"more"]), INVALID, "one for each"),
    "fewer bytes than the shape needs": (message(floats(1000, 1, 1, 1), [FLOAT, TEXT]), INVALID, "4000"),
    "no rows": (message(floats(0, 1, 1, 1), [b"", TEXT]), INVALID, ""),
    "an input twice": (message([ONE[0], ONE[0]], [FLOAT, FLOAT]), INVALID, "twice"),
    "an output twice": (
        message(ONE, [FLOAT, TEXT], outputs=[{"name": "out_FP32"}] * 2), INVALID, "requested twice"
    ),
    "contents and raw contents": (
        message([{**ONE[0], "contents": {"fp32_contents": [1.0]}}, ONE[1]], [FLOAT, TEXT]), INVALID, "one of both"
    ),
    "contents of another datatype": (
        message([{**ONE[0], "contents": {"int_contents": [1]}}, ONE[1]], []), INVALID, "fp32_contents"
    ),
    "an unknown datatype with a NUL": (message([{**ONE[0], "datatype": "FP32\0"}], [FLOAT]), INVALID, "datatype"),
    "an endless name": (message([{**ONE[0], "name": "x" * 50_000}], [FLOAT]), INVALID, ""),
    "five thousand inputs": (
        message([{**FLOATS, "name": f"i{at}", "shape": [1]} for at in range(5000)], [FLOAT] * 5000), INVALID, "4096"
    ),
    "a timeout that is a text": (message(ONE, [FLOAT, TEXT], **parameter("timeout", string_param="1")), INVALID, ""),
    "a timeout below nothing": (message(ONE, [FLOAT, TEXT], **parameter("timeout", int64_param=-1)), INVALID, ""),
    "a timeout that is not a number": (
        message(ONE, [FLOAT, TEXT], **parameter("timeout", double_param=float("nan"))), INVALID, ""
    ),
    "a parameter without a value": (message(ONE, [FLOAT, TEXT], parameters={"a": {}}), INVALID, "no value"),
    "a sequence": (message(ONE, [FLOAT, TEXT], **parameter("sequence_id", uint64_param=7)), INVALID, "stateful"),
    "shared memory": (
        message(ONE, [FLOAT, TEXT], **parameter("shared_memory_region", string_param="r")), INVALID, "shared memory"
    ),
    "classes without end": (
        message(ONE, [FLOAT, TEXT], outputs=[{"name": "out_FP32", **parameter("classification", int64_param=LARGEST)}]),
        INVALID, "",
    ),
    "more rows than the limit": (message(floats(3000, 1, 1, 1), [FLOAT * 3000, TEXT]), INVALID, ""),
    "groups that never end": (b"\x0b" * 100_000, INVALID, ""),
    "lengths beyond the message": (b"\x0a\xff\xff\xff\xff\x0f", INVALID, ""),
    "a name that is not UTF-8": (b"\x0a\x02\xff\xfe", INVALID, ""),
}  # fmt: skip


@pytest.fixture(scope="module", params=[64 * 1024, 40], ids=["by the worker", "by the bulk worker"])
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("messages") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    free = store_identity(shelf, ("FP32", "BYTES"), (-1, -1, -1, -1), name="free")
    digests = {"free": free, "matrix": store_graph(shelf, total(), "matrix", "matrix")}
    limits = {"max_inflated_bytes": 1_000_000, "max_rows": 2000, "workers": 1, "bulk_bytes": request.param}
    with gateway(root, plan_of(digests), **limits) as one:
        yield one
        assert '"fault"' not in one.log.read_text()
        state = one.state()
        assert state is not None
        assert state.restarts == ()


@pytest.fixture(scope="module")
def line(running: Gateway) -> Iterator[Caller]:
    with caller(running.grpc_port) as one:
        yield one


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_message_is_refused_and_the_next_is_answered(line: Caller, name: str) -> None:
    data, status, says = CASES[name]
    reply = line.call("ModelInfer", data)
    assert (reply.status, reply.code) == (status, "invalid_input"), reply.text
    assert says in reply.text
    good(line)


@pytest.mark.parametrize("name", CASES)
def test_a_stream_outlives_it(line: Caller, name: str) -> None:
    number = line.open("ModelStreamInfer")
    line.send(number, CASES[name][0])
    line.send(number, message(ONE, [FLOAT, TEXT]), end=True)
    first, second = (STREAMED.FromString(one) for one in line.wait(number).messages())
    assert first.error_message
    assert second.infer_response.raw_output_contents == [FLOAT, TEXT]


BOMB = gzip.compress(b"\0" * 50_000_000)
PACKED = {
    "a bomb": ("gzip", BOMB, EXHAUSTED, "max_inflated_bytes=1000000"),
    "a bomb in a bomb": ("gzip", gzip.compress(BOMB), INVALID, "is not a"),
    "a bomb of zlib": ("deflate", zlib.compress(b"\0" * 50_000_000), EXHAUSTED, "max_inflated_bytes"),
    "cut gzip": ("gzip", gzip.compress(os.urandom(1000))[:-9], INVALID, "cut off"),
    "gzip and more": ("gzip", gzip.compress(b"a") + b"more", INVALID, ""),
    "bombs one behind the other": ("gzip", BOMB + BOMB, EXHAUSTED, ""),
    "deflate said and gzip sent": ("deflate", gzip.compress(b"a"), INVALID, ""),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_message_may_not_grow_without_end(line: Caller, name: str) -> None:
    coding, data, status, says = PACKED[name]
    number = line.open("ModelInfer", {"grpc-encoding": coding})
    line.send(number, data, end=True, flag=1)
    reply = line.wait(number)
    assert reply.status == status, reply.text
    assert says in reply.text
    good(line)


def test_empty_tensors_are_tensors(line: Caller) -> None:
    inputs = [{**FLOATS, "shape": [2, 0, 3, 1]}, {**WORDS, "shape": [2, 3, 0, 1]}]
    answer = infer(line.call("ModelInfer", message(inputs, [b"", b""])))
    assert [list(one.shape) for one in answer.outputs] == [[2, 0, 3, 1], [2, 3, 0, 1]]
    assert list(answer.raw_output_contents) == [b"", b""]


def test_a_known_request_with_other_numbers_is_held_to_the_contract_each_time(line: Caller) -> None:
    """The quick way of repeated requests: what begins like a good one must not pass as one."""
    rows = rows_of("matrix", random.Random(1), 3)
    data = grpc_message("matrix", rows, []).SerializeToString()
    for _ in range(3):
        assert infer(line.call("ModelInfer", data)).outputs[0].shape == [3]
    for bad in (float("inf"), 1e39, float("nan")):
        wrong = rows["rows"].copy().astype(object)
        wrong[2, 0] = bad
        packed = b"".join(struct.pack("<f", min(value, 3.4e38) if value == 1e39 else value) for value in wrong.ravel())
        reply = line.call("ModelInfer", data[: -len(packed)] + packed)
        assert reply.status == (0 if bad == 1e39 else INVALID), (bad, reply.text)
    assert infer(line.call("ModelInfer", data)).outputs[0].shape == [3]


def good(line: Caller) -> None:
    """The next caller is answered."""
    assert infer(line.call("ModelInfer", message(ONE, [FLOAT, TEXT]))).raw_output_contents == [FLOAT, TEXT]
