"""Every row of the tables: hostile bytes in, the documented status and code out, and the next caller is answered."""

from __future__ import annotations

import json
import re
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kit.every_kind import plan_of
from kit.gateway import Gateway, gateway
from kit.tensor_versions import store_identity
from kit.versions import CONTRACT, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.secure.keys import digest_of

pytestmark = [pytest.mark.hostile, pytest.mark.xdist_group("hostile")]

FOLDER = Path(__file__).parent
CASES = [
    (path.stem, case) for path in sorted(FOLDER.glob("*.toml")) for case in tomllib.loads(path.read_text())["case"]
]
Answers = list[tuple[int, bytes]]  # status and body of each
KEY = "my_key_of_the_hostile_tests"
ROW = json.dumps(CONTRACT.example)
GOOD = (
    '{"name":"income","datatype":"FP64","shape":[1],"data":[120.5]},{"name":"home","datatype":"BYTES","shape":[1],'
    '"data":["rent"]},{"name":"job","datatype":"BYTES","shape":[1],"data":["fixed"]}'
)
WORDS = {
    "HOST": "Host: localhost\r\n",
    "AUTH": f"Authorization: Bearer {KEY}\r\n",
    "ROW": ROW,
    "LEN": str(len(ROW)),
    "HEX": f"{len(ROW):x}",
    "X65536": "x" * 65536,
    "GOOD": GOOD,
    "HEAD": "age,income,home,job,guarantor",
    "LIST": '[35,120.5,"rent","fixed",false]',
    "OTHER": '{"name":"in_BYTES","datatype":"BYTES","shape":[1,1,1,1],"data":["a"]}',
}
POSTS = {  # a case's shorthand -> where its body is posted to
    "body": "/loans",
    "infer": "/v2/models/loans/infer",
    "v1": "/v1/models/loans:predict",
    "mlflow": "/invocations",
    "free": "/v2/models/free/infer",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("hostile") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    digests = {"loans": store(shelf), "free": store_identity(shelf, ("FP32", "BYTES"), (-1, -1, -1, -1), name="free")}
    key = PlannedKey("k1", digest_of(KEY), "tester", ("infer", "explain:free"))
    first = msgspec.structs.replace(plan_of(digests, (key,)), require_keys=True)
    limits = {"header_timeout_s": 1, "body_timeout_s": 1, "idle_timeout_s": 1.5, "max_body_bytes": 1_500_000}
    with gateway(root, first, **limits) as one:
        yield one


@pytest.mark.parametrize(("table", "case"), CASES, ids=[f"{table}: {case['name']}" for table, case in CASES])
def test_hostile_bytes(running: Gateway, table: str, case: dict[str, Any]) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as line:
        answers, closed = converse(line, case)
    statuses = case["status"] * case.get("count", 1)
    assert [status for status, _ in answers] == statuses, answers
    if case.get("closes"):
        assert closed
    if "code" in case:
        assert json.loads(answers[-1][1])["code"] == case["code"]
    if "says" in case:
        assert case["says"] in answers[-1][1].decode()
    if "never" in case:
        assert case["never"] not in answers[-1][1].decode()
    reply = running.post("/loans", CONTRACT.example, headers={"X-API-Key": KEY})
    assert reply.status_code == 200, reply.text


def test_there_are_at_least_forty_cases() -> None:
    assert len(CASES) >= 40


def test_no_worker_died_of_it(running: Gateway) -> None:
    state = running.state()
    assert state is not None
    assert state.restarts == ()


def converse(line: socket.socket, case: dict[str, Any]) -> tuple[list[tuple[int, bytes]], bool]:
    """Send the case's chunks; return all answers, and whether the gateway closed."""
    try:
        for chunk in chunks(case):
            for part in chunk if isinstance(chunk, list) else [chunk]:
                line.sendall(part)
                if isinstance(chunk, list):
                    time.sleep(0.15)  # the attack itself: a trickle that keeps below every idle limit
        if case.get("half"):
            line.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the gateway may close before it has read a flood to its end
    expected = len(case["status"]) * case.get("count", 1)
    return read_answers(line, expected, must_close=bool(case.get("closes")), is_head=bool(case.get("head")))


def chunks(case: dict[str, Any]) -> list[bytes | list[bytes]]:
    for shorthand, path in POSTS.items():
        if shorthand in case:
            body = case["body"].encode() if shorthand == "body" else filled(case[shorthand])
            kind = f"Content-Type: {case['type']}\r\n" if "type" in case else ""
            if "tail" in case:
                kind += f"Inference-Header-Content-Length: {len(body)}\r\n"
                body += bytes.fromhex(case["tail"])
            return [filled(f"POST {path} HTTP/1.1\r\n$HOST${{AUTH}}{kind}Content-Length: {len(body)}\r\n\r\n") + body]
    return [one_chunk(text) for text in case["raw"]]


def one_chunk(text: str) -> bytes | list[bytes]:
    kind, _, rest = text.partition(":")
    if kind == "hex":
        return bytes.fromhex(rest)
    if kind == "repeat":
        times, _, what = rest.partition(":")
        return filled(what) * int(times)
    if kind == "drip":
        times, _, what = rest.partition(":")
        return [filled(what)] * int(times)
    return filled(text)


def filled(text: str) -> bytes:
    """`text` with its $WORDS put in; the longest name that fits counts, so `$AUTHContent` is `$AUTH` and `Content`."""
    pattern = re.compile(r"\$\{(\w+)\}|\$(" + "|".join(sorted(WORDS, key=len, reverse=True)) + ")")
    return pattern.sub(lambda found: WORDS[found[1] or found[2]], text).encode()


def read_answers(
    line: socket.socket, count: int, *, must_close: bool, is_head: bool
) -> tuple[list[tuple[int, bytes]], bool]:
    answers: list[tuple[int, bytes]] = []
    buffer = b""
    while True:
        while (answer := one_answer(buffer, is_head)) is not None:
            status, body, buffer = answer
            answers.append((status, body))
        if len(answers) >= count and not must_close:
            return answers, False
        try:
            data = line.recv(65536)
        except ConnectionResetError:
            return answers, True
        if not data:
            return answers, True
        buffer += data


def one_answer(buffer: bytes, is_head: bool) -> tuple[int, bytes, bytes] | None:
    head, found, rest = buffer.partition(b"\r\n\r\n")
    if not found:
        return None
    status = int(head.split(b" ", 2)[1])
    length = re.search(rb"content-length: (\d+)", head)
    size = 0 if is_head or length is None else int(length[1])
    if len(rest) < size:
        return None
    return status, rest[:size], rest[size:]
