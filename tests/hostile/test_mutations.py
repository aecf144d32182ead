"""Good requests of every dialect with a few bytes or members changed: thousands of them, and never a fault of ours.

Each is answered or refused in time, never with a 500 or an INTERNAL; no worker dies of it.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import h2.exceptions
import pytest

from kit.every_kind import (
    from_v2,
    grpc_message,
    objects,
    plan_of,
    rows_of,
    store_every_kind,
    v2_binary,
    v2_json,
)
from kit.gateway import Gateway, gateway
from kit.grpc import Caller
from kit.lines import Line, Reply, request
from kit.model_workers import KIT_PATH

pytestmark = pytest.mark.hostile

COUNT = 600  # of each dialect
WAIT_S = 5.0  # an answer later than this is a hang
KINDS = ("loans", "matrix", "same", "free", "texts", "ranks")
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, -(2**63) - 1, 1e308, -0.0, 0.5, "", "\0", "é", "x" * 300, [], [[]], [[[[[]]]]], {},
    {"a": 1}, [1, [2]], "1", "NaN", "binary_data_size", 18446744073709551615,
)  # fmt: skip
TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1" + b"0" * 400, b'"\\ud800"', b'"\\u0000"', b"null", b"true",
    b"[" * 200, b"{", b"}", b"]", b'"', b"\\", b"\xff", b"\x00", b",", b"-", b"9" * 5000, b"\xed\xa0\x80", b"'",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("mutations") / "home"
    limits = {"header_timeout_s": 1, "body_timeout_s": 1, "idle_timeout_s": 2, "max_body_bytes": 200_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", KIT_PATH)
        with gateway(root, plan_of(store_every_kind(root)), workers=1, **limits) as one:
            yield one
            log = one.log.read_text()
            assert '"fault"' not in log, next(line for line in log.splitlines() if '"fault"' in line)
            state = one.state()
            assert state is not None
            assert state.restarts == ()
            assert not any(model.restarts for model in state.models)


# --- what is changed


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, cut out, doubled, or replaced by a token that has hurt others."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((0, 1, 1, 2, 4, 20)))
        match chance.randrange(5):
            case 0:
                data = data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :]
            case 1:
                data = data[:at] + data[to:]
            case 2:
                data = data[:at] + data[at:to] * chance.randint(2, 50) + data[to:]
            case _:
                data = data[:at] + chance.choice(TOKENS) + data[to:]
    return data


def changed_value(value: Any, chance: random.Random) -> Any:
    """One member, deep inside or not, replaced by an odd one, left out, doubled, or moved."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.15:
        return chance.choice(ODD)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[: at + 1] + value[at:]
            case _:
                return [*value[:at], changed_value(value[at], chance), *value[at + 1 :]]
    name = chance.choice(list(value))
    match chance.randrange(6):
        case 0:
            return {key: one for key, one in value.items() if key != name}
        case 1:
            return {(f"{key}\0" if key == name else key): one for key, one in value.items()}
        case 2:
            return value | {chance.choice(("id", "parameters", "outputs", "data", "shape", "x")): chance.choice(ODD)}
        case _:
            return value | {name: changed_value(value[name], chance)}


# --- good requests


def good_http(dialect: str, chance: random.Random) -> bytes:
    kind = "loans" if dialect in ("mlflow", "csv") else chance.choice(KINDS)
    rows = rows_of(kind, chance, chance.randint(1, 4))
    wants = {"id": "x", "parameters": {"binary_data_output": chance.random() < 0.5, "timeout": 5_000_000}}
    match dialect:
        case "v2 json":
            return v2_json(kind, rows, wants)
        case "v2 binary":
            return v2_binary(kind, rows, wants)
        case "v1":
            form = chance.choice(("instances", "inputs"))
            return request(f"/v1/models/{kind}:{chance.choice(('predict', 'explain'))}", {form: objects(kind, rows)})
        case "mlflow":
            form = chance.choice(("dataframe_records", "instances", "inputs"))
            return request("/invocations", {form: objects(kind, rows)}, Content_Type="application/json")
        case "csv":
            table = objects(kind, rows)
            lines = [
                ",".join(table[0]),
                *(",".join("" if v is None else str(v) for v in row.values()) for row in table),
            ]
            return request("/invocations", "\n".join(lines).encode(), Content_Type="text/csv")
        case "ndjson":
            body = "\n".join(json.dumps(row) for row in objects(kind, rows)).encode()
            return request(f"/{kind}", body, Content_Type="application/x-ndjson")
        case "native":
            return request(f"/{kind}{chance.choice(('', '', '/explain', '?reasons=all'))}", objects(kind, rows))
        case "feedback":
            return request(f"/{kind}/feedback", [{"request_id": "0", "truth": "good", "row": 0}])
    verb = chance.choice(("index", "models/same/load", "models/same/unload"))
    return request(f"/v2/repository/{verb}", {"ready": True, "parameters": {"unload_dependents": False}})


def with_body(data: bytes, body: bytes) -> bytes:
    """The same head around another body, its length put right."""
    head, _, old = data.partition(b"\r\n\r\n")
    return head.replace(b"Content-Length: %d\r" % len(old), b"Content-Length: %d\r" % len(body), 1).replace(
        b"Content-Length: %d" % len(old), b"Content-Length: %d" % len(body), 1
    ) + b"\r\n\r\n" + body  # fmt: skip


