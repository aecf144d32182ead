"""Requests whose shape promises more than they send, beside neighbours who send marked values: no mark ever strays.

A rival joined such a request with others' and answered it with what stood next in its memory. Here REST in JSON and in
binary, gRPC in raw and typed contents and gRPC's stream are mixed on one version, so that their rows share batches.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from kit.gateway import Gateway, gateway, plan
from kit.grpc import Caller
from kit.lines import Line, request
from kit.tensor_versions import store_identity
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.serve.grpc_messages import message_class

pytestmark = pytest.mark.journey

ROUNDS = 60
WIDTH = 4
PATH = "/v2/models/loans/infer"
LENGTH = "Inference_Header_Content_Length"
INFER = message_class("inference.ModelInferRequest")
ANSWER = message_class("inference.ModelInferResponse")
STREAMED = message_class("inference.ModelStreamInferResponse")
LIES = ((1000, 1), (2, 1), (1, 0), (64, 63), (3, 4))  # rows that the shape says, rows that are sent


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("marked") / "home"
    digest = store_identity(Shelf(Home(root).prepare().shelf), ("FP32",), (-1, WIDTH))
    with gateway(root, plan(1, {1: digest}), workers=1) as one:
        yield one


def mark(number: int) -> np.float32:
    """A caller's own value: its bytes stand in nobody else's data, nor in any head."""
    return np.float32(1000.0 + number + 1 / 3)


def rows_of(number: int, rows: int) -> np.ndarray:
    return np.full((rows, WIDTH), mark(number), dtype=np.float32)


def tensor(said: int) -> dict[str, Any]:
    return {"name": "in_FP32", "shape": [said, WIDTH], "datatype": "FP32"}


def as_json(values: np.ndarray, said: int) -> bytes:
    return request(PATH, {"inputs": [tensor(said) | {"data": values.reshape(-1).tolist()}]})


def as_binary(values: np.ndarray, said: int, *, size: int | None = None) -> bytes:
    size = values.nbytes if size is None else size
    wants = {"inputs": [tensor(said) | {"parameters": {"binary_data_size": size}}]}
    head = json.dumps(wants | {"parameters": {"binary_data_output": True}}).encode()
    return request(PATH, head + values.tobytes(), **{LENGTH: str(len(head))})


def as_raw(values: np.ndarray, said: int) -> Any:
    return INFER(model_name="loans", inputs=[tensor(said)], raw_input_contents=[values.tobytes()])


def as_typed(values: np.ndarray, said: int) -> Any:
    contents = {"fp32_contents": values.reshape(-1).tolist()}
    return INFER(model_name="loans", inputs=[tensor(said) | {"contents": contents}])


# --- callers: each sends good and lying requests in turns, and gets back what it was told, status and bytes

Asks = Callable[[np.ndarray, int], tuple[bool, bytes, np.ndarray | None]]


def rest(running: Gateway, write: Callable[..., bytes]) -> tuple[Asks, Callable[[], None]]:
    line = Line(running.port)

    def ask(values: np.ndarray, said: int) -> tuple[bool, bytes, np.ndarray | None]:
        (reply,) = line.ask(write(values, said))
        if reply.status != 200:
            assert reply.status == 400, reply
            return False, reply.body, None
        length = reply.headers.get("inference-header-content-length")
        if length is not None:
            return True, reply.body, np.frombuffer(reply.body[int(length) :], dtype=np.float32)
        return True, reply.body, np.array(reply.json()["outputs"][0]["data"], dtype=np.float32)

    return ask, line.socket.close


def unary(running: Gateway, write: Callable[..., Any]) -> tuple[Asks, Callable[[], None]]:
    line = Caller(running.grpc_port)

    def ask(values: np.ndarray, said: int) -> tuple[bool, bytes, np.ndarray | None]:
        reply = line.call("ModelInfer", write(values, said))
        if reply.status != 0:
            assert reply.status == 3, (reply.status, reply.text)
            return False, reply.body + repr(reply.trailers | reply.headers).encode(), None
        (message,) = reply.messages()
        return True, message, np.frombuffer(ANSWER.FromString(message).raw_output_contents[0], dtype=np.float32)

    return ask, line.close


def streamed(running: Gateway, write: Callable[..., Any]) -> tuple[Asks, Callable[[], None]]:
    line = Caller(running.grpc_port)
    number = line.open("ModelStreamInfer")
    taken = 0

    def ask(values: np.ndarray, said: int) -> tuple[bool, bytes, np.ndarray | None]:
        nonlocal taken
        line.send(number, write(values, said))
        message = line.wait(number, messages=taken + 1).messages()[taken]
        taken += 1
        answer = STREAMED.FromString(message)
        if answer.error_message:
            return False, message, None
        raw = answer.infer_response.raw_output_contents[0]
        return True, message, np.frombuffer(raw, dtype=np.float32)

    return ask, line.close


def too_small(values: np.ndarray, said: int) -> bytes:
    """Binary whose size is what the shape needs, and more than is there."""
    return as_binary(values, said, size=said * WIDTH * 4)


CALLERS = [
    (rest, as_json),
    (rest, as_binary),
    (rest, too_small),
    (unary, as_raw),
    (unary, as_typed),
    (streamed, as_raw),
]


def call(running: Gateway, number: int, start: threading.Barrier, faults: list[str]) -> None:
    kind, write = CALLERS[number % len(CALLERS)]
    ask, close = kind(running, write)
    others = [mark(other).tobytes() for other in range(2 * len(CALLERS)) if other != number]
    texts = [repr(float(mark(other))).encode() for other in range(2 * len(CALLERS)) if other != number]
    try:
        start.wait(20)
        for turn in range(ROUNDS):
            said, sent = LIES[turn // 2 % len(LIES)] if turn % 2 else (1 + turn % 7, 1 + turn % 7)
            is_good, data, values = ask(rows_of(number, sent), said)
            assert is_good == (said == sent), f"{write.__name__}: {said} rows said, {sent} sent, and it was {is_good}"
            assert not any(one in data for one in (*others, *texts)), f"{write.__name__}: a neighbour's mark"
            if values is not None:
                assert values.tobytes() == rows_of(number, sent).tobytes(), f"{write.__name__}: not its own rows"
    except Exception as error:
        faults.append(f"caller {number}: {type(error).__name__}: {error}")
    finally:
        close()


def test_a_shape_that_promises_more_than_is_sent_shows_nobodys_marked_values(running: Gateway) -> None:
    count = 2 * len(CALLERS)
    start = threading.Barrier(count)
    faults: list[str] = []
    threads = [
        threading.Thread(target=call, args=(running, number, start, faults), daemon=True) for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a caller hangs"
    assert not faults, faults[:5]
    stats = running.get("/v2/models/loans/stats").json()["model_stats"][0]
    assert stats["execution_count"] < stats["inference_count"], "neighbours shared batches"
    assert '"fault"' not in running.log.read_text()
