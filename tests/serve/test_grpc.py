"""The gRPC edge against a real gateway: the same answers, errors and rules as REST, in the protocol's messages."""

from __future__ import annotations

import gzip
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.gateway import Gateway, endpoint, gateway, until
from kit.graphs import store_graph, total
from kit.grpc import Caller, Reply, caller, infer
from kit.tensor_versions import store_identity
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import all_errors
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey, ServingPlan
from modelyard.contract.tensor import NUMPY_TYPES
from modelyard.contract.wire import GRPC_STATUS, HTTP_STATUS
from modelyard.secure.keys import digest_of
from modelyard.serve.counters import exposition
from modelyard.serve.grpc_messages import POOL, message_class

pytestmark = pytest.mark.xdist_group("grpc")

REQUEST = message_class("inference.ModelInferRequest")
STREAM_RESPONSE = message_class("inference.ModelStreamInferResponse")
OK, INVALID, LATE, NOT_FOUND, FORBIDDEN, EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE, UNAUTHENTICATED = (
    0, 3, 4, 5, 7, 8, 12, 14, 16,
)  # fmt: skip
KEY, OTHER, METERED, EXPIRED = "my_key_of_grpc", "my_other_key", "my_metered_key", "my_expired_key"
TYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64",
    "BYTES",
)  # fmt: skip
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
COLUMNS = {"age": "INT64", "income": "FP64", "home": "BYTES", "job": "BYTES", "guarantor": "BOOL"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("grpc") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    endpoints = (
        endpoint("loans", store(shelf), store(shelf, base=0.5)),
        endpoint("sums", store_graph(shelf, total(), "sums", "matrix")),
        endpoint("same", store_identity(shelf, TYPES, (-1, 2))),
        endpoint("typed", store_identity(shelf, tuple(CONTENTS), (-1, 2), name="typed")),
        endpoint("one", store_identity(shelf, ("FP32",), (-1, 3), name="one")),
        endpoint("set_aside", store_identity(shelf, ("FP32",), (-1, 5), name="set_aside")),
    )
    keys = (
        PlannedKey("k1", digest_of(KEY), "tester", ("infer", "repository")),
        PlannedKey("k2", digest_of(OTHER), "narrow", ("infer:loans",)),
        PlannedKey("k3", digest_of(METERED), "metered", ("infer",), rows_per_second=0.01, burst_rows=3),
        PlannedKey("k4", digest_of(EXPIRED), "gone", ("infer",), expires_at=1.0),
    )
    first = ServingPlan(1, 0.0, endpoints, keys, require_keys=True)
    with gateway(root, first, max_inflated_bytes=200_000, max_body_bytes=500_000, max_rows=5000) as one:
        yield one


@pytest.fixture
def line(running: Gateway) -> Iterator[Caller]:
    with caller(running.grpc_port, x_api_key=KEY) as one:
        yield one


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **({"contents": contents} if contents else {})}


def sums(rows: list[list[float]], **more: Any) -> Any:
    data = np.array(rows, dtype="<f4")
    inputs = [tensor("rows", "FP32", list(data.shape))]
    return REQUEST(model_name="sums", inputs=inputs, raw_input_contents=[data.tobytes()], **more)


def loans(rows: list[dict[str, Any]], **more: Any) -> Any:
    inputs = []
    for name, datatype in COLUMNS.items():
        values = [row[name].encode() if datatype == "BYTES" else row[name] for row in rows]
        inputs.append(tensor(name, datatype, [len(rows)], **{CONTENTS[datatype]: values}))
    return REQUEST(model_name="loans", inputs=inputs, **more)


def outputs(reply: Reply) -> dict[str, Any]:
    """The answer's numeric outputs."""
    answer = infer(reply)
    kinds = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "UINT8": "u1", "BOOL": "?"}
    return {
        output.name: np.frombuffer(raw, kinds[output.datatype]).reshape(output.shape)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        if output.datatype in kinds
    }


# --- inference


