"""Forms: parts as they are sent, bounded and strict."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.errors import TooLarge, Undecodable
from modelyard.serve.multipart import MAX_PARTS, is_form, parts_of

TYPE = b"multipart/form-data; boundary=XX"


def form(*parts: bytes, end: bytes = b"--XX--\r\n") -> bytes:
    return b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + end


def part(value: bytes, disposition: bytes = b'form-data; name="image"', more: bytes = b"") -> bytes:
    return b"Content-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + value


def test_a_form_of_a_real_client_is_read() -> None:
    request = httpx.Request(
        "POST",
        "http://x/",
        data={"note": "zwei 三"},
        files=[("image", ("a.png", b"\x89PNG\r\n--XX\r\n\x00")), ("image", b"text")],
    )
    request.read()
    headers = {b"content-type": request.headers["content-type"].encode()}
    assert is_form(headers)
    assert parts_of(request.content, headers[b"content-type"]) == [
        ("note", "zwei 三"), ("image", b"\x89PNG\r\n--XX\r\n\x00"), ("image", b"text"),
    ]  # fmt: skip


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="ascii", min_codepoint=97, max_codepoint=122), min_size=1), st.binary())
    ),
    st.sampled_from((b"XX", b'"a b"', b"----WebKitFormBoundary7MA4YWxkTrZu0gW")),
)
def test_what_goes_in_comes_out(sent: list[tuple[str, bytes]], quoted: bytes) -> None:
    boundary = quoted.strip(b'"')
    sent = [(name, data) for name, data in sent if b"\r\n--" + boundary not in data]
    body = b"".join(
        b'--%b\r\ncontent-disposition: form-data; name="%b"; filename="f"\r\n\r\n%b\r\n'
        % (boundary, name.encode(), data)
        for name, data in sent
    )
    told = b"Multipart/Form-Data; charset=utf-8; boundary=" + quoted
    assert parts_of(body + b"--" + boundary + b"--", told) == sent


@given(st.binary(max_size=300))
def test_rubbish_is_refused(body: bytes) -> None:
    for whole in (body, form(part(b"x"), end=b"") + body):
        try:
            parts_of(whole, TYPE)
        except (Undecodable, TooLarge):
            continue


def test_text_is_text_and_a_file_is_bytes() -> None:
    assert parts_of(form(part("三".encode())), TYPE) == [("image", "三")]
    assert parts_of(form(part(b"abc", b'form-data; name="image"; filename="a"')), TYPE) == [("image", b"abc")]
    assert parts_of(form(part(b"\xff")), TYPE) == [("image", b"\xff")]
    assert parts_of(b"before\r\n" + form(part(b"")) + b"after", TYPE) == [("image", "")]
    named = b'form-data; filename="name=\\"x\\""; name="image"'
    assert parts_of(form(part(b"a", named)), TYPE) == [("image", b"a")]


BROKEN = {
    "no boundary": (form(part(b"x")), b"multipart/form-data"),
    "long boundary": (form(part(b"x")), b"multipart/form-data; boundary=" + b"x" * 71),
    "other boundary": (form(part(b"x")), b"multipart/form-data; boundary=YY"),
    "cut off": (form(part(b"x"), end=b""), TYPE),
    "headless": (form(b"no headers"), TYPE),
    "nameless": (form(part(b"x", b"form-data")), TYPE),
    "encoded": (form(part(b"x", more=b"Content-Transfer-Encoding: base64\r\n")), TYPE),
    "long head": (form(part(b"x", more=b"X: " + b"y" * 3000 + b"\r\n")), TYPE),
    "junk": (b"--XXextra\r\n" + part(b"x") + b"\r\n--XX--", TYPE),
    "empty": (b"", TYPE),
}


@pytest.mark.parametrize(("body", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_form_is_refused(body: bytes, told: bytes) -> None:
    with pytest.raises(Undecodable):
        parts_of(body, told)


def test_parts_are_counted() -> None:
    assert len(parts_of(form(*[part(b"x")] * MAX_PARTS), TYPE)) == MAX_PARTS
    with pytest.raises(TooLarge, match="MAX_PARTS"):
        parts_of(form(*[part(b"x")] * (MAX_PARTS + 1)), TYPE)
