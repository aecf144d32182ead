"""Neighbours that mean harm, each a process of its own: `python -m benchmarks.hostile KIND PORT KEY` until SIGTERM.

It says "ready" when it has begun, and at its end what it was answered, as JSON. It speaks to loopback alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable

from benchmarks.growth import raise_open_files

PATH = "/v2/models/credit1/infer"
IDLE = 10_000
FEATURES = 20


class Neighbour:
    """One of them: a port, a key, and how often it was answered what."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.answers: Counter[str] = Counter()

    def request(self, body: bytes, *headers: str) -> bytes:
        """A POST with a good key."""
        lines = [f"POST {PATH} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self.key}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def repeat(self, request: bytes, connections: int) -> None:
        """Send it again and again, over so many connections."""
        _ready()
        await asyncio.gather(*(self._repeat(request) for _ in range(connections)))

    async def _repeat(self, request: bytes) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.answers["not connected"] += 1
                await asyncio.sleep(0.1)
                continue
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                while True:
                    writer.write(request)
                    self.answers["asked"] += 1
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                    await reader.readexactly(int(length))
                    self.answers[head[9:12].decode()] += 1
            self.answers["closed"] += 1
            writer.close()


async def gzip_bombs(one: Neighbour) -> None:
    """A tenth of a megabyte that inflates to a hundred."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b" " * 1_000_000) for _ in range(100)) + packer.flush()
    await one.repeat(one.request(bomb, "Content-Encoding: gzip"), 2)


async def nested_json(one: Neighbour) -> None:
    """Brackets in brackets, a hundred thousand deep."""
    await one.repeat(one.request(b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), 2)


async def many_rows(one: Neighbour) -> None:
    """Ten thousand rows in each request, one request after the other."""
    await one.repeat(one.request(_rows(10_000)), 1)


async def binary_rows(one: Neighbour) -> None:
    """Two thousand rows in each request, as raw numbers: little enough for the worker itself, one after the other."""
    count = 2_000
    numbers = array("f", _numbers(count))
    tensor = {"name": "rows", "shape": [count, FEATURES], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": 4 * len(numbers)}
    head = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()
    await one.repeat(one.request(head + numbers.tobytes(), f"Inference-Header-Content-Length: {len(head)}"), 2)


async def slow_readers(one: Neighbour) -> None:
    """Fifty connections that ask for a thousand rows, one after the other and again, and read nothing."""
    held = []
    for _ in range(50):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", one.port))
        reader.settimeout(0.2)
        held.append(reader)
    request = one.request(_rows(1_000))
    _ready()
    loop = asyncio.get_running_loop()
    for reader in itertools.cycle(held):
        try:
            await loop.run_in_executor(None, reader.sendall, request)
            one.answers["asked"] += 1
        except OSError:  # the other side stops reading those who do not read, as it should
            one.answers["not heard"] += 1
        await asyncio.sleep(0.05)


async def idle(one: Neighbour) -> None:
    """Ten thousand connections that are answered once and then say nothing."""
    raise_open_files(2 * IDLE)
    held = []
    for _ in range(IDLE):
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port, limit=4096)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        one.answers[head[9:12].decode()] += 1
        held.append((reader, writer))
    _ready()
    await asyncio.Event().wait()


KINDS: dict[str, Callable[[Neighbour], Awaitable[None]]] = {
    "gzip bombs": gzip_bombs,
    "nested JSON": nested_json,
    "slow readers": slow_readers,
    "10,000 idle connections": idle,
    "10,000-row requests": many_rows,
    "2,000 binary rows": binary_rows,
}


def _rows(count: int) -> bytes:
    tensor = {"name": "rows", "shape": [count, FEATURES], "datatype": "FP32", "data": _numbers(count)}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def _numbers(count: int) -> list[float]:
    return [((row * 7 + column * 3) % 400 - 200) / 100 for row in range(count) for column in range(FEATURES)]


def _ready() -> None:
    print("ready", flush=True)


async def _run(kind: str, port: int, key: str) -> None:
    one = Neighbour(port, key)
    work = asyncio.ensure_future(KINDS[kind](one))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work
    print(json.dumps(one.answers), flush=True)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
