"""Many callers in every dialect at once, in random interleavings: each gets its own answer and nobody else's.

A seed decides the whole plan: who asks what in which dialect, how many rows, which are bad, whose bytes come when, who
leaves. What must come back was asked before, row by row, of the same gateway while it had nothing else to do.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kit.every_kind import (
    LENGTH,
    Tensors,
    from_grpc,
    from_rows,
    from_v2,
    grpc_frame,
    grpc_message,
    objects,
    plan_of,
    rows_of,
    spoilt,
    store_every_kind,
    taken,
    v2_binary,
    v2_json,
)
from kit.gateway import Gateway, gateway, until
from kit.lines import Line, request
from kit.model_workers import KIT_PATH
from modelyard.serve.grpc_messages import message_class

pytestmark = pytest.mark.journey

POOL = 150  # rows of each kind whose answers are known
EXAMPLES = 20
DEADLINE_S = 40.0  # of one example; longer means that somebody hangs
SHARED = ("loans", "matrix", "fragile", "texts", "sums")  # kinds whose rows come from the pool
KINDS = (*SHARED, "same", "free", "ranks")
ROUNDED = ("loans", "texts")  # the runtime's vector units round the last bit by the batch's size; all others: no bit
NOT_SEEN = {"sums": ["total"]}  # the outputs that are compared, where not all are: `pid` is the process's
RESPONSE = message_class("inference.ModelInferResponse")
STREAM_RESPONSE = message_class("inference.ModelStreamInferResponse")
_COUNTED = re.compile(r"^modelyard_(\w+)_total(\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("interleavings") / "home"
    limits = {"bulk_bytes": 30_000, "max_rows": 5_000, "max_outstanding": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", KIT_PATH)
        with gateway(root, plan_of(store_every_kind(root)), **limits) as one:
            yield one
            log = Path(one.log).read_text()
            assert '"fault"' not in log
            state = one.state()
            assert state is not None
            assert state.restarts == ()
            assert not any(model.restarts for model in state.models)


class Pool(dict[str, tuple[Tensors, Tensors]]):
    """Rows of each kind, and what was answered to each of them alone."""

    def __repr__(self) -> str:
        return "the pool"


@pytest.fixture(scope="module")
def pool(running: Gateway) -> Pool:
    return fill(running)


def fill(running: Gateway) -> Pool:
    """Ask every row alone."""
    known = Pool()
    for kind in SHARED:
        rows = rows_of(kind, random.Random(f"rows of {kind}"), POOL)
        wants = {"parameters": {"binary_data_output": True}}
        answers = []
        with Line(running.port) as line:
            for at in range(POOL):
                (reply,) = line.ask(v2_binary(kind, taken(rows, [at]), wants))
                assert reply.status == 200, reply.body
                answers.append(from_v2(reply.body, reply.headers[LENGTH.replace("_", "-").lower()])[1])
        names = NOT_SEEN.get(kind, list(answers[0]))
        known[kind] = rows, {name: np.concatenate([answer[name] for answer in answers]) for name in names}
    return known


# --- the plan


@dataclass
class Answer:
    """What came back to one request: a status as HTTP or gRPC says it, its id and outputs or its error."""

    status: int
    id: str = ""
    outputs: Tensors = field(default_factory=dict)
    error: str = ""


@dataclass
class Ask:
    """One request: its bytes, how its answer is read, and what must be in it."""

    kind: str
    dialect: str
    rows: int
    is_bad: bool
    wanted: Tensors
    id: str = ""
    data: bytes = b""
    message: Any = None
    may_be_late: bool = False
    read: Callable[[bytes, dict[str, str]], tuple[str, Tensors]] = lambda body, headers: ("", {})

    def check(self, answer: Answer) -> None:
        """Right, or refused for a reason of its own."""
        label = f"{self.dialect} to {self.kind}, {self.rows} rows"
        if self.may_be_late and answer.status in (504, 4):
            return
        if self.is_bad:
            assert answer.status in (400, 422, 500, 3, 13), f"{label}: a bad row is answered with {answer.status}"
            assert answer.status not in (500, 13) or self.kind in ("fragile", "sums"), f"{label}: {answer.error}"
            return
        assert answer.status in (0, 200), f"{label}: {answer.status} {answer.error}"
        assert answer.id == self.id, f"{label}: the answer is another request's"
        for name, wanted in self.wanted.items():
            found = answer.outputs[name]
            assert found.shape == wanted.shape, f"{label}: {name} has the shape {found.shape}"
            if wanted.dtype.kind == "O":
                assert found.tolist() == wanted.tolist(), f"{label}: {name}"
            elif self.kind in ROUNDED:
                assert np.allclose(found, wanted, rtol=0, atol=1e-5), f"{label}: {name}"
            else:
                assert found.astype(wanted.dtype).tobytes() == wanted.tobytes(), f"{label}: {name} differs"


class Script:
    """One connection: what is sent on it in which pieces, and whether it is cut off."""

    def __init__(self, asks: list[Ask], data: bytes, chance: random.Random) -> None:
        self.asks = asks
        cuts = sorted(chance.randrange(1, len(data)) for _ in range(chance.choice((0, 0, 1, 2, 5)))) if data else []
        self.pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        self.leaves = chance.random() < 0.12
        if self.leaves:
            self.pieces = self.pieces[: chance.randint(1, len(self.pieces))]

    def is_over(self) -> bool:
        """Whether all answers are there."""
        return not self.asks

    def took(self, answer: Answer) -> None:
        """The next request's answer."""
        self.asks.pop(0).check(answer)

    def feed(self, data: bytes) -> bytes:
        """Bytes that came; bytes to send back."""
        raise NotImplementedError

    def lost(self) -> None:
        """The gateway hung up."""
        assert self.leaves or self.is_over(), f"closed with {len(self.asks)} answers missing"


