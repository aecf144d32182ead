"""Header blocks: a request's, from compressed bytes to checked names and values; an answer's, written without a table.

Callers send the same head again and again, and HPACK then shrinks it to the same few bytes. A block that changed
nothing in the decoder's table means the same as long as the table stays as it is, so what it meant is kept.
"""

from __future__ import annotations

import re
from typing import Any

import hpack

from modelyard.contract.errors import InvalidInput, ModelyardError, TooLarge
from modelyard.contract.settings import Settings
from modelyard.serve.http2_frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from modelyard.serve.varint import varint

MAX_CONTINUATIONS = 8  # frames of one header block after its first
KEPT_HEADS = 16  # of one connection
ENTRY_BYTES = 32  # what RFC 9113 adds to each field's length, so that many small fields count too
EMPTY_TABLE = b"\x20"  # HPACK: our encoder's table has no room; said once, before our first block

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_FORBIDDEN_IN_VALUES = re.compile(rb"[\x00\r\n]")
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_OF_ONE_CONNECTION = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_SINGLE = frozenset((
    b"authorization", b"content-length", b"content-type", b"grpc-encoding", b"grpc-timeout", b"host", b"origin",
    b"x-api-key",
))  # fmt: skip


class Malformed(Exception):
    """A head that HTTP/2 forbids; its stream ends with PROTOCOL_ERROR."""


class BadBlock(ConnectionFault):
    """A block that cannot be decoded: from here on the decoder's state is lost, and with it the connection."""

    def __init__(self) -> None:
        super().__init__(COMPRESSION_ERROR, "the header block cannot be decoded")


class BombBlock(ConnectionFault):
    """A block that is far too large, or grows so when it is decoded."""

    def __init__(self, max_header_bytes: int) -> None:
        super().__init__(ENHANCE_YOUR_CALM, f"the headers exceed max_header_bytes={max_header_bytes}")


def field(name: bytes, value: bytes) -> bytes:
    """One field of an answer's header block, as HPACK writes it without any table."""
    return b"\x00%b%b%b%b" % (_length(len(name)), name, _length(len(value)), value)


def _length(size: int) -> bytes:
    """HPACK's integer behind a prefix of seven bits."""
    return bytes((size,)) if size < 0x7F else b"\x7f" + varint(size - 0x7F)


class Block:
    """A header block that comes in several frames."""

    __slots__ = ("_max_header_bytes", "_parts", "data", "flags", "stream_id")

    def __init__(self, stream_id: int, flags: int, part: bytes, max_header_bytes: int) -> None:
        self.stream_id = stream_id
        self.flags = flags  # of its first frame
        self.data = bytearray(part)
        self._parts = 0
        self._max_header_bytes = max_header_bytes

    def add(self, part: bytes) -> None:
        """A further frame's. Raises BombBlock."""
        self.data += part
        self._parts += 1
        if self._parts > MAX_CONTINUATIONS or len(self.data) > _most_bytes(self._max_header_bytes):
            raise BombBlock(self._max_header_bytes)


def _most_bytes(max_header_bytes: int) -> int:
    """Of a block as it is sent. Up to here only its stream ends, which then says why."""
    return 2 * max_header_bytes


class Head:
    """One request's head."""

    __slots__ = ("headers", "length", "memo", "method", "path", "problem")

    def __init__(self) -> None:
        self.method = self.path = b""
        self.headers: dict[bytes, bytes] = {}  # names in lower case; `host` is what :authority said
        self.length: int | None = None  # of the body, where it is said
        self.problem: ModelyardError | None = None  # a limit or rule of ours that it breaks; the stream lives on
        self.memo: Any = None  # the application's own: what it found out about this head


class HeadDecoder:
    """Header blocks of one connection, in their order."""

    __slots__ = ("_decoder", "_kept", "_settings")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        most = 2 * (settings.max_header_bytes + ENTRY_BYTES * settings.max_headers)  # as `_most_bytes`, decoded
        self._decoder = hpack.Decoder(max_header_list_size=most)
        self._kept: dict[bytes, Head] = {}

    def head(self, block: bytes) -> Head:
        """The head that a block means; the same object for the same bytes. Raises Malformed, BadBlock or BombBlock."""
        if (head := self._kept.get(block)) is not None:
            return head
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before = (entries[0] if entries else None, len(entries), table.maxsize)
        fields = self.fields(block)
        after = (entries[0] if entries else None, len(entries), table.maxsize)
        is_unchanged = before[0] is after[0] and before[1:] == after[1:]
        if not is_unchanged:
            self._kept.clear()
        head = _checked(fields, self._settings)
        if is_unchanged and len(self._kept) < KEPT_HEADS:
            self._kept[block] = head
        return head

    def fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Names and values as they were sent. Raises BadBlock or BombBlock."""
        most = self._settings.max_header_bytes
        if len(block) > _most_bytes(most):
            raise BombBlock(most)
        try:
            return self._decoder.decode(block, raw=True)  # type: ignore[return-value]
        except hpack.OversizedHeaderListError:
            raise BombBlock(most) from None
        except (hpack.HPACKError, IndexError):
            raise BadBlock from None

    def trailers(self, block: bytes) -> None:
        """Decode and forget: trailers keep the table right and mean nothing else. Raises as `head` does."""
        self._kept.clear()
        for name, _ in self.fields(block):
            if not _NAME.fullmatch(name):
                raise Malformed


def _checked(fields: list[tuple[bytes, bytes]], settings: Settings) -> Head:
    """What RFC 9113, section 8, asks of a request's head, and our limits. Raises Malformed."""
    head = Head()
    pseudo: dict[bytes, bytes] = {}
    headers = head.headers
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + ENTRY_BYTES
        if _FORBIDDEN_IN_VALUES.search(value) or value != value.strip(b" \t"):
            raise Malformed
        if name[:1] == b":":
            if name not in _PSEUDO or name in pseudo or headers:
                raise Malformed
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or name in _OF_ONE_CONNECTION or (name == b"te" and value != b"trailers"):
            raise Malformed
        if name in headers:
            if name in _SINGLE:
                head.problem = InvalidInput(f"the header {name.decode('latin-1')!r} may be sent once")
                continue
            value = headers[name] + b", " + value
        headers[name] = value
    if size > settings.max_header_bytes or len(fields) > settings.max_headers:
        head.problem = TooLarge(
            f"the headers exceed max_header_bytes={settings.max_header_bytes} or max_headers={settings.max_headers}"
        )
    head.method, head.path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not head.method or not head.path or not pseudo.get(b":scheme"):
        raise Malformed
    if (authority := pseudo.get(b":authority")) is not None and headers.setdefault(b"host", authority) != authority:
        raise Malformed
    if (length := headers.get(b"content-length")) is not None:
        if not length.isdigit() or len(length) > 19:
            raise Malformed
        head.length = int(length)
    return head
