"""Bodies on the wire: compressed or not, with a digest or not. Pure functions on bytes and header values.

A body that came is checked against its `Content-Digest` first and inflated second; one that goes is deflated first and
digested second: the digest is of the bytes on the wire (RFC 9530). Callers without these headers pay for nothing.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode, b64encode
from functools import lru_cache
from hashlib import sha256

from modelyard.contract.errors import TooLarge, Undecodable
from modelyard.serve.problems import UnsupportedMedia

ENCODING, DIGEST = b"content-encoding", b"content-digest"
ACCEPTED, WANTED = b"accept-encoding", b"want-content-digest"
MIN_BYTES = 1024  # below, an answer fits one packet anyway
MAX_BYTES = 64 * 1024  # above, compressing would hold a worker's loop; the bulk worker compresses larger ones too
MAX_MEMBERS = 1024  # of one gzip body
_LEVEL = 1  # most of the gain, at a fifth of the time
_STEP = 16 * 1024  # compressed bytes taken at once: what one tiny gzip member can make us copy
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # zlib's names for the two formats
_OURS = (b"gzip", b"deflate")  # what answers are sent as; the first is preferred
_SHA_256 = re.compile(rb"(?:^|,)[ \t]*sha-256[ \t]*=[ \t]*([^,;]*)")
_QUALITY = re.compile(rb"[01](?:\.\d{0,3})?")

Headers = dict[bytes, bytes]  # names in lower case


def media_type(headers: Headers) -> bytes:
    """The `Content-Type` without its parameters, in lower case; empty where there is none."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def check_coding(headers: Headers) -> None:
    """Refuse, before the body is read, a `Content-Encoding` that `inflated` would. Raises UnsupportedMedia."""
    coding = headers.get(ENCODING)
    if coding is not None and (name := coding.strip().lower()) not in _WINDOWS and name not in (b"identity", b""):
        raise UnsupportedMedia("Content-Encoding is gzip, deflate or identity, and only one of them")


def inflated(body: bytes | bytearray, headers: Headers, limit: int) -> bytes | bytearray:
    """The body as it was before `Content-Encoding`; the same object where there is none.

    Raises UnsupportedMedia (another coding than gzip or deflate, or several), TooLarge (above `limit` bytes, before
    more is inflated), Undecodable (not what the header says, cut off, or followed by something else).
    """
    check_coding(headers)
    coding = headers.get(ENCODING, b"identity").strip().lower()
    if (window := _WINDOWS.get(coding)) is None:
        return body
    whole = bytearray()
    stream = zlib.decompressobj(window)
    members = 1
    try:
        for at in range(0, len(body), _STEP):
            left = bytes(body[at : at + _STEP])
            while left:
                if stream.eof:  # a gzip body may have several members, each with a head of its own
                    members += 1
                    if window == _WINDOWS[b"deflate"] or members > MAX_MEMBERS:
                        raise Undecodable(f"the {coding.decode()} body goes on behind its end")
                    stream = zlib.decompressobj(window)
                whole += stream.decompress(left, limit - len(whole) + 1)
                if len(whole) > limit:
                    raise TooLarge(f"the inflated body is above the limit max_inflated_bytes={limit}")
                left = stream.unused_data or stream.unconsumed_tail
    except zlib.error:
        raise Undecodable(f"the body is not what Content-Encoding: {coding.decode()} says") from None
    if not stream.eof:
        raise Undecodable(f"the {coding.decode()} body is cut off")
    return whole


def check_digest(body: bytes | bytearray, headers: Headers) -> None:
    """Hold the body, as it came, to its `Content-Digest`. Algorithms other than sha-256 are ignored.

    Raises Undecodable (edges answer 400) if they differ, or if the sha-256 is no digest.
    """
    if (line := headers.get(DIGEST)) is None or not (found := _SHA_256.findall(line)):
        return
    text = found[-1].strip()  # of a key given twice the last counts (RFC 8941)
    try:
        said = b64decode(text[1:-1], validate=True) if len(text) > 1 and text[:1] == text[-1:] == b":" else b""
    except ValueError:
        said = b""
    if len(said) != 32:
        raise Undecodable("Content-Digest has the form sha-256=:BASE64:, of 32 bytes")
    if said != sha256(body).digest():
        raise Undecodable("the body does not have the sha-256 that its Content-Digest says; send it again")


def deflated(body: bytes, headers: Headers, most: int = MAX_BYTES) -> tuple[bytes, bytes]:
    """(the answer as the caller accepts it, the header lines that say so); headers are the request's.

    Answers of MIN_BYTES to `most` bytes are compressed where `Accept-Encoding` allows it.
    """
    accepted = headers.get(ACCEPTED)
    if accepted is None or not MIN_BYTES <= len(body) <= most:
        return body, b""
    if (coding := _chosen(accepted)) is None:
        return body, b"vary: accept-encoding\r\n"
    smaller = zlib.compress(body, _LEVEL, _WINDOWS[coding])
    if len(smaller) >= len(body):
        return body, b"vary: accept-encoding\r\n"
    return smaller, b"content-encoding: %b\r\nvary: accept-encoding\r\n" % coding


def digest_line(body: bytes, headers: Headers) -> bytes:
    """The `Content-Digest` line of an answer, as it goes, if the request's `Want-Content-Digest` asks for sha-256."""
    if (line := headers.get(WANTED)) is None or not (found := _SHA_256.findall(line)):
        return b""
    text = found[-1].strip()
    if not text.isdigit() or not 0 < int(text[:3]) <= 10:  # a preference from 0 (never) to 10
        return b""
    return b"content-digest: sha-256=:%b:\r\n" % b64encode(sha256(body).digest())


@lru_cache(maxsize=256)  # a client sends the same line with every request
def _chosen(accepted: bytes) -> bytes | None:
    """Which of our codings `Accept-Encoding` likes best; None: send it as it is."""
    likes: dict[bytes, float] = {}
    for part in accepted.lower().split(b","):
        name, *parameters = [piece.strip() for piece in part.split(b";")]
        quality = b"1"
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip() == b"q":
                quality = value.strip()
        likes[b"gzip" if name == b"x-gzip" else name] = float(quality) if _QUALITY.fullmatch(quality) else 0.0
    rest = likes.get(b"*", 0.0)
    best = max(_OURS, key=lambda coding: likes.get(coding, rest))
    liking = likes.get(best, rest)
    return best if liking > 0 and liking >= likes.get(b"identity", 0.0) else None