def mutated(dialect: str, chance: random.Random) -> bytes:
    data = good_http(dialect, chance)
    head, _, body = data.partition(b"\r\n\r\n")
    if chance.random() < 0.15:  # the head itself
        return changed_bytes(head, chance) + b"\r\n\r\n" + body
    if chance.random() < 0.5 and dialect in ("v2 json", "v1", "mlflow", "native", "feedback", "repository"):
        return with_body(data, json.dumps(changed_value(json.loads(body), chance)).encode())
    if dialect == "v2 binary" and chance.random() < 0.6:  # the JSON alone, so that it is read
        (length,) = [int(line.split(b": ")[1]) for line in head.split(b"\r\n") if line.startswith(b"Inference-Header")]
        json_part = json.dumps(changed_value(json.loads(body[:length]), chance)).encode()
        head = head.replace(
            b"Inference-Header-Content-Length: %d" % length, b"Inference-Header-Content-Length: %d" % len(json_part)
        )
        return with_body(head + b"\r\n\r\n" + body, json_part + body[length:])
    return with_body(data, changed_bytes(body, chance))


def told(port: int, data: bytes) -> Reply | None:
    """What is answered; None where the gateway closes without a word. Fails where it does neither."""
    with Line(port, WAIT_S) as line:
        try:
            line.send(data)
            line.socket.shutdown(socket.SHUT_WR)
            return line.read()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            return None


@pytest.mark.parametrize(
    "dialect", ["v2 json", "v2 binary", "v1", "mlflow", "csv", "ndjson", "native", "feedback", "repository"]
)  # fmt: skip
def test_a_mutated_request_is_never_our_fault(running: Gateway, dialect: str) -> None:
    statuses: dict[int, int] = {}
    for number in range(COUNT):
        data = mutated(dialect, random.Random(f"{dialect} {number}"))
        reply = told(running.port, data)
        status = 0 if reply is None else reply.status
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500 or status == 505, (
            f"{dialect} {number}: {status} {reply and reply.body[:300]!r} to {data[:600]!r}"
        )
    assert statuses.get(200, 0) + statuses.get(202, 0) + statuses.get(403, 0) > 5, statuses
    assert sum(count for status, count in statuses.items() if 400 <= status < 500) > COUNT / 10, statuses


@pytest.mark.parametrize("dialect", ["v2 json", "v2 binary", "v1", "native"])
def test_a_connection_goes_on_rightly_after_a_mutated_body(running: Gateway, dialect: str) -> None:
    """The same head again and again, whose parsing is skipped, around good bodies and broken ones."""
    chance = random.Random(dialect)
    rows = [rows_of("same", chance, 1) for _ in range(8)]
    good = [v2_binary("same", one, {"id": str(at)}) for at, one in enumerate(rows)]
    with Line(running.port, WAIT_S) as line:
        for number in range(COUNT // 2):
            data = good_http(dialect, random.Random(f"{dialect} good {number % 5}"))
            broken = with_body(data, changed_bytes(data.partition(b"\r\n\r\n")[2], chance))
            at = number % len(good)
            *others, last = line.ask(data, *([broken] * chance.randint(1, 2)), good[at])
            assert all(reply.status < 500 for reply in others), f"{number}: {broken[:600]!r}"
            assert last.status == 200, f"{number}: {last.body[:200]!r} after {broken[:600]!r}"
            found = from_v2(last.body, last.headers.get("inference-header-content-length"))
            assert found[0] == str(at)
            assert found[1]["out_FP32"].tobytes() == rows[at]["in_FP32"].tobytes()
            for _ in range(2):  # one at a time: now the head is known
                (alone,) = line.ask(good[at])
                assert from_v2(alone.body, alone.headers.get("inference-header-content-length"))[0] == str(at)
                (again,) = line.ask(broken)
                assert again.status == others[-1].status


def test_a_mutated_message_is_never_our_fault(running: Gateway) -> None:
    line = Caller(running.grpc_port)
    line.line.settimeout(WAIT_S)
    statuses: dict[int, int] = {}
    for number in range(2 * COUNT):
        chance = random.Random(f"grpc {number}")
        kind = chance.choice(KINDS)
        rows = rows_of(kind, chance, chance.randint(1, 4))
        data = grpc_message(kind, rows, [], "x", is_typed=chance.random() < 0.5).SerializeToString()
        method = chance.choice(("ModelInfer", "ModelInfer", "ModelInfer", "ModelMetadata", "ModelConfig", "ModelReady"))
        reply = line.call(method, changed_bytes(data, chance))
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
        assert reply.status in (0, 3, 4, 5, 8), (
            f"grpc {number}: {reply.status} {reply.text} to {method} of {data[:600]!r}"
        )
        if line.is_over:
            line.close()
            line = Caller(running.grpc_port)
    line.close()
    assert statuses[0] > 5, statuses
    assert statuses[3] > COUNT / 10, statuses


def test_mutated_frames_end_their_own_connection_only(running: Gateway) -> None:
    """Whole connections of gRPC, from the preface on, with bytes changed in them."""
    with Line(running.port, WAIT_S) as watch:
        for number in range(COUNT):
            chance = random.Random(f"frames {number}")
            caller = Recorded(running.grpc_port)
            with contextlib.suppress(h2.exceptions.ProtocolError):
                for _ in range(chance.randint(1, 3)):
                    opened = caller.open("ModelInfer")
                    caller.put(opened, grpc_message("same", rows_of("same", chance, 2), []))
                caller.flush()
            start = chance.choice((0, 24, 33))
            data = caller.sent[:start] + changed_bytes(caller.sent[start:], chance)
            caller.close()
            say(running.grpc_port, data)
            if number % 50 == 0:
                (reply,) = watch.ask(request("/same", objects("same", rows_of("same", chance, 1))))
                assert reply.status == 200


def say(port: int, data: bytes) -> None:
    """Send bytes, and read until the gateway hangs up. Fails where it does not."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as line:
        try:
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass


class Recorded(Caller):
    """A caller that says nothing, and keeps what it would have said."""

    sent = b""

    def flush(self) -> None:
        self.sent += self.h2.data_to_send()