def test_a_table_is_answered_as_rest_answers_it(running: Gateway, line: Caller) -> None:
    rows = [CONTRACT.example, CONTRACT.example | {"age": 60, "home": "owner"}]
    reply = line.call("ModelInfer", loans(rows, id="42"))
    answer = infer(reply)
    assert (answer.id, answer.model_name, answer.model_version) == ("42", "loans", "2")
    assert [output.name for output in answer.outputs] == ["probability", "score", "decision"]
    assert outputs(reply)["probability"] == pytest.approx([expected(row, 0.5) for row in rows], rel=1e-6)
    assert reply.trailers["modelyard-request-id"] == answer.parameters["request_id"].string_param
    body = {"inputs": [
        {"name": name, "datatype": kind, "shape": [2], "data": [row[name] for row in rows]}
        for name, kind in COLUMNS.items()
    ]}  # fmt: skip
    rest = running.post("/v2/models/loans/infer", body, headers={"X-API-Key": KEY}).json()
    assert rest["outputs"][0]["data"] == outputs(reply)["probability"].tolist()
    assert rest["outputs"][1]["data"] == outputs(reply)["score"].tolist()


def test_the_same_message_with_other_numbers_is_read_anew(line: Caller) -> None:
    """From the second on only the numbers are looked at; the answers are those of the general way."""
    chance = random.Random(7)
    for at in range(40):
        rows = [[chance.uniform(-9, 9), chance.uniform(-9, 9)] for _ in range(1 + at % 3)]
        said = outputs(line.call("ModelInfer", sums(rows)))["total"]
        assert said == pytest.approx(np.array(rows, dtype=np.float32).sum(axis=1), abs=1e-5)
        other = np.array([[at, at + 1, at + 2]], dtype="<f4")
        inputs = [tensor("in_FP32", "FP32", [1, 3])]
        request = REQUEST(model_name="one", inputs=inputs, raw_input_contents=[other.tobytes()])
        assert (outputs(line.call("ModelInfer", request))["out_FP32"] == other).all()


def test_a_known_beginning_does_not_let_bad_numbers_or_another_length_pass(line: Caller) -> None:
    good = sums([[1, 2]])
    for _ in range(3):
        assert line.call("ModelInfer", good).status == OK
    refused = line.call("ModelInfer", sums([[float("nan"), 2.0]]))  # x may not be missing
    assert refused.status == INVALID
    short = REQUEST.FromString(good.SerializeToString())
    short.raw_input_contents[0] = b"1234"
    assert line.call("ModelInfer", short).status == INVALID
    assert outputs(line.call("ModelInfer", good))["total"] == [3.0]


def test_every_datatype_comes_back_bit_for_bit(line: Caller) -> None:
    sizes = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4, "INT32": 4,
             "FP32": 4}  # fmt: skip
    raw = {name: bytes(range(1, 1 + 4 * sizes.get(name, 8))) for name in TYPES}
    raw["BOOL"] = bytes((1, 0, 0, 1))
    raw["BYTES"] = b"".join(struct.pack("<I", len(text)) + text for text in (b"a", b"", "é".encode(), b"text"))
    inputs = [tensor(f"in_{name}", name, [2, 2]) for name in TYPES]
    answer = infer(line.call("ModelInfer", REQUEST(model_name="same", inputs=inputs, raw_input_contents=raw.values())))
    said = {output.name: data for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)}
    assert said == {f"out_{name}": raw[name] for name in TYPES}
    assert [output.datatype for output in answer.outputs] == list(TYPES)


def test_typed_contents_say_the_same(line: Caller) -> None:
    values: dict[str, list[Any]] = {name: [0, 1, 1, 0] for name in CONTENTS}
    values |= {"INT8": [-128, 127, 0, 1], "UINT16": [65535, 0, 1, 2], "UINT64": [2**64 - 1, 0, 1, 2]}
    values |= {"FP64": [0.1, -1e300, 0, 1], "BYTES": [b"a", "é".encode(), b"", b"c"], "BOOL": [True, False, True, True]}
    inputs = [tensor(f"in_{name}", name, [2, 2], **{CONTENTS[name]: values[name]}) for name in CONTENTS]
    answer = infer(line.call("ModelInfer", REQUEST(model_name="typed", inputs=inputs)))
    said = {output.name: raw for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}
    for name, sent in values.items():
        raw = (
            b"".join(struct.pack("<I", len(text)) + text for text in sent)
            if name == "BYTES"
            else (np.array(sent, dtype=NUMPY_TYPES[name]).tobytes())
        )
        assert said[f"out_{name}"] == raw


@pytest.mark.parametrize(("name", "value"), [("INT8", 128), ("INT8", -129), ("UINT16", 65536), ("INT16", 1 << 20)])
def test_typed_contents_keep_to_the_range_of_their_datatype(line: Caller, name: str, value: int) -> None:
    bad = tensor(f"in_{name}", name, [1, 2], **{CONTENTS[name]: [0, value]})
    refused = line.call("ModelInfer", REQUEST(model_name="typed", inputs=[bad]))
    assert (refused.status, "range" in refused.text) == (INVALID, True)


