"""A long time under load while versions change: every answer is compared, memory is watched. `make soak`."""

from __future__ import annotations

import asyncio
import json
import statistics
import time

import msgspec
import uvloop
from rich.console import Console

from benchmarks.check import differs
from benchmarks.server import Gateway, modelyard, resident_bytes
from benchmarks.work import Work, graph_answers

CALLERS = 16
SAMPLE_S = 0.5
KEPT_REASONS = 10


class Soaked(msgspec.Struct):
    """What happened."""

    answered: int = 0
    failed: int = 0  # no answer, or not 200
    wrong: int = 0  # another answer than in process, or from a version that was not deployed
    deployments: int = 0
    slowest_deployment_s: float = 0.0
    slowest_ms: float = 0.0
    seconds: float = 0.0
    reasons: list[str] = []
    restarts: list[str] = []
    memory: dict[int, list[tuple[float, int]]] = {}  # worker -> (seconds since the start, resident bytes)

    @property
    def is_clean(self) -> bool:
        """Whether every call got its right answer, and no worker died."""
        return bool(self.answered) and not self.failed and not self.wrong and not self.restarts

    def growth_bytes(self, warm_up_s: float) -> dict[int, int]:
        """Worker -> how much more it held in the last quarter of the time after warm-up than in the first."""
        found = {}
        for pid, samples in self.memory.items():
            sizes = [size for at, size in samples if at >= warm_up_s]
            if quarter := len(sizes) // 4:
                found[pid] = int(statistics.median(sizes[-quarter:]) - statistics.median(sizes[:quarter]))
        return found


def soak(changing: tuple[Work, Work], steady: list[Work], seconds: float, every_s: float) -> Soaked:
    """Call a gateway for so long; `changing` take turns behind one endpoint, a new version every `every_s` seconds."""
    first = changing[0]
    endpoints = {work.endpoint: {1: work.digest} for work in (first, *steady)}
    shelves = [work.shelf for work in (*changing, *steady)]
    with modelyard(endpoints, shelves) as gateway, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Soak(gateway, changing, steady, seconds, every_s).run())


class _Soak:
    def __init__(
        self, gateway: Gateway, changing: tuple[Work, Work], steady: list[Work], seconds: float, every_s: float
    ) -> None:
        self.gateway, self.changing, self.steady = gateway, changing, steady
        self.every_s = every_s
        self.began = time.monotonic()
        self.until = self.began + seconds
        self.live = {1}  # versions that may answer now
        self.said = Soaked()
        # Version n is graph n - 1, modulo two: each answers the same rows differently.
        self.answers = [graph_answers(work, changing[0].bodies) for work in changing]

    async def run(self) -> Soaked:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deploy())
            tasks.create_task(self._watch())
            for number in range(CALLERS):
                work = (self.changing[0], *self.steady)[number % (1 + len(self.steady))]
                tasks.create_task(self._call(work, number))
        self.said.seconds = time.monotonic() - self.began
        state = self.gateway.state()
        self.said.restarts = list(state.restarts) if state else ["the gateway's state is gone"]
        return self.said

    async def _deploy(self) -> None:
        moving = self.changing[0].endpoint
        number = 1
        while time.monotonic() + self.every_s < self.until:
            await asyncio.sleep(self.every_s)
            number += 1
            self.live = {number - 1, number}
            began = time.monotonic()
            held = {moving: {number: self.changing[(number - 1) % 2].digest}}
            revision = self.gateway.publish(held | {work.endpoint: {1: work.digest} for work in self.steady})
            while not self.gateway.serves(revision) and time.monotonic() < began + 30:
                await asyncio.sleep(0.02)
            self.said.slowest_deployment_s = max(self.said.slowest_deployment_s, time.monotonic() - began)
            self.said.deployments += 1

    async def _watch(self) -> None:
        while time.monotonic() < self.until:
            for pid in self.gateway.workers():
                if (size := resident_bytes(pid)) is not None:
                    self.said.memory.setdefault(pid, []).append((time.monotonic() - self.began, size))
            await asyncio.sleep(SAMPLE_S)

    async def _call(self, work: Work, number: int) -> None:
        line: _Line | None = None
        turn = number
        while time.monotonic() < self.until:
            at = turn % len(work.bodies)
            turn += 1
            began = time.monotonic()
            try:
                line = line or await _Line.open(self.gateway, work.path)
                status, answer = await asyncio.wait_for(line.ask(work.bodies[at]), 10)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                self._note("failed", f"{type(error).__name__}: {error}")
                line = None
                continue
            self.said.slowest_ms = max(self.said.slowest_ms, (time.monotonic() - began) * 1e3)
            self._judge(work, at, status, answer)
        if line is not None:
            line.close()

    def _judge(self, work: Work, at: int, status: int, answer: bytes) -> None:
        if status != 200:
            self._note("failed", f"status {status}: {answer[:200]!r}")
            return
        expected = work.expected["modelyard"][at]
        if work is self.changing[0]:
            version = int(json.loads(answer)["model_version"])
            if version not in self.live:
                self._note("wrong", f"version {version} answered while {sorted(self.live)} were deployed")
                return
            expected = self.answers[(version - 1) % 2][at]
        if reason := differs(status, answer, expected):
            self._note("wrong", reason)
        else:
            self.said.answered += 1

    def _note(self, kind: str, reason: str) -> None:
        setattr(self.said, kind, getattr(self.said, kind) + 1)
        if len(self.said.reasons) < KEPT_REASONS:
            self.said.reasons.append(f"{kind}: {reason}")


class _Line:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader, self._writer, self._head = reader, writer, head

    @classmethod
    async def open(cls, gateway: Gateway, path: str) -> _Line:
        """Connect."""
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        lines = "".join(f"{name}: {value}\r\n" for name, value in gateway.headers.items())
        return cls(reader, writer, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}".encode())

    async def ask(self, body: str) -> tuple[int, bytes]:
        """Status and body of the answer."""
        data = body.encode()
        self._writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(data), data))
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def tell(console: Console, said: Soaked, warm_up_s: float) -> None:
    """Print what happened."""
    console.print(
        f"{said.answered:,} right answers in {said.seconds:.0f} s from {CALLERS} callers "
        f"({said.answered / said.seconds:,.0f}/s); failed {said.failed}, wrong {said.wrong}; "
        f"slowest {said.slowest_ms:.0f} ms"
    )
    console.print(
        f"{said.deployments} deployments under load; "
        f"the slowest was served by every worker after {said.slowest_deployment_s:.2f} s"
    )
    for reason in (*said.reasons, *said.restarts):
        console.print(f"  {reason}", markup=False)
    growth = said.growth_bytes(warm_up_s)
    for pid, grown in growth.items():
        held = said.memory[pid][-1][1]
        console.print(f"worker {pid}: {held / 1e6:.0f} MB resident, {grown / 1e6:+.1f} MB after warm-up")
    if not growth:
        console.print("memory: too short a time, or a system that does not tell")
