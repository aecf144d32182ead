"""One client's HTTP/1.1 connection: bytes in, whole admitted requests out; answers leave in request order.

Strict where leniency has cost others: one Host, one length, trailers never become headers, bytes are counted before
the end of the headers, and every state of a connection has a deadline that a trickle of bytes does not extend.
The parser is llhttp (through httptools); what it lets through and we do not is refused here (`http_heads.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools

from modelyard.contract.errors import InvalidInput, ModelyardError, Overloaded, TooLarge
from modelyard.serve.exchange import Exchange
from modelyard.serve.http_heads import (
    SINGLE,
    KnownHead,
    Refusal,
    body_too_large,
    check_head,
    head_too_large,
    sent_twice,
)

if TYPE_CHECKING:
    from modelyard.serve.http import HttpServer

DISCARD_BYTES = 64 * 1024  # a refused request's body up to this size is read and dropped, so the connection lives on
LINGER_S = 1.0  # how long a closing connection still reads, so that a reset does not destroy the last answer
HEAD_TRIES = 4  # heads of one connection that are looked at for a common one
NEVER = float("inf")


class Connection(asyncio.Protocol):
    """One client's connection. Reads requests, keeps their order, enforces every limit and deadline."""

    __slots__ = (
        "chunk", "closing", "current", "deadline", "ended", "fresh", "handing", "head_bytes", "head_count", "held",
        "in_head", "known", "memo", "parser", "paused", "problem", "raw_bytes", "server", "slots", "stalled",
        "transport", "tries", "upgrading", "waiting", "write_deadline",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpRequestParser(self)
        self.slots: deque[Exchange] = deque()  # requests whose answer has not left, oldest first
        self.held: deque[Exchange] = deque()  # whole requests above max_outstanding
        self.waiting = 0  # handed to the application, not yet answered
        self.current: Exchange | None = None
        self.in_head = self.upgrading = self.paused = False
        self.handing = False  # a held request is being handed over
        self.stalled = False  # a stream has as much as it can hold
        self.memo: Any = None  # the application's own: what it found out about the head that came last
        self.known: KnownHead | None = None
        self.tries = 0
        self.fresh: bytes | None = None  # the bytes at hand, when a request begins with them
        self.chunk = 0
        self.ended = False  # a request ended in the bytes at hand: how many are the next one's is not known
        self.head_bytes = self.head_count = self.raw_bytes = 0
        self.problem: Refusal | None = None  # found while the head was read
        self.closing = False  # nothing further is read as a request
        self.deadline = self.write_deadline = NEVER

    # --- the socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.deadline = self.server.now() + self.server.settings.idle_timeout_s
        self.server.connections.add(self)
        if len(self.server.connections) > self.server.settings.max_connections:
            self._refuse_and_close(Overloaded("the gateway holds max_connections connections; try again shortly"), 503)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._let_go()
        self.transport = None
        del self.parser  # it refers back to us; without this only the cycle collector would free either

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        at_rest = self.current is None and not self.slots
        if at_rest and self.known is not None and self._repeats(data, self.known):
            return
        self.fresh = data if at_rest else None
        in_body = self.current is not None and not self.in_head
        self.chunk = len(data)
        self.ended = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._refuse_and_close(self.server.app.failed(error), 500)
            return
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if not self.closing:
                self._refuse_and_close(InvalidInput("the bytes received are not a valid HTTP/1.1 request"), 400)
            return
        if self.closing or self.current is None or self.ended:
            return  # the next data_received counts on; a head is measured exactly once it is whole
        settings = self.server.settings
        if self.in_head:
            self.head_bytes += len(data)
            if self.head_bytes > settings.max_header_bytes:
                self._refuse_and_close(*head_too_large(settings))
        elif in_body and self.current.sink is None:
            # What the parser delivers is counted in on_body; this counts what it swallows: chunk extensions, trailers.
            self.raw_bytes += len(data)
            if self.raw_bytes > 2 * settings.max_body_bytes + DISCARD_BYTES:
                self._refuse_and_close(TooLarge("the chunked body's framing is larger than what it frames"), 413)

    def eof_received(self) -> bool:
        """A half-closed caller still gets the answers it waits for."""
        if self.current is not None or not self.slots:
            self.closing = True
            if self.current is not None:
                self.current.drop()
                if self.current in self.slots:
                    self.slots.remove(self.current)
                self.current = None
        if not self.slots and not self.held:
            return False
        self.closing = True
        self.slots[-1].keep_alive = False
        return True

    def pause_writing(self) -> None:
        self.write_deadline = self.server.now() + self.server.settings.write_timeout_s
        self._pause_reading()

    def resume_writing(self) -> None:
        self.write_deadline = NEVER
        if self.held:
            self.flush()
        self._resume_reading()

    # --- the parser's side

    def on_message_begin(self) -> None:
        if self.closing or self.upgrading:
            return
        self.current = Exchange(self)
        self.in_head = True
        self.head_bytes = self.head_count = self.raw_bytes = 0
        self.problem = None
        self.deadline = self.server.now() + self.server.settings.header_timeout_s

    def on_url(self, fragment: bytes) -> None:
        if self.current and not self.upgrading:
            self.current.target += fragment

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self.current
        if exchange is None or not self.in_head or self.upgrading:
            # A trailer: never a header. Its bytes are counted in data_received.
            return
        self.head_count += 1
        name = name.lower()
        headers = exchange.headers
        if name in headers:
            if name in SINGLE:
                self.problem = sent_twice(name)
                return
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        exchange = self.current
        if exchange is None or self.upgrading:
            return
        self.in_head = False
        server = self.server
        exchange.method = self.parser.get_method()
        self.slots.append(exchange)
        size = self.head_bytes + self.chunk  # an upper bound; the exact size is only wanted above the limit
        version = self.parser.get_http_version()
        wrong = self.problem or check_head(exchange, version, size, self.head_count, server.settings)
        if wrong is not None:
            self._refuse_and_close(*wrong, exchange)
            return
        try:
            server.app.admit(exchange)
        except ModelyardError as error:
            self._refuse_early(exchange, error)
            return
        self.upgrading = b"upgrade" in exchange.headers and exchange.length != 0 and self.parser.should_upgrade()
        self.deadline = server.now() + server.settings.body_timeout_s
        if exchange.expects and len(self.slots) == 1 and self.transport:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        exchange = self.current
        if exchange is None or exchange.refused:
            return
        try:
            if exchange.sink is not None:
                exchange.sink.feed(chunk)
                return
            size = len(exchange.body) + len(chunk)
            if size > self.server.settings.max_body_bytes:
                self._refuse_and_close(*body_too_large(self.server.settings), exchange)
                return
            if size != exchange.length:  # there is more to come
                exchange.weigh(size)
        except Overloaded as error:
            self._refuse_and_close(error, None, exchange)
            return
        if not exchange.body:
            exchange.body = chunk
            return
        if type(exchange.body) is bytes:
            exchange.body = bytearray(exchange.body)
        exchange.body += chunk

    def on_message_complete(self) -> None:
        if self.upgrading:
            return
        exchange, self.current = self.current, None
        self.ended = True
        if exchange is None:
            return
        exchange.keep_alive = self.parser.should_keep_alive() and not self.closing
        if not exchange.keep_alive:
            self.closing = True
        self.deadline = NEVER
        if self.fresh is not None and self.tries < HEAD_TRIES:
            self.tries += 1
            self.known = KnownHead.of(exchange, self.fresh, self.server.settings.max_body_bytes) or self.known
        self.fresh = None
        if exchange.refused:
            self.flush()
        elif exchange.sink is not None:
            exchange.sink.end()
        elif self._is_busy():
            self._hold(exchange)
        else:
            self._hand_over(exchange)

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """An upgrade is not taken up, as HTTP allows: some clients offer HTTP/2 with every first request.

        httptools takes the body of such a request for another protocol, so a fresh parser is told of the body alone.
        """
        self.parser = httptools.HttpRequestParser(self)
        if self.upgrading and self.current is not None:
            length = self.current.length
            framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self.upgrading = False
        if rest:
            self.data_received(rest)

    def _repeats(self, data: bytes, known: KnownHead) -> bool:
        """Handle one whole request whose head is one that was parsed and admitted, if `data` is that.

        The same bytes mean the same: only admission is asked again. Anything else goes to the parser.
        """
        if (body := known.body_in(data)) is None:
            return False
        exchange = Exchange(self)
        exchange.method, exchange.target, exchange.headers = b"POST", known.target, known.headers
        exchange.body, exchange.keep_alive = body, True
        self.slots.append(exchange)
        self.deadline = NEVER
        try:
            self.server.app.admit(exchange)
        except ModelyardError as error:
            exchange.refused = True
            self.server.app.refuse(exchange, error)
        else:
            self._hand_over(exchange)
        return True

    # --- between the two

    def flush(self) -> None:
        """Send every answer whose turn it is."""
        transport, slots = self.transport, self.slots
        if transport is None:
            return
        while slots:
            exchange = slots[0]
            if (response := exchange.response) is None:
                if not exchange.is_begun or not self._flush_pieces(exchange):
                    break
                continue
            if exchange is self.current and exchange.keep_alive and not self.closing:
                return  # refused early: it leaves when the rest of the request has been read
            slots.popleft()
            transport.write(response)
            if not exchange.refused:
                self.waiting -= 1
            if not exchange.keep_alive:
                self._linger()
                return
        while self.held and not self.handing and not self._is_busy():
            self.handing = True  # what is answered at once comes back here: without this, once deeper for each
            self._hand_over(self.held.popleft())
            self.handing = False
        if self.closing:
            return
        if self.paused and not self.held:
            self._resume_reading()
        if not slots and self.current is None:
            self.deadline = self.server.now() + self.server.settings.idle_timeout_s

    def _flush_pieces(self, exchange: Exchange) -> bool:
        """Send what there is of the first answer, which comes in pieces; whether the next one may follow."""
        if exchange.parts and self.transport is not None:
            self.transport.write(b"".join(exchange.parts))
            exchange.parts.clear()
        if not exchange.is_finished:
            return False
        if exchange.sink is None and not exchange.refused:
            self.waiting -= 1
        is_cut = exchange is self.current  # it ended before its request did: what follows cannot be told apart
        self.slots.popleft()
        if is_cut or not exchange.keep_alive or self.server.draining:
            self.current = None
            self._linger()
            return False
        return True

    @property
    def is_held_up(self) -> bool:
        """Whether what was written waits for a caller who does not read."""
        return self.write_deadline != NEVER

    def extend(self) -> None:
        """A streamed request goes on: its deadline starts again."""
        if self.deadline != NEVER:
            self.deadline = self.server.now() + self.server.settings.body_timeout_s

    def stall(self, is_full: bool) -> None:
        """Stop reading while a stream holds as much as it can; then nobody blames the caller for being slow."""
        if is_full and not self.stalled:
            self.stalled = True
            self.deadline = NEVER
            self._pause_reading()
        elif self.stalled and not is_full:
            self.stalled = False
            if self.current is not None:
                self.deadline = self.server.now() + self.server.settings.body_timeout_s
            self._resume_reading()

    def expire(self, now: float) -> None:
        """A deadline has passed: say so where someone may listen, then close."""
        if self.transport is None:
            return
        if self.write_deadline < now or self.closing or (self.current is None and not self.slots):
            self.transport.abort() if self.write_deadline < now else self.transport.close()
        elif self.in_head:
            self._refuse_and_close(InvalidInput("the headers did not arrive within header_timeout_s"), 408)
        else:
            self._refuse_and_close(InvalidInput("the body did not arrive within body_timeout_s"), 408)

    def _is_busy(self) -> bool:
        """Whether a further request has to wait: for the answers of others, or for the caller to read his own."""
        return self.waiting >= self.server.settings.max_outstanding or self.write_deadline != NEVER

    def _hold(self, exchange: Exchange) -> None:
        """Keep a whole request until it is its turn, and read no further ones meanwhile."""
        try:
            exchange.weigh(len(exchange.body))
        except Overloaded as error:
            exchange.drop()
            self.server.app.refuse(exchange, error)
            return
        self.held.append(exchange)
        self._pause_reading()

    def _hand_over(self, exchange: Exchange) -> None:
        if exchange.pending:
            exchange.settle()
        self.waiting += 1
        try:
            self.server.app.handle(exchange)
        except ModelyardError as error:
            self.server.app.refuse(exchange, error)
        except Exception as error:  # a fault of ours must cost one request, not the connection's others
            self.server.app.refuse(exchange, self.server.app.failed(error))

    def _refuse_early(self, exchange: Exchange, error: ModelyardError) -> None:
        """Refuse at the end of the headers: read a small body away, or close."""
        small = exchange.length is not None and exchange.length <= DISCARD_BYTES and not exchange.expects
        if small and b"upgrade" not in exchange.headers:
            exchange.drop()
            exchange.keep_alive = self.parser.should_keep_alive()
            self.deadline = self.server.now() + self.server.settings.body_timeout_s
            self.server.app.refuse(exchange, error)
        else:
            self._refuse_and_close(error, None, exchange)

    def _refuse_and_close(self, error: ModelyardError, status: int | None, exchange: Exchange | None = None) -> None:
        """The connection ends with this answer, after those that came before it."""
        exchange = exchange or self.current or Exchange(self)
        if exchange.sink is not None and exchange.is_begun and not exchange.is_finished:
            exchange.keep_alive = False
            exchange.sink.abort(error)
            return
        self.closing = True
        if exchange not in self.slots:
            self.slots.append(exchange)
        self.current = None
        exchange.keep_alive = False
        exchange.drop()
        self.deadline = NEVER
        self.server.app.refuse(exchange, error, status)

    def _linger(self) -> None:
        self.closing = True
        self._let_go()
        self.deadline = self.server.now() + LINGER_S
        transport = self.transport
        if transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()

    def _let_go(self) -> None:
        """Of no request a further byte is kept."""
        for exchange in self.slots:
            exchange.settle()
        self.slots.clear()
        self.held.clear()
        self.current = None

    def _pause_reading(self) -> None:
        if self.transport:
            self.paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.stalled or self.held or self.write_deadline != NEVER:
            return
        if self.transport and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()