class HttpScript(Script):
    """Requests one behind the other on HTTP/1.1."""

    def __init__(self, asks: list[Ask], chance: random.Random) -> None:
        super().__init__(asks, b"".join(ask.data for ask in asks), chance)
        self._unread = b""

    def feed(self, data: bytes) -> bytes:
        self._unread += data
        while (found := one_reply(self._unread)) is not None:
            status, headers, body, self._unread = found
            if self.asks[0].dialect == "ndjson":
                for line in body.splitlines():
                    said = json.loads(line)
                    self._answered(said.get("status", 200), headers, line)
            else:
                self._answered(status, headers, body)
        return b""

    def _answered(self, status: int, headers: dict[str, str], body: bytes) -> None:
        ask = self.asks[0]
        if status != 200:
            self.took(Answer(status, error=body.decode()[:300]))
            return
        if "content-encoding" in headers:
            body = gzip.decompress(body)
        self.took(Answer(200, *ask.read(body, headers)))


class GrpcScript(Script):
    """Unary calls side by side, or one stream of requests."""

    def __init__(self, asks: list[Ask], chance: random.Random) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        large = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24}
        self._h2.local_settings = h2.settings.Settings(client=True, initial_values=large)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(1 << 28)
        self._is_stream = chance.random() < 0.4
        self._bodies: dict[int, bytes] = {}
        self._heads: dict[int, dict[str, str]] = {}
        self._by_stream: dict[int, Ask] = {}
        if self._is_stream:
            self._open("ModelStreamInfer", asks)
        else:
            for ask in asks:
                self._by_stream[self._open("ModelInfer", [ask])] = ask
        super().__init__(asks, self._h2.data_to_send(), chance)
        self._owed = b""  # what h2 wants to say while a piece of a frame may be on its way

    def _open(self, method: str, asks: list[Ask]) -> int:
        number = self._h2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "http", ":path": f"/inference.GRPCInferenceService/{method}"}
        head |= {":authority": "localhost", "content-type": "application/grpc", "te": "trailers"}
        self._h2.send_headers(number, list(head.items()))
        data = b"".join(grpc_frame(ask.message) for ask in asks)
        for at in range(0, len(data), 16_384):
            self._h2.send_data(number, data[at : at + 16_384])
        self._h2.end_stream(number)
        self._bodies[number] = b""
        return number

    def feed(self, data: bytes) -> bytes:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self._bodies[event.stream_id] += event.data
                if self._is_stream:
                    self._read_stream(event.stream_id)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self._heads.setdefault(event.stream_id, {}).update(dict(event.headers))
            elif isinstance(event, h2.events.StreamEnded):
                self._ended(event.stream_id)
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise AssertionError(f"the gateway said {event}")
        return self._h2.data_to_send()

    def _message(self, number: int) -> bytes | None:
        body = self._bodies[number]
        if len(body) < 5 or len(body) < (end := 5 + int.from_bytes(body[1:5])):
            return None
        self._bodies[number] = body[end:]
        return body[5:end]

    def _read_stream(self, number: int) -> None:
        while (data := self._message(number)) is not None:
            said = STREAM_RESPONSE.FromString(data)
            code = said.infer_response.parameters["modelyard_code"].string_param
            if said.error_message:
                status = {"invalid_input": 3, "deadline_exceeded": 4, "model_failed": 13}.get(code, 2)
                self.took(Answer(status, error=said.error_message))
            else:
                self.took(Answer(0, *from_grpc(said.infer_response)))

    def _ended(self, number: int) -> None:
        head = self._heads[number]
        status = int(head["grpc-status"])
        if self._is_stream:
            assert status == 0, head
            return
        ask = self._by_stream.pop(number)
        data = self._message(number)
        answer = Answer(status, error=head.get("grpc-message", ""))
        if data is not None:
            answer = Answer(status, *from_grpc(RESPONSE.FromString(data)))
        ask.check(answer)
        self.asks.remove(ask)


