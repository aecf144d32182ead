"""The walk in the documentation is the walk in the code: files exist, names are where they are said to be."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/life-of-a-request.md").read_text("utf-8")
NAMES = re.compile(r"`(src/modelyard/[\w/]+\.py)`|`([A-Za-z_]\w*(?:\.\w+)?)`")


def names_in(path: Path) -> set[str]:
    """Every class, function and `Class.method` of a file."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                        found |= {f"{node.name}.{part.name}", part.name}
    return found


def said_files() -> list[Path]:
    return [ROOT / found for found in re.findall(r"`(src/modelyard/[\w/]+\.py)`", PAGE)]


def said_names() -> list[str]:
    """Everything in backticks that looks like a Python name of ours."""
    known_words = {"submit", "admit"}  # methods said without their class, in a paragraph about that class
    return [name for _, name in NAMES.findall(PAGE) if name and name not in known_words]


def test_every_file_exists() -> None:
    assert said_files()
    assert [path for path in said_files() if not path.is_file()] == []


def test_every_name_is_in_one_of_the_files() -> None:
    known = set().union(*(names_in(path) for path in said_files())) | {"ModelyardError"}
    assert [name for name in said_names() if name not in known] == []


STOPS = [
    ("serve/http.py", "HttpServer.__call__", "Connection("),
    ("serve/http_connection.py", "Connection.on_headers_complete", "check_head("),
    ("serve/http_connection.py", "Connection.on_headers_complete", "server.app.admit("),
    ("serve/gateway.py", "Gateway.admit", "parse("),
    ("serve/gateway.py", "Gateway.admit", "admission.identify("),
    ("serve/http_connection.py", "Connection.on_message_complete", "self._hand_over("),
    ("serve/http_connection.py", "Connection._hand_over", "server.app.handle("),
    ("serve/gateway.py", "Gateway.handle", "target.handler("),
    ("serve/handlers.py", "predict", "gateway.call("),
    ("serve/gateway.py", "Gateway.call", "inference.infer("),
    ("serve/inference.py", "Inference.infer", "route.choose("),
    ("serve/inference.py", "Inference.infer", "dialect.read("),
    ("serve/inference.py", "Inference.infer", "shadow.follow("),
    ("serve/inference.py", "Inference.infer", "replica.submit("),
    ("serve/native.py", "read_rows", "encoder.decode_json("),
    ("serve/replica.py", "Replica._turn", "take_turn("),
    ("serve/replica.py", "Replica.compute", "loaded.predict("),
    ("runtimes/version.py", "LoadedVersion.predict", "runtime.predict("),
    ("serve/replica.py", "Replica.say", "call.say("),
    ("serve/native.py", "say_prediction", "exchange.respond("),
    ("serve/exchange.py", "Exchange.respond", "connection.flush("),
    ("serve/replica.py", "Replica.say", "telemetry.note("),
    ("serve/http2.py", "Connection._open", "server.open("),
    ("serve/grpc.py", "GrpcEdge._admit", "admission.identify("),
    ("serve/grpc.py", "GrpcEdge.open", "admitted.method.begin("),
    ("serve/grpc_methods.py", "methods", "partial(InferCall, infer)"),
    ("serve/http2.py", "Connection._whole", "stream.receiver.arrived("),
    ("serve/grpc_rpc.py", "Unary.receive", "self.take("),
    ("serve/grpc_infer.py", "InferCall.take", "_infer.begin("),
    ("serve/grpc_infer.py", "Infer.begin", "inference.infer("),
    ("serve/grpc_infer.py", "Infer._read", "repeated.read("),
    ("serve/grpc_infer.py", "Infer._read", "read_message("),
    ("serve/grpc_response.py", "Responses.say", "exchange.respond("),
    ("serve/grpc_rpc.py", "Unary.respond", "self.reply("),
    ("serve/grpc_rpc.py", "Rpc.reply", "stream.send("),
    ("serve/http2_stream.py", "Stream.send", "transport.write("),
]


@pytest.mark.parametrize(("file", "name", "calls"), STOPS, ids=[f"{name} -> {calls}" for _, name, calls in STOPS])
def test_each_stop_calls_the_next(file: str, name: str, calls: str) -> None:
    source = (ROOT / "src/modelyard" / file).read_text("utf-8")
    bodies = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bodies |= {f"{node.name}.{part.name}": part for part in node.body if isinstance(part, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            bodies.setdefault(node.name, node)
    assert calls in (ast.get_source_segment(source, bodies[name]) or "")
