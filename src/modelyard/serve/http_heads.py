"""Heads of HTTP/1.1 requests: what the parser lets through and we do not, and heads that come again. Pure."""

from __future__ import annotations

import re

from modelyard.contract.errors import InvalidInput, ModelyardError, TooLarge
from modelyard.contract.settings import Settings
from modelyard.serve.exchange import Exchange

SINGLE = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization", b"x-api-key", b"expect")
)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,7})(?=[ \t]*\r)", re.IGNORECASE)

Refusal = tuple[ModelyardError, int]  # and the status that it has whatever the error


def check_head(exchange: Exchange, version: str, size: int, count: int, settings: Settings) -> Refusal | None:
    """What is wrong with a head, if anything. Sets the exchange's `length` and `expects`.

    `size`: its bytes, or an upper bound: it is measured where that is above the limit. `count`: of header lines.
    """
    headers = exchange.headers
    if size > settings.max_header_bytes:
        size = len(exchange.target) + sum(map(len, headers)) + sum(map(len, headers.values())) + 4 * count
    if size > settings.max_header_bytes or count > settings.max_headers:
        return head_too_large(settings)
    if version not in ("1.1", "1.0"):
        return InvalidInput("only HTTP/1.1 and HTTP/1.0 are spoken here"), 505
    if not headers.get(b"host") and version == "1.1":
        return InvalidInput("the header 'host' is required"), 400
    if (coding := headers.get(b"transfer-encoding")) is not None:
        if coding.lower() != b"chunked" or b"content-length" in headers or version == "1.0":
            return InvalidInput("transfer-encoding is 'chunked' alone, without content-length"), 400
    elif (length := headers.get(b"content-length")) is not None:
        if not length.isdigit() or len(length) > 19:
            return InvalidInput("content-length is a number"), 400
        exchange.length = int(length)
        if exchange.length > settings.max_body_bytes:
            return body_too_large(settings)
    else:
        exchange.length = 0
    if (expectation := headers.get(b"expect")) is not None and version == "1.1":
        if expectation.lower() != b"100-continue":
            return InvalidInput("the only expectation met is '100-continue'"), 417
        exchange.expects = True
    return None


def sent_twice(name: bytes) -> Refusal:
    """A header of which a second one could mean another caller, or another body."""
    return InvalidInput(f"the header {name.decode('latin-1')!r} may be sent once"), 400


def head_too_large(settings: Settings) -> Refusal:
    """A head above its limits."""
    limits = f"max_header_bytes={settings.max_header_bytes} or max_headers={settings.max_headers}"
    return TooLarge(f"the headers exceed {limits}"), 431


def body_too_large(settings: Settings) -> Refusal:
    """A body above its limit, announced or sent."""
    return TooLarge(f"the body exceeds max_body_bytes={settings.max_body_bytes}"), 413


class KnownHead:
    """The head of an ordinary POST, cut where the digits of its length stand: callers send it again and again."""

    __slots__ = ("after", "before", "headers", "max_body", "target")

    def __init__(self, before: bytes, after: bytes, exchange: Exchange, max_body: int) -> None:
        self.before, self.after, self.max_body = before, after, max_body
        self.target, self.headers = exchange.target, exchange.headers

    @classmethod
    def of(cls, exchange: Exchange, data: bytes, max_body: int) -> KnownHead | None:
        """The head of a whole request that began where `data` begins, if it is one that may be known again."""
        if exchange.refused or exchange.expects or not exchange.keep_alive or exchange.method != b"POST":
            return None
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, end)
        if exchange.sink is not None or not exchange.length or length is None or data[:4] != b"POST":
            return None
        return cls(data[: length.start(1)], data[length.end(1) : end], exchange, max_body)

    def body_in(self, data: bytes) -> bytes | None:
        """The body, where `data` is one whole request whose head is this one, byte for byte, but for the length."""
        before, after = self.before, self.after
        start = len(before)
        end = data.find(b"\r", start, start + 8)
        if end < 0 or not data.startswith(before) or not data.startswith(after, end):
            return None
        at, digits = end + len(after), data[start:end]
        if not digits.isdigit() or len(data) != at + int(digits) or not 0 < len(data) - at <= self.max_body:
            return None
        return data[at:]