class Plan:
    """Everything that a seed decides."""

    def __init__(self, seed: int, pool: Pool) -> None:
        self._chance = chance = random.Random(seed)
        self._pool = pool
        self._number = 0
        self.scripts: list[Script] = []
        for _ in range(chance.randint(5, 14)):
            if chance.random() < 0.35:
                asks = [self._ask("grpc") for _ in range(chance.randint(1, 7))]
                while sum(len(ask.message.SerializeToString()) + 5 for ask in asks) > 60_000:
                    asks.pop()
                if asks:
                    self.scripts.append(GrpcScript(asks, chance))
            else:
                self.scripts.append(HttpScript(self._http_asks(), chance))
        self.asked = sum(len(script.asks) for script in self.scripts)
        self.may_miss = sum(len(script.asks) for script in self.scripts if script.leaves)
        pieces = [script for script in self.scripts for _ in script.pieces]
        chance.shuffle(pieces)
        self.order = [(script, chance.choice((None, None, 0.0, 0.0, 0.001))) for script in pieces]

    def _http_asks(self) -> list[Ask]:
        asks: list[Ask] = []
        for _ in range(self._chance.randint(1, 7)):
            dialect = self._chance.choice(("native", "ndjson", "v1", "mlflow", "v2 json", "v2 binary", "v2 binary"))
            asks += self._lines() if dialect == "ndjson" else [self._ask(dialect)]
        return asks

    def _rows(self, kind: str, most: int | None = None) -> tuple[Tensors, Tensors]:
        """Rows and what must be said of them."""
        chance = self._chance
        size = chance.choice((1, 1, 1, chance.randint(1, 20), chance.randint(1, 300), chance.randint(257, 2000)))
        size = min(size, most or (60 if kind in ("texts", "free") else 2000))
        if kind in self._pool:
            rows, answers = self._pool[kind]
            at = [chance.randrange(POOL) for _ in range(size)]
            return taken(rows, at), taken(answers, at)
        rows = rows_of(kind, chance, size)
        if kind == "ranks":
            return rows, {"rank": rows["x"].argsort().argsort()}
        return rows, {name.replace("in_", "out_"): values for name, values in rows.items()}

    def _ask(self, dialect: str) -> Ask:
        chance = self._chance
        kind = "loans" if dialect == "mlflow" else chance.choice(KINDS)
        rows, wanted = self._rows(kind)
        count = len(next(iter(rows.values())))
        is_bad = chance.random() < 0.15 and not (kind == "matrix" and dialect in ("native", "v1", "mlflow"))
        if is_bad:
            rows = spoilt(kind, rows, chance.randrange(count))
        self._number += 1
        ask = Ask(kind, dialect, count, is_bad, wanted, id=f"{chance.getrandbits(64):x}-{self._number}")
        wants: dict[str, Any] = {"id": ask.id, "parameters": {}}
        outputs = list(wanted)
        if chance.random() < 0.4 or kind in NOT_SEEN:
            chance.shuffle(outputs)
            outputs = outputs[: chance.randint(1, len(outputs))]
            ask.wanted = {name: wanted[name] for name in outputs}
            wants["outputs"] = [{"name": name} for name in outputs]
        else:
            outputs = []
        if chance.random() < 0.08 and count < 50 and dialect in ("native", "v2 json", "v2 binary"):
            ask.may_be_late = True
            headers = {"X_Timeout_Ms": str(chance.randint(1, 4))}
        else:
            headers = {}
        self._write(ask, rows, wants, outputs, headers)
        return ask

    def _write(self, ask: Ask, rows: Tensors, wants: Any, outputs: list[str], headers: dict[str, str]) -> None:
        chance, kind, dialect = self._chance, ask.kind, ask.dialect
        if dialect == "grpc":
            ask.message = grpc_message(kind, rows, outputs, ask.id, is_typed=chance.random() < 0.4)
        elif dialect.startswith("v2"):
            wants["parameters"]["binary_data_output"] = chance.random() < 0.6
            if chance.random() < 0.2:
                wants["parameters"]["priority"] = chance.randint(1, 9)
            if chance.random() < 0.3:
                headers |= {"Accept_Encoding": "gzip"}
            write = v2_json if dialect == "v2 json" else v2_binary
            ask.data = write(kind, rows, wants, **headers)
            if chance.random() < 0.2:
                ask.data = compressed(ask.data)
            ask.read = lambda body, headers: from_v2(body, headers.get("inference-header-content-length"))
        else:
            ask.id = ""
            self._write_plain(ask, rows, headers)

    def _write_plain(self, ask: Ask, rows: Tensors, headers: dict[str, str]) -> None:
        has_no_bad_value = ask.is_bad and ask.kind in ("same", "free", "ranks")
        listed = [{"nothing": 1}] if has_no_bad_value else objects(ask.kind, rows)
        wanted = ask.wanted
        if ask.dialect == "native":
            is_single = len(listed) == 1 and self._chance.random() < 0.7
            ask.data = request(f"/{ask.kind}?reasons=none", listed[0] if is_single else listed, **headers)
            ask.read = lambda body, _: ("", from_rows([said(one, wanted) for one in many(body)], wanted))
        elif ask.dialect == "v1":
            ask.data = request(f"/v1/models/{ask.kind}:predict", {"instances": listed})
            ask.read = lambda body, _: ("", from_rows(json.loads(body)["predictions"], wanted))
        else:
            form = {"dataframe_records": listed}
            ask.data = request("/invocations", form, Content_Type="application/json")
            ask.read = lambda body, _: ("", from_rows(json.loads(body)["predictions"], wanted))

    def _lines(self) -> list[Ask]:
        """Rows of one stream, each a request of its own; the first one's bytes are the whole request's."""
        kind = self._chance.choice(("loans", "fragile", "texts", "same"))
        asks, lines = [], []
        for _ in range(self._chance.randint(1, 40)):
            rows, wanted = self._rows(kind, most=1)
            is_bad = self._chance.random() < 0.1
            is_odd = is_bad and kind == "same"
            (row,) = [{"nothing": 1}] if is_odd else objects(kind, spoilt(kind, rows, 0) if is_bad else rows)
            lines.append(json.dumps(row))
            ask = Ask(kind, "ndjson", 1, is_bad, wanted)
            ask.read = lambda body, _, wanted=wanted: ("", from_rows([json.loads(body)], wanted))
            asks.append(ask)
        body = "\n".join(lines).encode()
        asks[0].data = request(f"/{kind}?reasons=none", body, Content_Type="application/x-ndjson")
        return asks


