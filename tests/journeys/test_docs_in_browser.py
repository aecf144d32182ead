"""A person opens /docs in a browser, tries a prediction, sees what is wrong with a row; nobody else is asked anything.

`MODELYARD_PICTURES=folder` keeps the pictures that the test takes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from selenium.webdriver.common.keys import Keys

from kit.browser import Browser, browser
from kit.forms import a_plan, store_all
from kit.gateway import Gateway, gateway
from kit.versions import CONTRACT, expected
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedKey
from modelyard.secure.keys import digest_of

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

KEYS = {"all": ("infer", "explain", "feedback"), "loans": ("infer:loans",)}


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Gateway]]:
    """One that asks for no key, one that does."""
    root = tmp_path_factory.mktemp("browser")
    plan = a_plan(1, store_all(Shelf(Home(root / "open").prepare().shelf)))
    store_all(Shelf(Home(root / "keyed").prepare().shelf))
    keys = tuple(PlannedKey(name, digest_of(f"my_{name}"), name, scopes) for name, scopes in KEYS.items())
    keyed = msgspec.structs.replace(plan, keys=keys, require_keys=True)
    with gateway(root / "open", plan, workers=1) as one, gateway(root / "keyed", keyed, workers=1) as other:
        yield one, other


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("MODELYARD_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_picture(path: Path, width: int) -> bool:
    """Whether this is a PNG of that width with something on it."""
    data = path.read_bytes()
    return data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", data[16:20])[0] == width and len(data) > 10_000


def stayed_at_home(window: Browser, one: Gateway) -> None:
    """Nothing was asked of anybody else, and the browser had nothing to complain of."""
    asked = window.requests()
    assert asked
    assert not [url for url in asked if not url.startswith((f"{one.url}/", "blob:", "data:", "about:"))]
    assert window.complaints() == []


def set_field(window: Browser, name: str, text: str) -> None:
    """Type into a column's field."""
    box = window.find(f"[id='field-{name}']")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(text)


def test_a_prediction_an_explanation_and_the_truth(
    gateways: tuple[Gateway, Gateway], tmp_path: Path, pictures: Path
) -> None:
    one, _ = gateways
    with browser(tmp_path) as window:
        window.open(f"{one.url}/docs#/loans")
        window.find("#send").click()
        probability = expected(CONTRACT.example)
        assert window.find("#decision").text == ("decline" if probability >= 0.3 else "approve")
        assert f"{100 * probability:.1f} %" in window.find("#answer").text
        assert is_picture(window.picture(pictures / "docs-desktop.png"), 1440)

        window.find("#answer button.quiet").click()  # the truth is "good"
        window.find("#thanks")
        for button in window.all(".tabs button"):
            if button.text == "Explain":
                button.click()
                break
        window.find("#send").click()
        assert len(window.find("#contributions").find_elements("css selector", ".track")) == len(CONTRACT.features)
        assert is_picture(window.picture(pictures / "docs-explained.png"), 1440)
        stayed_at_home(window, one)
    assert "modelyard_feedback_total 1.0" in one.get("/metrics").text


def test_what_the_contract_refuses_is_said_at_its_field(
    gateways: tuple[Gateway, Gateway], tmp_path: Path, pictures: Path
) -> None:
    one, _ = gateways
    with browser(tmp_path) as window:
        window.open(f"{one.url}/docs#/loans")
        window.find("#send")
        set_field(window, "age", "17")
        window.find("#send").click()
        assert "at least 18" in window.find(".field.wrong .fault").text
        assert len(window.all(".field.wrong")) == 1
        window.picture(pictures / "docs-refused.png")
        # The browser itself notes each answer of 4xx; nothing else may be there.
        assert all("422" in line for line in window.complaints())


def test_every_operation_opens_and_one_is_called(
    gateways: tuple[Gateway, Gateway], tmp_path: Path, pictures: Path
) -> None:
    one, _ = gateways
    with browser(tmp_path) as window:
        window.open(f"{one.url}/docs#/loans")
        window.find("#operations")
        for fold in window.all("details.op > summary"):
            fold.click()
        assert len(window.all("details.op .inside > h3")) > 20
        window.run("document.querySelector('[data-path=\"/v2/models/loans/infer\"] .inside > p > button').click()")
        assert window.find("[data-path='/v2/models/loans/infer'] .status.ok").text == "200"
        window.picture(pictures / "docs-operations.png", whole=True)
        for name in ("sums", "matrix", "pair", "vectors", "words", "gateway"):
            window.open(f"{one.url}/docs#/{name}")
            window.find("#operations")
            if name != "gateway":
                window.find("#send").click()
                assert "request id" in window.find("#answer .fine").text, name
        window.picture(pictures / "docs-gateway.png")
        stayed_at_home(window, one)


def test_a_phone_and_chinese(gateways: tuple[Gateway, Gateway], tmp_path: Path, pictures: Path) -> None:
    one, _ = gateways
    with browser(tmp_path, "zh-CN", 390, 844) as window:
        window.open(f"{one.url}/docs#/loans")
        assert window.find("#send").text == "预测"
        window.find("#send").click()
        window.find("#decision")
        assert window.find("label[for='field-age']").text == "年龄"
        wide = window.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0  # nothing to scroll sideways
        window.picture(pictures / "docs-phone.png", whole=True)
        window.size(390, 844)
        window.find("#language").click()
        assert "Predict" in window.find("#send").text
        stayed_at_home(window, one)


def test_with_keys_the_page_is_open_asks_for_one_and_forgets_it(
    gateways: tuple[Gateway, Gateway], tmp_path: Path, pictures: Path
) -> None:
    _, keyed = gateways
    with browser(tmp_path) as window:
        window.open(f"{keyed.url}/docs")
        window.find("#needs-key")
        window.picture(pictures / "docs-key.png")
        window.complaints()  # the 401 itself
        window.find("#key").send_keys("my_loans", Keys.ENTER)
        window.find("#send").click()
        window.find("#decision")
        assert [link.text.split("\n")[0] for link in window.all("#endpoints a")] == ["loans", "The gateway itself"]
        assert not [button for button in window.all(".tabs button") if button.text == "Explain"]  # not allowed to
        assert "$MODELYARD_KEY" in window.find("#snippet").text
        assert "my_loans" not in window.run("return document.body.innerText + location.href + document.cookie")
        assert window.run("return localStorage.length + sessionStorage.length") == 0
        assert window.complaints() == []
        window.driver.refresh()
        window.find("#needs-key")  # it was kept nowhere


def test_it_is_there_at_once(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    one, _ = gateways
    with browser(tmp_path) as window:
        window.open(f"{one.url}/docs#/loans")
        window.find("#send")
        load = window.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        weight = window.run(
            "return performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
            ".reduce((sum, one) => sum + one.transferSize, 0)"
        )
        assert 0 < load < 5000  # ms; some 200 where nothing else runs
        assert 0 < weight < 120_000  # bytes over the wire, the document of the endpoint included
