"""NDJSON: a request whose rows come one a line, answered one a line, in order, each as soon as it is ready.

A line is a call like any other: checked, charged and batched with whatever else is there, and a bad one costs nobody
but itself. At most `OUTSTANDING` lines are unanswered: then nothing more is read until some answers have left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelyard.contract.errors import InvalidInput, ModelyardError, TooLarge
from modelyard.serve.call import Caller
from modelyard.serve.exchange import Exchange

if TYPE_CHECKING:
    import asyncio

NDJSON = b"application/x-ndjson"
TYPES = frozenset((NDJSON, b"application/ndjson", b"application/jsonl", b"application/x-jsonlines"))
OUTSTANDING = 256  # lines read and not answered
LINES_A_TURN = 32  # read at once: one stream does not hold the loop up


class LineSlot:
    """One line, and the place of its answer."""

    __slots__ = ("answer", "body", "headers", "stream")

    def __init__(self, stream: NdjsonStream, body: bytes) -> None:
        self.stream = stream
        self.body: bytes | bytearray = body
        self.headers = stream.exchange.headers
        self.answer: bytes | None = None

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.stream.exchange.is_gone

    def refuse(self, error: ModelyardError) -> None:
        """Answer with an error; the stream goes on."""
        self._settle(self.stream.problem(error))

    def respond(self, status: int, body: bytes, content_type: bytes = b"", headers: bytes = b"") -> None:
        """Answer with a body, which is one line."""
        self._settle(body)

    def _settle(self, answer: bytes) -> None:
        if self.answer is None:
            self.answer = answer
            self.stream.settled()


class NdjsonStream:
    """One streaming request."""

    def __init__(
        self,
        exchange: Exchange,
        ask: Callable[[Caller, bool], None],
        problem: Callable[[ModelyardError], bytes],
        loop: asyncio.AbstractEventLoop,
        max_line_bytes: int,
    ) -> None:
        """`ask` starts the story of one line (whether it is the first); `problem` writes an error as one line."""
        self.exchange = exchange
        self.problem = problem
        self._ask, self._loop, self._max_line_bytes = ask, loop, max_line_bytes
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._tail = bytearray()
        self._is_skipping = False  # the rest of a line that is too long
        self._slots: deque[LineSlot] = deque()
        self._is_first = True
        self._has_ended = False
        self._has_begun = False
        self._is_done = False
        self._is_flushing = self._is_taking = False

    def feed(self, chunk: bytes) -> None:
        """Bytes of the body. Raises Overloaded where they are more than may wait."""
        if self._is_done:
            return
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._whole(bytes(self._tail) + line)
            self._tail.clear()
        self._tail += rest
        if len(self._tail) > self._max_line_bytes:
            if not self._is_skipping:
                self._is_skipping = True
                self._unread.append(b"")  # answered as too long
            self._tail.clear()
        self.exchange.weigh(self._unread_bytes + len(self._tail))
        if lines:
            self.exchange.made_progress()
        self._take()

    def end(self) -> None:
        """The body is whole."""
        self._whole(bytes(self._tail))
        self._tail.clear()
        self._has_ended = True
        self._take()

    def abort(self, error: ModelyardError) -> None:
        """Answer what is answered, then say why there is no more, and end the connection."""
        if self._is_done:
            return
        answers = [slot.answer for slot in self._slots if slot.answer is not None]
        self.drop()
        self._send([*answers, self.problem(error)])
        self.exchange.finish()

    def drop(self) -> None:
        """The request ends here, and its answer is somebody else's."""
        self._is_done = True
        self._unread.clear()
        self._tail.clear()
        self._slots.clear()

    def settled(self) -> None:
        """An answer is there; those whose turn it is leave together at the end of this turn of the loop."""
        if not self._is_flushing and self._slots and self._slots[0].answer is not None:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _whole(self, line: bytes) -> None:
        if self._is_skipping:
            self._is_skipping = False
        elif len(line) > self._max_line_bytes:
            self._unread.append(b"")
        elif line.strip():
            self._unread.append(line)
            self._unread_bytes += len(line)

    def _take(self) -> None:
        """Start as many lines as there is room for; the others wait, and so does the caller."""
        if self._is_taking or self._is_done or self.exchange.is_gone:
            return
        taken = 0
        while self._unread and len(self._slots) < OUTSTANDING and taken < LINES_A_TURN:
            taken += 1
            slot = LineSlot(self, self._unread.popleft())
            self._unread_bytes -= len(slot.body)
            self._slots.append(slot)
            is_first, self._is_first = self._is_first, False
            if not slot.body:
                slot.refuse(TooLarge(f"a line is above the limit of {self._max_line_bytes} bytes"))
                continue
            try:
                self._ask(slot, is_first)
            except ModelyardError as error:
                slot.refuse(error)
        if self._unread and len(self._slots) < OUTSTANDING:
            self._is_taking = True
            self._loop.call_soon(self._go_on)
        self.exchange.weigh(self._unread_bytes + len(self._tail))
        self.exchange.hold(bool(self._unread))
        self._finish_if_whole()

    def _go_on(self) -> None:
        self._is_taking = False
        self._take()

    def _flush(self) -> None:
        self._is_flushing = False
        if self._is_done:
            return
        answers = []
        while self._slots and (answer := self._slots[0].answer) is not None:
            self._slots.popleft()
            answers.append(answer)
        self._send(answers)
        self._take()

    def _send(self, answers: list[bytes]) -> None:
        if not self._has_begun:
            self._has_begun = True
            self.exchange.begin(200, NDJSON)
        if answers:
            self.exchange.send(b"".join(b"%b\n" % answer for answer in answers))

    def _finish_if_whole(self) -> None:
        if self._has_ended and not self._unread and not self._slots and not self._is_done:
            self._is_done = True
            if self._is_first:
                self.exchange.refuse_whole(InvalidInput("the body holds no line"))
                return
            self.exchange.finish()