def many(body: bytes) -> list[Any]:
    """The rows of a native answer."""
    whole = json.loads(body)
    return whole.get("predictions", [whole])


def said(row: Any, wanted: Tensors) -> Any:
    """The outputs in one row of a native answer."""
    return {name: row[name] for name in wanted}


def compressed(data: bytes) -> bytes:
    """The same request with a body that is packed."""
    head, _, body = data.partition(b"\r\n\r\n")
    packed = gzip.compress(body)
    head = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(packed), head, count=1)
    return head + b"\r\nContent-Encoding: gzip\r\n\r\n" + packed


def one_reply(data: bytes) -> tuple[int, dict[str, str], bytes, bytes] | None:
    """(status, headers, body, what follows) of a whole HTTP answer."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    status = int(first.split(" ")[1])
    if headers.get("transfer-encoding") != "chunked":
        size = int(headers["content-length"])
        return (status, headers, rest[:size], rest[size:]) if len(rest) >= size else None
    body = b""
    while True:
        line, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < (size := int(line, 16)) + 2:
            return None
        if not size:
            return status, headers, body, rest[2:]
        body, rest = body + rest[:size], rest[size + 2 :]


# --- the run


class Side(asyncio.Protocol):
    """One connection of the test."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.pieces = list(script.pieces)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owed = b""
        self._has_left = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def write(self) -> None:
        """The next piece."""
        if self._has_left or self.transport.is_closing():
            return
        self.transport.write(self.pieces.pop(0))
        if not self.pieces:
            self.transport.write(self._owed)
            self._owed = b""
            if self.script.leaves:
                self._has_left = True
                asyncio.get_running_loop().call_soon(self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            self._owed += self.script.feed(data)
            if not self.pieces:
                self.transport.write(self._owed)
                self._owed = b""
        except Exception as error:
            self.done.set_exception(error)
            return
        if self.script.is_over():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done.done():
            return
        try:
            self.script.lost()
        except AssertionError as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


async def play(running: Gateway, plan: Plan) -> None:
    """Send everything in the plan's order, and wait for every answer."""
    loop = asyncio.get_running_loop()
    sides: dict[int, Side] = {}
    for script in plan.scripts:
        port = running.grpc_port if isinstance(script, GrpcScript) else running.port
        _, side = await loop.create_connection(lambda script=script: Side(script), "127.0.0.1", port)
        sides[id(script)] = side
    for script, pause in plan.order:
        sides[id(script)].write()
        if pause is not None:
            await asyncio.sleep(pause)  # part of the interleaving: nothing waits for it
    waiting = [side.done for side in sides.values()]
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*waiting)
    except TimeoutError:
        left = [(ask.dialect, ask.kind, ask.rows) for script in plan.scripts for ask in script.asks]
        raise AssertionError(f"{len(left)} requests hang: {left[:5]}") from None
    finally:
        for side in sides.values():
            side.transport.abort()


