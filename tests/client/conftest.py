"""A small real HTTP server that answers what a test tells it to, in order."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Script:
    """What to answer next: (status, body, headers), "reset", "drip", or a function of the request's JSON."""

    url: str = ""
    steps: list[Any] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def then(self, *steps: Any) -> "Script":
        """These answers come next; the last one for ever."""
        self.steps += steps
        return self


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(raw) if raw else None
        self.script.seen.append(Seen(self.command, self.path, dict(self.headers), body))
        step = self.script.steps.pop(0) if len(self.script.steps) > 1 else self.script.steps[0]
        if step == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif step == "drip":
            self.drip()
        else:
            status, answer, headers = step(body) if callable(step) else step
            self.respond(status, answer, headers)

    def respond(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def drip(self) -> None:
        """A byte now and then, for ever, so that no single read is late."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.script.released.wait(0.02):
            try:
                self.wfile.write(b" ")
            except OSError:
                break
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, *_: object) -> None:
        """A client that went away is what some tests are about."""


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    server = Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    script.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def answered(body: Any) -> tuple[int, Any, dict[str, str]]:
    """As a gateway answers: one prediction for an object, a list of them for a list."""
    head = {"request_id": "r1", "model": "m", "version": 7}
    if isinstance(body, list):
        parts = [{"decision": "approve", "probability": row["x"], "score": 600} for row in body]
        return 200, {**head, "predictions": parts}, {}
    return 200, {**head, "decision": "approve", "probability": body["x"], "score": 600}, {}


def problem(status: int, code: str, **more: Any) -> tuple[int, Any, dict[str, str]]:
    """A refusal as problem+json."""
    headers = {"Retry-After": more.pop("retry_after")} if "retry_after" in more else {}
    body = {"type": "about:blank", "title": "t", "status": status, "detail": f"{code} said", "code": code, **more}
    return status, body, headers
