"""The gRPC edge: who may call which method, and what is said to those who may not. Knows no model.

What a caller may do is decided once for each head, and remembered with it: the same head means the same until the
rules change. `grpc_methods.py` says what each method does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from modelyard.contract.errors import InvalidInput, ModelyardError
from modelyard.serve.admission import ANONYMOUS, Admission, Principal
from modelyard.serve.grpc_status import INTERNAL, UNAVAILABLE, Unimplemented, status_of, trailers_of
from modelyard.serve.http2_heads import field
from modelyard.serve.http2_server import Http2Server
from modelyard.serve.http2_stream import Receiver, Stream
from modelyard.serve.log import log

if TYPE_CHECKING:
    from modelyard.serve.gateway import Gateway

HEAD = b"\x88" + field(b"content-type", b"application/grpc")  # of every answer; 0x88: ":status: 200"

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_CODINGS = {b"identity": 0, b"gzip": 31, b"deflate": 15}  # the window bits by which zlib knows them
_KINDS = (b"application/grpc+proto", b"application/grpc;")
_NOT_GRPC = field(b":status", b"415") + field(b"grpc-status", b"12")


class NotGrpc(Exception):
    """A request of HTTP/2 that is not one of gRPC."""


class Method(NamedTuple):
    """What a path means."""

    begin: Callable[[GrpcEdge, Stream, Admitted], Receiver]
    is_open: bool = False  # answers without a key: probes


class Admitted(NamedTuple):
    """A head that may come in: who calls what, and how. Holds as long as these rules do."""

    admission: Admission
    method: Method
    principal: Principal
    timeout_ns: int | None
    window_bits: int  # zlib's, for the coding of compressed messages; 0: there is none


class GrpcEdge:
    """One worker's gRPC: streams come in here, and become calls of a method."""

    def __init__(self, gateway: Gateway, methods: Mapping[bytes, Method], loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self.methods = methods
        self.settings = gateway.settings
        self.now = loop.time  # the clock of deadlines of streams
        self.server = Http2Server(gateway.settings, self.open, gateway.failed, loop, gateway.pending)

    @property
    def is_ready(self) -> bool:
        """Whether a plan is served, and the gateway is not about to stop."""
        return self.gateway.routes.plan is not None and not self.server.draining

    def open(self, stream: Stream) -> Receiver:
        """A stream's head is whole: who receives the rest."""
        admitted: Admitted | None = stream.head.memo
        try:
            if admitted is None or admitted.admission is not self.gateway.admission:
                admitted = self._admit(stream)
                if admitted.principal.expires_at is None:  # a key that expires is looked at each time
                    stream.head.memo = admitted
            return admitted.method.begin(self, stream, admitted)
        except ModelyardError as error:
            self.refuse(stream, error)
        except NotGrpc:
            stream.end(_NOT_GRPC)
        except Exception as error:  # a fault of ours must cost one stream, not the connection's others
            self.refuse(stream, self.gateway.failed(error))
        return _NOBODY

    def _admit(self, stream: Stream) -> Admitted:
        """Who calls what, and how. Raises the error that refuses the stream."""
        head, admission = stream.head, self.gateway.admission
        headers = head.headers
        kind = headers.get(b"content-type", b"")
        if head.method != b"POST" or not (kind == b"application/grpc" or kind.startswith(_KINDS)):
            raise NotGrpc
        if head.problem is not None:
            raise head.problem
        admission.check_host(headers)
        admission.check_origin(headers)
        if (method := self.methods.get(head.path)) is None:
            raise Unimplemented("there is no such method; server reflection lists those that are served")
        principal = ANONYMOUS if method.is_open else admission.identify(headers)
        window_bits = _CODINGS.get(headers.get(b"grpc-encoding", b"identity"))
        if window_bits is None:
            raise Unimplemented("grpc-encoding is identity, gzip or deflate")
        return Admitted(admission, method, principal, _timeout_ns(headers), window_bits)

    def refuse(self, stream: Stream, error: ModelyardError, request_id: str = "") -> None:
        """End a stream with an error."""
        if stream.is_closed or stream.is_ended:
            return
        request_id = request_id or self.gateway.ids.new("", "")
        self.note(error, request_id)
        trailers = trailers_of(error, request_id)
        if stream.is_headed:
            stream.send(HEAD, b"", trailers)
        else:
            stream.end(HEAD + trailers)

    def note(self, error: ModelyardError, request_id: str) -> None:
        """Count an error that is about to be said, and log it where the fault may be ours."""
        status = status_of(error)
        if not error.is_counted:
            self.gateway.telemetry.refused(error.code, status)
        if status in (UNAVAILABLE, INTERNAL):
            log.warning("refused", code=error.code, status=status, request_id=request_id, detail=str(error))


class _Nobody:
    """Receives what comes for a stream that was refused."""

    def arrived(self) -> None:
        """Nothing waits for it."""

    sent = left = expired = stop = arrived


_NOBODY = _Nobody()


def _timeout_ns(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(b"grpc-timeout")
    if text is None:
        return None
    if (found := _TIMEOUT.fullmatch(text)) is None:
        raise InvalidInput("grpc-timeout has at most 8 digits and a unit, one of H M S m u n")
    return int(int(found[1]) * _UNITS[found[2]] * 1e9)