def test_half_precision_travels_raw_only(line: Caller) -> None:
    half = tensor("in_FP16", "FP16", [1, 2], fp32_contents=[1, 2])
    refused = line.call("ModelInfer", REQUEST(model_name="same", inputs=[half]))
    assert (refused.status, "raw_input_contents" in refused.text) == (INVALID, True)


def test_outputs_may_be_chosen_and_versions_pinned(line: Caller) -> None:
    request = loans([CONTRACT.example], outputs=[{"name": "score"}], model_version="1")
    answer = infer(line.call("ModelInfer", request))
    assert ([output.name for output in answer.outputs], answer.model_version) == (["score"], "1")
    assert infer(line.call("ModelInfer", loans([CONTRACT.example], model_version="champion"))).model_version == "2"


def test_the_best_classes_are_named(line: Caller) -> None:
    data = np.array([[0.1, 0.7, 0.2]], dtype="<f4")
    request = REQUEST(
        model_name="one", inputs=[tensor("in_FP32", "FP32", [1, 3])], raw_input_contents=[data.tobytes()],
        outputs=[{"name": "out_FP32", "parameters": {"classification": {"int64_param": 2}}}],
    )  # fmt: skip
    answer = infer(line.call("ModelInfer", request))
    assert answer.outputs[0].datatype == "BYTES"
    assert list(answer.outputs[0].shape) == [1, 2]
    assert answer.raw_output_contents[0][4:].startswith(b"0.700000:1")


def one(datatype: str, shape: list[int], raw: bytes | None = None, /, *, name: str = "rows", **contents: Any) -> Any:
    """A request of one tensor to the model of sums."""
    inputs = [tensor(name, datatype, shape, **contents)]
    return REQUEST(model_name="sums", inputs=inputs, raw_input_contents=[] if raw is None else [raw])


def changed(request: Any, **fields: Any) -> Any:
    """The request with further fields."""
    request.MergeFrom(REQUEST(**fields))
    return request


