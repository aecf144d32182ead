"""What the gateway shows of itself: the API document, made a little at a time, and the page that browses it.

Parts of the document are made on the first request for them and kept as long as the plan's routes are. The loop is held
for one endpoint at a time, so that a document of a thousand endpoints delays no prediction.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import sha256
from importlib.resources import files
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

import msgspec

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.settings import Settings
from modelyard.serve.exchange import Exchange
from modelyard.serve.openapi import Part, document, endpoint_part
from modelyard.serve.openapi_operations import Limits
from modelyard.serve.openapi_served import served
from modelyard.serve.openapi_texts import LANGUAGES
from modelyard.serve.routing import Routes

KEPT_BYTES = 64 * 1024 * 1024  # of whole documents: one for each language and set of scopes; the latest asked for stay
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = (
    b"content-security-policy: %b\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
    b"cross-origin-opener-policy: same-origin\r\n" % _POLICY
)
PAGE = "page.html"
_TYPES = {
    PAGE: b"text/html; charset=utf-8",
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "words.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}


class Wish(msgspec.Struct, frozen=True):
    """Which document is asked for."""

    scopes: frozenset[str]
    language: str = "en"
    only: str | None = None  # this endpoint alone
    with_paths: bool = True  # False: the endpoints' names, and the paths that belong to none of them

    def of(self, routes: Routes) -> list[str]:
        """The endpoints whose parts it needs."""
        return list(routes.names) if self.only is None else [self.only]


class Documents:
    """The documents of one plan's routes; not the routes themselves, which hold models and go when a new plan comes."""

    def __init__(self, routes: Routes, settings: Settings) -> None:
        plan = routes.plan
        self._parts: dict[str, dict[str, Part]] = {language: {} for language in LANGUAGES}
        self._whole: OrderedDict[Wish, bytes] = OrderedDict()
        self._limits = Limits(
            settings.max_body_bytes,
            settings.max_rows,
            settings.deadline_s,
            settings.require_keys or bool(plan and plan.require_keys),
            plan.default_endpoint if plan else None,
        )

    def make(self, routes: Routes, wish: Wish) -> Iterable[bytes]:
        """Make the document in small steps: nothing after each but the last, the document after that one.

        Several callers may ask at once: each goes on where another has come to.
        """
        if (kept := self._whole.get(wish)) is not None:
            self._whole.move_to_end(wish)
            yield kept
            return
        parts = self._parts[wish.language]
        for name in wish.of(routes):
            if name not in parts:
                parts[name] = endpoint_part(served(routes.endpoint(name)), self._limits, wish.language)
                yield b""
        wanted = {name: parts[name] for name in wish.of(routes)}
        made = document(wanted, wish.scopes, self._limits, wish.language, only=wish.only, with_paths=wish.with_paths)
        if wish.only is None:
            self._whole[wish] = made
            while sum(map(len, self._whole.values())) > KEPT_BYTES:
                self._whole.popitem(last=False)
        yield made


_documents: WeakKeyDictionary[Routes, Documents] = WeakKeyDictionary()


def documents_of(routes: Routes, settings: Settings) -> Documents:
    """The documents of these routes, made once."""
    if (found := _documents.get(routes)) is None:
        found = _documents[routes] = Documents(routes, settings)
    return found


def answer_document(exchange: Exchange, routes: Routes, settings: Settings, wish: Wish) -> None:
    """Answer with the document, a step in each turn of the loop; a caller who has left stops it."""
    steps = iter(documents_of(routes, settings).make(routes, wish))
    loop = asyncio.get_running_loop()

    def step() -> None:
        if exchange.is_gone:
            return
        try:
            made = next(steps)
        except Exception as error:  # a fault here must be answered as one, not end in the loop's own log
            exchange.refuse(exchange.connection.server.app.failed(error))
            return
        if made:
            exchange.respond(200, made, headers=b"cache-control: private, no-cache\r\n")
        else:
            loop.call_soon(step)

    step()


def wish_of(target: bytes, scopes: frozenset[str], only: str | None = None) -> Wish:
    """What a request target's query asks for. Raises InvalidInput that names the parameter."""
    known = {"lang": LANGUAGES} | ({"only": ("shared",)} if only is None else {})
    try:
        query = dict(parse_qsl(target.partition(b"?")[2].decode("latin-1"), keep_blank_values=True, max_num_fields=16))
    except ValueError:
        raise InvalidInput("there are more than 16 query parameters") from None
    for key, value in query.items():
        if key not in known:
            raise InvalidInput(f"there is no query parameter {key[:32]!r}; known are {', '.join(known)}")
        if value not in known[key]:
            raise InvalidInput(f"the query parameter {key!r} is one of: {', '.join(known[key])}")
    return Wish(scopes, query.get("lang", "en"), only, "only" not in query)


# --- the page -----------------------------------------------------------------------------------------------------


class Asset:
    """One file of the page, compressed once."""

    def __init__(self, name: str, body: bytes) -> None:
        self.body = body
        self.compressed = gzip.compress(body, 9, mtime=0)
        self.content_type = _TYPES[name]
        self.digest = sha256(body).hexdigest()[:12]
        # The page names its files by digest, so they may be kept for ever; the page itself may not.
        is_page = name == PAGE
        self.headers = _SAFE + (
            b"cache-control: no-cache\r\n" if is_page else b"cache-control: public, max-age=31536000, immutable\r\n"
        )

    def answer(self, exchange: Exchange) -> None:
        """Answer with the file, compressed for those who can read that."""
        if b"gzip" in exchange.headers.get(b"accept-encoding", b""):
            lines = self.headers + b"content-encoding: gzip\r\nvary: accept-encoding\r\n"
            exchange.respond(200, self.compressed, self.content_type, lines)
        else:
            exchange.respond(200, self.body, self.content_type, self.headers + b"vary: accept-encoding\r\n")


@functools.cache
def assets() -> dict[str, Asset]:
    """Every file of the page by name; read once. The page names the others with their digests."""
    folder = files("modelyard.serve") / "assets"
    found = {name: Asset(name, (folder / name).read_bytes()) for name in _TYPES if name != PAGE}
    page = (folder / PAGE).read_bytes()
    for name, asset in found.items():
        page = page.replace(f"docs/{name}".encode(), f"docs/{name}?{asset.digest}".encode())
    return found | {PAGE: Asset(PAGE, page)}


def answer_page(exchange: Exchange, name: str | None) -> None:
    """Answer with the page, or with one of its files. `/docs/` is sent to `/docs`, from where the links are right."""
    if exchange.target.partition(b"?")[0].endswith(b"/"):
        exchange.respond(308, b"", b"text/plain", b"location: ../docs\r\n")
    elif name is None:
        assets()[PAGE].answer(exchange)
    elif name in _TYPES and name != PAGE:
        assets()[name].answer(exchange)
    else:
        raise NotFound("the page has no such file")
