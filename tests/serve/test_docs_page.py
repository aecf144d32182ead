"""The page at /docs: open to all, light, and with nothing in it that a strict policy would have to forgive."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Iterator

import httpx
import msgspec
import pytest

from kit.forms import a_plan, store_all
from kit.gateway import Gateway, gateway
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.secure.keys import digest_of
from modelyard.serve.docs_page import assets

SCOPES = {
    "all": ("infer", "explain", "feedback", "metrics"),
    "loans": ("infer:loans",),
    "explainer": ("explain:loans",),
    "watcher": ("metrics",),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("docs") / "home"
    plan = a_plan(1, store_all(Shelf(Home(root).prepare().shelf)))
    keys = tuple(PlannedKey(name, digest_of(f"my_{name}"), name, scopes) for name, scopes in SCOPES.items())
    with gateway(root, msgspec.structs.replace(plan, keys=keys, require_keys=True)) as one:
        yield one


def files_of(page: str) -> list[str]:
    """What the page asks for."""
    return re.findall(r'(?:src|href)="(docs/[^"]+)"', page)


def test_the_page_is_open_and_names_its_files_by_what_is_in_them(running: Gateway) -> None:
    page = running.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    files = files_of(page.text)
    assert {name.partition("?")[0] for name in files} == {f"docs/{name}" for name in assets() if name != "page.html"}
    for name in files:
        one = running.get(f"/{name}")
        assert one.status_code == 200, name
        assert "immutable" in one.headers["cache-control"]
        assert assets()[name.partition("?")[0].removeprefix("docs/")].digest == name.partition("?")[2]


def test_the_policy_allows_this_origin_and_nothing_inline(running: Gateway) -> None:
    page = running.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page.text)
    script = assets()["page.js"].body.decode()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Storage|cookie", script)
    for asset in assets().values():  # nothing from anywhere else; names of XML's dialects are not fetched
        assert not re.search(rb"https?://(?!www\.w3\.org/)", asset.body)


def test_the_page_is_light(running: Gateway) -> None:
    assert sum(len(asset.body) for asset in assets().values()) < 80_000
    assert sum(len(asset.compressed) for asset in assets().values()) < 25_000
    squeezed = httpx.get(running.url + "/docs/page.js", headers={"accept-encoding": "gzip"})
    assert squeezed.headers["content-encoding"] == "gzip"
    assert int(squeezed.headers["content-length"]) == len(assets()["page.js"].compressed)
    plain = httpx.get(running.url + "/docs/page.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == squeezed.content == gzip.decompress(assets()["page.js"].compressed)


def test_a_trailing_slash_is_sent_to_where_links_are_right(running: Gateway) -> None:
    sent = running.get("/docs/")
    assert sent.status_code == 308
    assert sent.headers["location"] == "../docs"
    assert running.get("/docs/", follow_redirects=True).text == running.get("/docs").text


@pytest.mark.parametrize(
    "path", ["/docs/other.js", "/docs/page.html", "/docs/..%2f..%2fserve%2fgateway.py", "/docs/%2e%2e"]
)
def test_nothing_else_lies_under_docs(running: Gateway, path: str) -> None:
    assert running.get(path).status_code == 404


def test_only_reading_is_answered(running: Gateway) -> None:
    refused = httpx.post(running.url + "/docs", content=b"")
    assert refused.status_code == 405
    assert httpx.head(running.url + "/docs").status_code == 200


def test_the_document_needs_a_key_and_shows_what_the_key_may_use(running: Gateway) -> None:
    assert running.get("/openapi.json").status_code == 401
    assert running.get("/loans/openapi.json").status_code == 401

    def paths(name: str) -> set[str]:
        return set(running.get("/openapi.json", headers={"x-api-key": f"my_{name}"}).json()["paths"])

    assert {"/loans", "/loans/explain", "/loans/feedback", "/sums", "/metrics"} <= paths("all")
    assert "/loans" in paths("loans")
    assert not {"/loans/explain", "/loans/feedback", "/sums", "/metrics"} & paths("loans")
    assert "/loans/explain" in paths("explainer")
    assert "/loans" not in paths("explainer")
    assert "/metrics" in paths("watcher")
    assert not any(path.startswith("/loans") for path in paths("watcher"))
    key = {"authorization": "Bearer my_loans"}
    assert running.get("/loans/openapi.json", headers=key).status_code == 200
    assert running.get("/sums/openapi.json", headers=key).status_code == 403


def test_a_new_plan_makes_a_new_document(running: Gateway) -> None:
    key = {"x-api-key": "my_all"}
    before = running.get("/openapi.json", headers=key).json()
    state = running.state()
    assert state is not None
    digests = store_all(running.shelf)
    del digests["sums"]
    keys = tuple(PlannedKey(name, digest_of(f"my_{name}"), name, scopes) for name, scopes in SCOPES.items())
    plan = a_plan(state.workers[0].revision + 1, digests)
    running.publish(msgspec.structs.replace(plan, keys=keys, require_keys=True, published_at=time.time()))
    after = running.get("/openapi.json", headers=key).json()
    assert "/sums" in before["paths"]
    assert "/sums" not in after["paths"]
