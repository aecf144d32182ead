"""Forms as browsers and `curl -F` send them: each part is a value of the input that it names, a file or a text.

Strict and small: the boundary, the headers of a part and the number of parts are bounded; a part is bytes as they
are, for no encoding of them is in use any more (RFC 7578).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from modelyard.contract.errors import InvalidInput, TooLarge, Undecodable
from modelyard.contract.tensor import Tensors
from modelyard.serve import v2
from modelyard.serve.call import Call

TYPE = b"multipart/form-data"
MAX_PARTS = 1_000
MAX_PART_HEAD_BYTES = 2_048
_BOUNDARY = re.compile(
    rb"""boundary=(?:"([\x20-\x7e]{1,70})"|([!#$%&'*+.^_`|~0-9A-Za-z-]{1,70}))(?:[ \t]*;|[ \t]*$)""", re.I
)
_NAME = re.compile(rb'(?:^|;)[ \t]*name="((?:[^"\\\r\n]|\\.)*)"')
_FILE = re.compile(rb";[ \t]*filename\*?=")


def is_form(headers: dict[bytes, bytes]) -> bool:
    """Whether a request's body is a form."""
    return headers.get(b"content-type", b"")[:19].lower() == TYPE


def read_form(call: Call, max_rows: int) -> None:
    """A form as the inputs of a version that takes texts or files, one row for each part of a name.

    Raises Undecodable, InvalidInput or TooLarge.
    """
    signature = call.deployment.replica.loaded.manifest.signature
    if odd := [spec.name for spec in signature.inputs if spec.datatype != "BYTES" or spec.shape != (-1,)]:
        raise InvalidInput(f"a form holds files and texts, and input '{odd[0]}' is neither; send JSON")
    values: dict[str, list[str | bytes]] = {spec.name: [] for spec in signature.inputs}
    for name, value in parts_of(call.exchange.body, call.exchange.headers.get(b"content-type", b"")):
        if name not in values:
            raise InvalidInput(f"a part of the form names no input; they are {', '.join(values)}")
        values[name].append(value)
    counts = {len(listed) for listed in values.values()}
    if len(counts) > 1 or 0 in counts:
        raise InvalidInput(f"the form has as many parts for each of {', '.join(values)}, and at least one")
    call.single = counts == {1}
    arrays: Tensors = {name: _texts(listed) for name, listed in values.items()}
    v2.accept_tensors(call, arrays, dict.fromkeys(arrays, "BYTES"), max_rows)


def parts_of(body: bytes | bytearray, content_type: bytes) -> list[tuple[str, str | bytes]]:
    """Each part's name and value: text where it is UTF-8 and no file, else bytes. Raises Undecodable or TooLarge."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Undecodable("multipart/form-data names its boundary, of 1 to 70 characters")
    mark = b"\r\n--" + (found[1] or found[2])
    whole = b"\r\n" + bytes(body)  # so that the first mark is like the others
    at = whole.find(mark)
    parts: list[tuple[str, str | bytes]] = []
    while at >= 0:
        at += len(mark)
        if whole[at : at + 2] == b"--":
            return parts
        start = whole.find(b"\r\n", at)
        if start < 0 or whole[at:start].strip(b" \t"):
            break
        end = whole.find(mark, start)
        if end < 0:
            break
        if len(parts) == MAX_PARTS:
            raise TooLarge(f"the form has more parts than MAX_PARTS={MAX_PARTS}; send it in several")
        parts.append(_part(whole, start, end))
        at = end
    raise Undecodable("the form is cut off, or its boundary is not the one that its Content-Type names")


def _part(whole: bytes, start: int, end: int) -> tuple[str, str | bytes]:
    gap = whole.find(b"\r\n\r\n", start, min(end, start + MAX_PART_HEAD_BYTES))
    if gap < 0:
        raise Undecodable(f"a part of the form has no headers, or more than {MAX_PART_HEAD_BYTES} bytes of them")
    name, is_file = None, False
    for line in whole[start + 2 : gap].split(b"\r\n"):
        key, _, value = line.partition(b":")
        key = key.strip().lower()
        if key == b"content-disposition":
            found = _NAME.search(value.strip().removeprefix(b"form-data"))
            name, is_file = found and found[1], bool(_FILE.search(value))
        elif key == b"content-transfer-encoding" and value.strip().lower() not in (b"binary", b"8bit", b"7bit"):
            raise Undecodable("a part of the form is sent as its bytes, without a Content-Transfer-Encoding")
    if name is None:
        raise Undecodable('a part of the form has a header Content-Disposition: form-data; name="…"')
    data = whole[gap + 4 : end]
    try:
        return name.decode(), data if is_file else data.decode()
    except UnicodeDecodeError:
        return name.decode("utf-8", "replace"), data


def _texts(values: list[str | bytes]) -> Any:
    texts = np.empty(len(values), dtype=object)
    texts[:] = values
    return texts
