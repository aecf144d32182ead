"""One worker's application: who may come in, what a whole request means, and the start of the story of a call."""

from __future__ import annotations

import asyncio
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.contract.errors import Internal, InvalidInput, ModelyardError, NotFound, TooLarge
from modelyard.contract.settings import Settings
from modelyard.secure.request_ids import RequestIds
from modelyard.serve import content, dialects, handlers, native, sticky, stream, v2_metadata
from modelyard.serve.admission import Admission, Principal
from modelyard.serve.bulk import Bulk
from modelyard.serve.call import TIMEOUT, Answer, Call, Caller, seconds_of
from modelyard.serve.exchange import Exchange
from modelyard.serve.inference import Dialect, Inference
from modelyard.serve.log import log
from modelyard.serve.paths import Target, parse
from modelyard.serve.pending import PendingBytes
from modelyard.serve.pieces import Pieces
from modelyard.serve.problems import UnsupportedMedia, dialect_of, problem, status_of
from modelyard.serve.routing import Routes, UnknownEndpoint
from modelyard.serve.telemetry import Telemetry

if TYPE_CHECKING:
    from modelyard.serve.admission import Admission

_CACHED_TARGETS = 4096


class Gateway:
    """One worker's application: answers what is not inference itself, and starts the story of what is."""

    def __init__(
        self,
        settings: Settings,
        admission: Admission,
        telemetry: Telemetry,
        ids: RequestIds,
        counters_folder: Path,
        loop: asyncio.AbstractEventLoop,
        bulk: Bulk | None = None,
    ) -> None:
        self.settings = settings
        self.admission = admission  # swapped whole with the plan
        self.routes = Routes(None, {})  # swapped whole with the plan
        self.telemetry = telemetry
        self.ids = ids
        self.inference = Inference(settings.max_rows)
        self.counters_folder = counters_folder
        self.bulk = bulk  # None in the bulk worker itself
        self.pieces = Pieces(loop)
        self.pending = PendingBytes(settings.max_pending_bytes)  # one budget for every edge of this worker
        self._bulk_bytes = settings.bulk_bytes
        self._deadline_ns = int(settings.deadline_s * 1e9)
        self._targets: dict[tuple[bytes, bytes], Target] = {}

    # --- what the edge asks

    def admit(self, exchange: Exchange) -> None:
        """Stop 1 of the walk. Raises the error that refuses the request before a byte of its body is parsed."""
        admission, headers = self.admission, exchange.headers
        memo = exchange.connection.memo
        if memo is not None and memo[0] is headers and memo[1] is admission and memo[2] is self.routes:
            target, principal = exchange.data = memo[3]  # a head seen before, under the same plan
            if principal.quota is not None and target.asks_a_model and self.bulk is not None:
                principal.quota.charge(1)
            return
        admission.check_host(headers)
        if b"origin" in headers:
            exchange.extra = admission.check_origin(headers)
            if exchange.method == b"OPTIONS" and exchange.extra:
                exchange.data = (Target(handlers.preflight), None)
                return
        known = self._targets.get((exchange.method, exchange.target))
        target = known or parse(exchange.method, exchange.target)
        if target.is_open:
            exchange.data = (target, None)
            return
        principal = admission.identify(headers)
        if target.endpoint:
            admission.check_scope(principal, target.verb, target.endpoint)
            self.routes.endpoint(target.endpoint)
            if principal.quota is not None and target.asks_a_model and self.bulk is not None:
                principal.quota.charge(1)  # the bulk worker's callers have paid for their first row at the front
        elif target.verb:
            admission.check_scope(principal, target.verb, "")
        content.check_coding(headers)
        if known is None and len(self._targets) < _CACHED_TARGETS and len(exchange.target) <= 256:
            self._targets[exchange.method, exchange.target] = target  # only what an admitted caller asked for
        exchange.data = (target, principal)
        if target.may_stream and content.media_type(headers) in stream.TYPES:
            exchange.sink = self._open_stream(exchange, target, principal)
        elif not exchange.extra and principal.expires_at is None:  # a key that expires is looked at each time
            exchange.connection.memo = (headers, admission, self.routes, exchange.data)

    def handle(self, exchange: Exchange) -> None:
        """The request is whole."""
        target, principal = exchange.data
        headers = exchange.headers
        is_plain = len(exchange.body) <= self._bulk_bytes and not (
            content.ENCODING in headers or content.DIGEST in headers
        )
        if is_plain or self._unpack(exchange, target.may_be_bulk):
            target.handler(self, exchange, target, principal)

    def _unpack(self, exchange: Exchange, may_be_bulk: bool) -> bool:
        """Make the body what the caller meant; False if it is large, and the bulk worker's now."""
        bulk, headers = self.bulk if may_be_bulk else None, exchange.headers
        if bulk is not None and len(exchange.body) > self.settings.bulk_bytes:
            bulk.take(exchange)
            return False
        content.check_digest(exchange.body, headers)
        if content.ENCODING not in headers:
            return True
        most = self.settings.max_inflated_bytes
        try:
            exchange.body = content.inflated(
                exchange.body, headers, most if bulk is None else min(most, self.settings.bulk_bytes)
            )
        except TooLarge:
            if bulk is None or most <= self.settings.bulk_bytes:
                raise
            bulk.take(exchange)
            return False
        return True

    def refuse(self, exchange: Exchange, error: ModelyardError, status: int | None = None) -> None:
        """Answer with an error, in the dialect of the path."""
        dialect = dialect_of(exchange.target)
        status = status or status_of(error, dialect)
        if isinstance(error, UnknownEndpoint) and exchange.target.startswith(b"/v2/"):
            error = NotFound(v2_metadata.unknown_model(error.name))
        request_id = self.ids.new("", "")
        body, content_type, headers = problem(error, status, request_id, dialect)
        self.telemetry.refused(error.code, status)
        if status >= 500:
            log.warning("refused", code=error.code, status=status, request_id=request_id, detail=str(error))
        exchange.respond(status, body, content_type, headers)

    def failed(self, error: BaseException) -> ModelyardError:
        """Log a fault of ours; callers learn that there was one."""
        log.error("fault", error=repr(error), trace=traceback.format_exception(error))
        return Internal("the gateway failed on this request; its log has the details")

    # --- inference

    def _open_stream(self, exchange: Exchange, target: Target, principal: Principal) -> stream.NdjsonStream:
        """What takes the lines of a streaming request. Raises InvalidInput where it cannot be answered as one."""
        connection = exchange.connection
        if connection.parser.get_http_version() != "1.1":
            raise InvalidInput("a stream of rows needs HTTP/1.1")
        if content.ENCODING in exchange.headers or content.DIGEST in exchange.headers:
            raise UnsupportedMedia("a stream of rows has neither Content-Encoding nor Content-Digest")
        if not target.endpoint:
            target = self.named(target, principal)

        def ask(slot: Caller, is_first: bool) -> None:
            if principal.quota is not None and not is_first:  # the first row was charged at the end of the headers
                principal.quota.charge(1)
            self.call(slot, target, principal, dialects.NATIVE_LINE)

        return stream.NdjsonStream(exchange, ask, self.problem_line, connection.server.loop, self.settings.bulk_bytes)

    def problem_line(self, error: ModelyardError) -> bytes:
        dialect = dialect_of(b"/")
        status = status_of(error, dialect)
        self.telemetry.refused(error.code, status)
        return problem(error, status, self.ids.new("", ""), dialect)[0]

    def named(self, target: Target, principal: Principal) -> Target:
        """The same for the default endpoint, which the path does not name. Raises as `admit`."""
        name = self.routes.default()
        self.admission.check_scope(principal, "infer", name)
        if principal.quota is not None:
            principal.quota.charge(1)
        named = Target(handlers.predict, "infer", name)
        named.reasons, named.language = target.reasons, target.language
        return named

    def call_in_pieces(self, exchange: Exchange, target: Target, principal: Principal) -> None:
        """Start a call of one row that is answered piece by piece. Raises the error that refuses it."""
        call = self.begin(exchange, principal, target.endpoint, native.say_prediction)
        route = self.routes.endpoint(target.endpoint)
        call.deployment = route.choose(exchange, sticky.in_rows) if target.pin is None else route.pinned(target.pin)
        native.read_rows(call, 1)
        self.pieces.start(call, exchange)

    def call(self, exchange: Caller, target: Target, principal: Principal, dialect: Dialect) -> None:
        """Start the story of one call."""
        call = self.begin(exchange, principal, target.endpoint, dialect.say)
        call.reasons = target.reasons
        call.language = target.language
        call.wants_all = dialect is dialects.NATIVE_EXPLAIN
        self.inference.infer(call, self.routes.endpoint(target.endpoint), target.pin, dialect)

    def begin(self, exchange: Caller, principal: Principal, endpoint: str, say: Answer) -> Call:
        """A call at its start, whatever edge it came in by: its id, and until when it is wanted."""
        started_ns = time.monotonic_ns()
        call = Call(exchange, principal, say, self.telemetry, started_ns, started_ns + self._deadline_ns)
        call.request_id = self.ids.new(principal.name, endpoint)
        if (timeout := exchange.headers.get(TIMEOUT)) is not None:
            call.expire_in(seconds_of(timeout))
        return call