RAW = b"12345678"
REGION = {"parameters": {"shared_memory_region": {"string_param": "r"}}}
WRONG: dict[str, tuple[Any, str]] = {
    "no inputs": (REQUEST(model_name="sums"), "no inputs"),
    "an input twice": (changed(one("FP32", [1, 2], RAW), inputs=[tensor("rows", "FP32", [1, 2])],
                               raw_input_contents=[RAW]), "twice"),
    "an unknown input": (changed(one("FP32", [1, 2], RAW, name="x"), model_name="one"), "unexpected inference input"),
    "an unknown datatype": (one("FP8", [1, 2]), "datatype"),
    "raw for some": (changed(one("FP32", [1, 2]), raw_input_contents=[RAW] * 2), "one for each, or none"),
    "raw and typed": (one("FP32", [1, 2], RAW, fp32_contents=[1, 2]), "one of both"),
    "contents of another type": (one("FP32", [1, 2], fp64_contents=[1, 2]), "fp32_contents"),
    "too few elements": (one("FP32", [2, 2], fp32_contents=[1, 2]), "2 elements"),
    "a negative dimension": (one("FP32", [-1, 2], b""), "none of them negative"),
    "an overflowing shape": (one("FP32", [1 << 40, 1 << 40], b""), "input 'rows'"),
    "another size": (one("FP32", [1, 2], RAW[1:]), "shape and datatype need 8"),
    "no row": (one("FP32", [0, 2], b""), "no row"),
    "an output twice": (sums([[1, 2]], outputs=[{"name": "total"}] * 2), "twice"),
    "an unknown output": (sums([[1, 2]], outputs=[{"name": "x"}]), "unexpected inference output"),
    "shared memory": (REQUEST(model_name="sums", inputs=[tensor("rows", "FP32", [1, 2]) | REGION],
                              raw_input_contents=[RAW]), "shared memory"),
    "a timeout that is none": (sums([[1, 2]], parameters={"timeout": {"string_param": "1"}}), "whole number"),
    "a sequence": (sums([[1, 2]], parameters={"sequence_id": {"int64_param": 7}}), "sequence"),
    "a parameter without value": (sums([[1, 2]], parameters={"p": {}}), "no value"),
    "a value outside the contract": (loans([CONTRACT.example | {"age": 17}]), "age"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_by_name(line: Caller, case: str) -> None:
    request, says = WRONG[case]
    reply = line.call("ModelInfer", request)
    assert (reply.status, reply.code) == (INVALID, "invalid_input")
    assert says in reply.text
    assert reply.headers["modelyard-request-id"]
    assert outputs(line.call("ModelInfer", sums([[1, 2]])))["total"] == [3.0]


def test_too_many_rows_are_too_large(line: Caller) -> None:
    reply = line.call("ModelInfer", sums([[1, 2]] * 5001))
    assert (reply.status, reply.code) == (EXHAUSTED, "too_large")
    assert "max_rows=5000" in reply.text


def test_many_rows_are_answered_in_order(line: Caller) -> None:
    rows = [[float(at), 1.0] for at in range(5000)]
    assert outputs(line.call("ModelInfer", sums(rows)))["total"].tolist() == [at + 1.0 for at in range(5000)]


def raw_loans(rows: list[dict[str, Any]], **more: Any) -> Any:
    """A table as tritonclient sends it: one raw tensor for each column."""
    inputs, raw = [], []
    for name, datatype in COLUMNS.items():
        inputs.append(tensor(name, datatype, [len(rows)]))
        values = [row[name] for row in rows]
        if datatype == "BYTES":
            raw.append(b"".join(struct.pack("<I", len(text)) + text.encode() for text in values))
        else:
            raw.append(np.array(values, dtype=NUMPY_TYPES[datatype]).tobytes())
    return REQUEST(model_name="loans", inputs=inputs, raw_input_contents=raw, **more)


def test_large_tables_are_answered_by_the_bulk_worker_as_small_ones_are_here(running: Gateway, line: Caller) -> None:
    rows = [CONTRACT.example | {"age": 18 + at % 80, "home": ("rent", "owner")[at % 2]} for at in range(4000)]
    large = raw_loans(rows, id="large", outputs=[{"name": "probability"}])
    assert len(large.SerializeToString()) > 65_536
    reply = line.call("ModelInfer", large)
    answer = infer(reply)
    assert (answer.id, answer.model_version) == ("large", "2")
    assert outputs(reply)["probability"] == pytest.approx([expected(row, 0.5) for row in rows], rel=1e-6)
    assert reply.trailers["modelyard-request-id"] == answer.parameters["request_id"].string_param
    state = running.state()
    assert state is not None
    assert len(state.workers) == 3  # two, and the bulk worker
    rows[3000]["age"] = 7
    refused = line.call("ModelInfer", raw_loans(rows))
    assert (refused.status, refused.code) == (INVALID, "invalid_input")
    assert "age" in refused.text
    unknown = raw_loans(rows, model_version="9")
    assert line.call("ModelInfer", unknown).status == NOT_FOUND
    number = line.open("ModelStreamInfer")
    line.send(number, large)
    line.send(number, sums([[1, 2]], id="small"))
    line.end(number)
    said = stream_answers(line.wait(number))
    assert [one.infer_response.id for one in said] == ["large", "small"]
    assert len(said[0].infer_response.raw_output_contents[0]) == 4 * 4000
    late = line.call("ModelInfer", large, {"grpc-timeout": "1m"})
    assert late.status == LATE


# --- messages


def test_unknown_models_are_named_as_triton_does(line: Caller) -> None:
    reply = line.call("ModelInfer", REQUEST(model_name="nobody"))
    assert (reply.status, reply.code) == (NOT_FOUND, "not_found")
    assert reply.text == "Request for unknown model: 'nobody' is not found"
    reply = line.call("ModelInfer", loans([CONTRACT.example], model_version="9"))
    assert (reply.status, reply.text) == (NOT_FOUND, "Request for unknown model: 'loans' version '9' is not found")


BROKEN = {
    "no protobuf": (b"\xff" * 20, {}, INVALID),
    "nothing": (b"", {"bare": True}, INVALID),
    "a cut message": (b"\0\0\0\0\x09abc", {"bare": True}, INVALID),
    "two messages": (b"\0\0\0\0\0\0\0\0\0\0", {"bare": True}, INVALID),
    "another flag": (b"x", {"flag": 7}, INVALID),
    "compressed, and not said how": (gzip.compress(b"x"), {"flag": 1}, INVALID),
    "a length above the limit": (b"\0\x7f\xff\xff\xff", {"bare": True}, EXHAUSTED),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_messages_end_their_call(line: Caller, case: str) -> None:
    message, options, status = BROKEN[case]
    reply = line.call("ModelInfer", message, **options)
    assert reply.status == status, reply.text
    assert line.call("ServerLive").status == OK


def test_a_message_above_the_limit_is_refused_before_it_is_here(line: Caller) -> None:
    number = line.open("ModelInfer")
    line.send(number, b"\0" + struct.pack(">I", 600_000) + b"x" * 100, bare=True)
    reply = line.wait(number)
    assert (reply.status, reply.code) == (EXHAUSTED, "too_large")
    assert "max_body_bytes=500000" in reply.text


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages(line: Caller, coding: str, pack: Any) -> None:
    request = sums([[1, 2]]).SerializeToString()
    said = {"grpc-encoding": coding}
    assert outputs(line.call("ModelInfer", pack(request), said, flag=1))["total"] == [3.0]
    assert outputs(line.call("ModelInfer", request, said))["total"] == [3.0]  # the flag decides for each message
    bomb = line.call("ModelInfer", pack(b"\0" * 10_000_000), said, flag=1)
    assert (bomb.status, bomb.code) == (EXHAUSTED, "too_large")
    assert "max_inflated_bytes=200000" in bomb.text
    assert line.call("ModelInfer", pack(request)[:-3], said, flag=1).status == INVALID
    assert line.call("ModelInfer", pack(request) + b"x", said, flag=1).status == INVALID
    assert line.call("ModelInfer", b"no such thing", said, flag=1).status == INVALID


def test_other_codings_are_not_implemented_and_the_known_ones_named(line: Caller) -> None:
    reply = line.call("ModelInfer", sums([[1, 2]]), {"grpc-encoding": "br"})
    assert reply.status == UNIMPLEMENTED
    assert reply.headers["grpc-accept-encoding"] == "identity,deflate,gzip"


@pytest.mark.parametrize(
    "method", ["SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings", "Nothing"]
)
def test_other_methods_are_not_implemented(line: Caller, method: str) -> None:
    assert line.call(method).status == UNIMPLEMENTED


def test_what_is_not_grpc_is_told_so_in_http(line: Caller) -> None:
    for metadata, pseudo in (({"content-type": "application/json"}, {}), ({}, {"method": "GET"})):
        number = line.open("ServerLive", metadata, **pseudo)
        assert line.wait(number).headers[":status"] == "415"
    assert line.call("ServerLive", metadata={"content-type": "application/grpc+proto"}).status == OK


# --- who may


def test_keys_come_as_metadata(running: Gateway) -> None:
    request = sums([[1, 2]])
    with caller(running.grpc_port) as line:
        assert line.call("ModelInfer", request, {"authorization": f"Bearer {KEY}"}).status == OK
        assert line.call("ModelInfer", request, {"x-api-key": KEY}).status == OK
        for metadata in ({}, {"x-api-key": "my_wrong"}, {"authorization": f"Basic {KEY}"}, {"x-api-key": EXPIRED}):
            reply = line.call("ModelInfer", request, metadata)
            assert (reply.status, reply.code) == (UNAUTHENTICATED, "unauthenticated")
            assert KEY not in reply.text
        reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        for method in ("ModelReady", "ServerMetadata", "ModelStreamInfer", "RepositoryIndex", reflection):
            assert line.call(method).status == UNAUTHENTICATED
        for method in ("ServerLive", "ServerReady", "/grpc.health.v1.Health/Check"):
            assert line.call(method).status == OK  # probes need none


def test_scopes_count_for_each_method(running: Gateway) -> None:
    with caller(running.grpc_port, x_api_key=OTHER) as line:
        assert line.call("ModelInfer", loans([CONTRACT.example])).status == OK
        for method in ("ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady"):
            kind = message_class(f"inference.{method}Request")
            assert line.call(method, kind(name="loans")).status == OK
            assert line.call(method, kind(name="sums")).status == FORBIDDEN
        refused = line.call("ModelInfer", sums([[1, 2]]))
        assert (refused.status, refused.code) == (FORBIDDEN, "forbidden")
        change = message_class("inference.RepositoryModelUnloadRequest")(model_name="loans")
        assert line.call("RepositoryModelUnload", change).status == FORBIDDEN
        said = line.call("ModelStatistics")
        stats = message_class("inference.ModelStatisticsResponse").FromString(said.messages()[0]).model_stats
        assert {one.name for one in stats} == {"loans"}


def test_a_quota_counts_rows_whatever_the_edge(running: Gateway) -> None:
    with caller(running.grpc_port, x_api_key=METERED) as line:
        assert line.call("ModelInfer", sums([[1, 2]] * 2)).status == OK
        refused = line.call("ModelInfer", sums([[1, 2]] * 2))
        assert (refused.status, refused.code) == (EXHAUSTED, "quota_exceeded")
        assert int(refused.headers["grpc-retry-pushback-ms"]) > 0
        rest = running.post("/v2/models/sums/infer", {}, headers={"X-API-Key": METERED})
        assert rest.status_code == 429


def test_hosts_and_origins_are_checked_as_over_http(running: Gateway) -> None:
    with caller(running.grpc_port, x_api_key=KEY) as line:
        number = line.open("ServerLive", authority="attacker.example")
        assert line.wait(number).status == FORBIDDEN
        assert line.call("ServerLive", metadata={"origin": "https://attacker.example"}).status == FORBIDDEN


# --- deadlines and callers who leave


@pytest.mark.parametrize("text", ["", "1", "S", "123456789S", "1x", "-1S", "1.5S"])
def test_a_timeout_has_a_form(line: Caller, text: str) -> None:
    if text:
        assert line.call("ModelInfer", sums([[1, 2]]), {"grpc-timeout": text}).status == INVALID
    assert line.call("ModelInfer", sums([[1, 2]]), {"grpc-timeout": "10S"}).status == OK


def test_a_timeout_is_kept(line: Caller) -> None:
    late = line.call("ModelInfer", sums([[1, 2]]), {"grpc-timeout": "1n"})
    assert (late.status, late.code) == (LATE, "deadline_exceeded")
    number = line.open("ModelInfer", {"grpc-timeout": "300m"})  # and its message never comes
    assert line.wait(number).status == LATE
    number = line.open("ModelStreamInfer", {"grpc-timeout": "300m"})
    line.send(number, sums([[1, 2]]))
    reply = line.wait(number)
    assert (reply.status, len(reply.messages())) == (LATE, 1)


def test_a_call_that_is_cancelled_is_dropped_before_computing_and_counted(running: Gateway, line: Caller) -> None:
    before = dropped(running)
    for _ in range(20):
        line.cancel("ModelInfer", sums([[1, 2]]))  # request and reset arrive in one turn, before the model is asked
    assert line.call("ServerLive").status == OK
    until(lambda: dropped(running) == before + 20, "every drop is counted")


def dropped(running: Gateway) -> float:
    """Over all workers, calls whose callers left before the model was asked."""
    lines = exposition(running.home.run / "counters").decode().splitlines()
    mine = [one for one in lines if one.startswith("modelyard_dropped_calls") and 'reason="caller_left"' in one]
    return sum(float(one.rpartition(" ")[2]) for one in mine)


# --- streams


def stream_answers(reply: Reply) -> list[Any]:
    return [STREAM_RESPONSE.FromString(message) for message in reply.messages()]


def test_a_stream_answers_in_order_and_survives_errors(line: Caller) -> None:
    number = line.open("ModelStreamInfer")
    line.send(number, sums([[0, 1]], id="0", parameters={"triton_enable_empty_final_response": {"bool_param": True}}))
    line.send(number, REQUEST(model_name="nobody", id="1"))
    line.send(number, sums([[0, 0]] * 3000, id="2"))  # slow, and yet answered before those behind it
    line.send(number, b"\xff\xff\xff")
    line.send(number, loans([CONTRACT.example | {"age": 1}], id="4"))
    line.send(number, sums([[5, 1]], id="5"))
    line.end(number)
    reply = line.wait(number)
    said = stream_answers(reply)
    assert reply.status == OK
    assert [one.infer_response.id for one in said] == ["0", "1", "2", "", "4", "5"]
    assert [bool(one.error_message) for one in said] == [False, True, False, True, True, False]
    assert said[1].error_message == "Request for unknown model: 'nobody' is not found"
    assert said[1].infer_response.parameters["modelyard_code"].string_param == "not_found"
    assert all(one.infer_response.parameters["triton_final_response"].bool_param for one in said)
    assert all(len(one.infer_response.parameters["request_id"].string_param) == 32 for one in said)
    assert np.frombuffer(said[5].infer_response.raw_output_contents[0], "<f4").tolist() == [6.0]


def test_a_stream_of_many_is_answered_as_they_come(line: Caller) -> None:
    number = line.open("ModelStreamInfer")
    for at in range(300):
        line.send(number, sums([[at, 1]], id=str(at)))
        if at % 50 == 49:
            line.wait(number, at + 1)
    line.end(number)
    reply = line.wait(number)
    said = stream_answers(reply)
    assert [one.infer_response.id for one in said] == [str(at) for at in range(300)]
    sums_said = [np.frombuffer(one.infer_response.raw_output_contents[0], "<f4")[0] for one in said]
    assert sums_said == [at + 1 for at in range(300)]


def test_a_stream_that_ends_at_once_or_within_a_message(line: Caller) -> None:
    number = line.open("ModelStreamInfer")
    line.end(number)
    assert line.wait(number).status == OK
    number = line.open("ModelStreamInfer")
    line.send(number, b"\0\0\0", bare=True)
    line.end(number)
    assert line.wait(number).status == INVALID
    number = line.open("ModelStreamInfer")
    line.send(number, sums([[1, 2]]))
    line.send(number, b"\0\x7f\0\0\0", bare=True)
    assert line.wait(number).status == EXHAUSTED  # where the next message begins is lost


def test_streams_of_one_connection_run_side_by_side(line: Caller) -> None:
    numbers = [line.open("ModelStreamInfer") for _ in range(5)]
    for at in range(20):
        for place, number in enumerate(numbers):
            line.send(number, sums([[at, place]], id=f"{place}.{at}"))
    for place, number in enumerate(numbers):
        line.end(number)
        said = stream_answers(line.wait(number))
        assert [one.infer_response.id for one in said] == [f"{place}.{at}" for at in range(20)]


# --- what there is


def test_questions_are_answered_as_rest_answers_them(running: Gateway, line: Caller) -> None:
    def ask(method: str, **fields: str) -> Any:
        reply = line.call(method, message_class(f"inference.{method}Request")(**fields))
        assert reply.status == OK, reply.text
        return message_class(f"inference.{method}Response").FromString(reply.messages()[0])

    def rest(path: str) -> Any:
        return running.get(path, headers={"X-API-Key": KEY}).json()

    assert ask("ServerLive").live
    assert ask("ServerReady").ready
    assert list(ask("ServerMetadata").extensions) == rest("/v2")["extensions"]
    metadata = ask("ModelMetadata", name="loans")
    assert list(metadata.versions) == ["1", "2"]
    wanted = [(one["name"], one["datatype"], one["shape"]) for one in rest("/v2/models/loans")["inputs"]]
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == wanted
    config = ask("ModelConfig", name="sums").config
    assert (config.name, config.max_batch_size) == ("sums", rest("/v2/models/sums/config")["max_batch_size"])
    assert config.input[0].data_type == 11
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    before = ask("ModelStatistics", name="one").model_stats[0].inference_count
    two_rows = tensor("in_FP32", "FP32", [2, 3], fp32_contents=[1] * 6)
    infer(line.call("ModelInfer", REQUEST(model_name="one", inputs=[two_rows])))
    stats = ask("ModelStatistics", name="one", version="1").model_stats
    assert [(one.name, one.version) for one in stats] == [("one", "1")]
    assert stats[0].inference_count == before + 2
    assert stats[0].inference_stats.success.ns > 0
    assert {one.name for one in ask("ModelStatistics").model_stats} == {
        "loans",
        "sums",
        "same",
        "typed",
        "one",
        "set_aside",
    }
    assert ask("ModelReady", name="loans", version="2").ready
    assert not ask("ModelReady", name="loans", version="9").ready
    assert not ask("ModelReady", name="nobody").ready


def test_the_repository_is_the_same_as_over_rest(running: Gateway, line: Caller) -> None:
    def change(verb: str, **fields: Any) -> Reply:
        request = message_class(f"inference.RepositoryModel{verb}Request")(model_name="set_aside", **fields)
        return line.call(f"RepositoryModel{verb}", request)

    def states(ready: bool = False) -> dict[str, str]:
        reply = line.call("RepositoryIndex", message_class("inference.RepositoryIndexRequest")(ready=ready))
        models = message_class("inference.RepositoryIndexResponse").FromString(reply.messages()[0]).models
        return {f"{one.name}/{one.version}": one.state for one in models}

    assert states()["set_aside/1"] == "READY"
    assert change("Unload", parameters={"unload_dependents": {"bool_param": True}}).status == OK
    assert states()["set_aside/1"] == "UNAVAILABLE"
    assert "set_aside/1" not in states(ready=True)
    data = tensor("in_FP32", "FP32", [1, 5], fp32_contents=[1] * 5)
    refused = line.call("ModelInfer", REQUEST(model_name="set_aside", inputs=[data]))
    assert (refused.status, refused.code) == (UNAVAILABLE, "not_ready")
    assert change("Load", parameters={"config": {"string_param": "{}"}}).status == INVALID
    assert change("Load", parameters={"file:1/model.onnx": {"bytes_param": b"x"}}).status == INVALID
    assert change("Load").status == OK
    assert states()["set_aside/1"] == "READY"
    infer(line.call("ModelInfer", REQUEST(model_name="set_aside", inputs=[data])))


def test_health(line: Caller) -> None:
    request, response = (message_class(f"grpc.health.v1.HealthCheck{kind}") for kind in ("Request", "Response"))
    for service, status in (("", 1), ("inference.GRPCInferenceService", 1)):
        reply = line.call("/grpc.health.v1.Health/Check", request(service=service))
        assert response.FromString(reply.messages()[0]).status == status
    assert line.call("/grpc.health.v1.Health/Check", request(service="nothing")).status == NOT_FOUND
    number = line.open("/grpc.health.v1.Health/Watch")
    line.send(number, request(service="nothing"), end=True)
    assert response.FromString(line.wait(number, 1).messages()[0]).status == 3
    number = line.open("/grpc.health.v1.Health/Watch")
    line.end(number)
    assert line.wait(number).status == INVALID


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(line: Caller, version: str) -> None:
    request, response = (
        message_class(f"grpc.reflection.{version}.ServerReflection{k}") for k in ("Request", "Response")
    )
    number = line.open(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    line.send(number, request(list_services=""))
    line.send(number, request(file_containing_symbol="inference.GRPCInferenceService.ModelInfer"))
    line.send(number, request(file_by_filename="health.proto"))
    line.send(number, request(file_by_filename="nothing.proto"))
    line.send(number, request(all_extension_numbers_of_type="x"), end=True)
    reply = line.wait(number)
    assert reply.status == OK
    said = [response.FromString(message) for message in reply.messages()]
    services = {service.name for service in said[0].list_services_response.service}
    assert "inference.GRPCInferenceService" in services
    assert f"grpc.reflection.{version}.ServerReflection" in services
    assert len(said[1].file_descriptor_response.file_descriptor_proto) == 2  # with the model's configuration
    assert said[2].original_request.file_by_filename == "health.proto"
    assert [one.error_response.error_code for one in said[3:]] == [NOT_FOUND, UNIMPLEMENTED]


# --- the rest


def test_every_error_has_a_status_on_both_edges() -> None:
    codes = {cls.code for cls in all_errors()}
    assert set(HTTP_STATUS) == set(GRPC_STATUS) == codes
    page = (Path(__file__).parents[2] / "docs/reference/grpc.md").read_text("utf-8")
    for code in codes:
        assert f"| `{code}` | {GRPC_STATUS[code]} `" in page


def test_the_descriptors_are_those_of_the_protos(tmp_path: Path) -> None:
    """Compiled anew in the locked environment, the files say what the gateway reads at its start."""
    root = Path(__file__).parents[2]
    fresh = tmp_path / "descriptors.binpb"
    subprocess.run([root / "scripts/protos", fresh], check=True, timeout=300)
    assert fresh.read_bytes() == (root / "src/modelyard/serve/protos/descriptors.binpb").read_bytes()
    assert POOL.FindServiceByName("inference.GRPCInferenceService")


def test_records_and_feedback_know_calls_of_this_edge(running: Gateway, line: Caller) -> None:
    answer = infer(line.call("ModelInfer", loans([CONTRACT.example]), {"x-request-id": "mine"}))
    assert len(answer.parameters["request_id"].string_param) == 32
    until(lambda: list(running.home.records.glob("*.records")), "records are written")


def test_a_taken_port_is_named(running: Gateway, tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
    environment |= {"MODELYARD_HOME": str(tmp_path), "MODELYARD_GATEWAY_PORT": "0"}
    environment |= {"MODELYARD_GRPC_PORT": str(running.grpc_port)}
    command = [sys.executable, "-m", "modelyard.serve.fleet"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert refused.returncode == 1
    assert "choose another with grpc_port" in refused.stderr
    assert str(running.grpc_port) in refused.stderr