class Counted:
    """What the gateway has counted so far."""

    def __init__(self, running: Gateway) -> None:
        self._series = _COUNTED.findall(running.get("/metrics").text)

    def __call__(self, name: str, **labels: str) -> int:
        """Of one counter, over all series with these labels."""
        said = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            int(float(value)) for one, has, value in self._series if one == name and all(label in has for label in said)
        )


@dataclass
class Ledger:
    """What was asked since the gateway had answered so many, and what may never be answered because its caller left."""

    base: int
    asked: int = 0
    may_miss: int = 0

    def adds_up(self, running: Gateway) -> bool:
        """Whether each request was counted once: as answered, or as refused. What fails is refused too."""
        answered = ends(running) - self.base
        return self.asked - self.may_miss <= answered <= self.asked


def ends(running: Gateway) -> int:
    """Requests that got an answer or an error."""
    counted = Counted(running)
    return counted("requests") + counted("refusals")


@pytest.fixture(scope="module")
def ledger(running: Gateway, pool: Pool) -> Ledger:
    return Ledger(ends(running))


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_caller_gets_its_own_rows_whatever_else_is_asked(
    running: Gateway, pool: Pool, ledger: Ledger, seed: int
) -> None:
    plan = Plan(seed, pool)
    ledger.asked += plan.asked
    ledger.may_miss += plan.may_miss
    try:
        asyncio.run(play(running, plan))
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    until(lambda: ledger.adds_up(running), f"seed {seed}: {ledger}, and the gateway counted {ends(running)}", 10)


def test_they_did_share_batches_and_were_split_and_retried(running: Gateway, ledger: Ledger) -> None:
    counted = Counted(running)
    alone = counted("executions", endpoint="ranks")
    assert alone == counted("requests", endpoint="ranks"), "rows that depend on each other are never joined"
    assert counted("executions") - alone < counted("requests") - alone
    for reason in ("turn", "lane", "split", "retry"):
        assert counted("batches", reason=reason), reason
    for kind in ("fragile", "sums", "texts"):
        assert counted("failures", endpoint=kind), kind
