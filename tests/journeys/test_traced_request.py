"""A request id, traced through a running product: to version, plan revision, who asked for it, who approved it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from kit.gateway import until
from kit.product import Product

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]
ROW = {"age": 30, "income": 80.5}


class Story:
    """One product that runs, its administrator's token, and what was answered when."""

    def __init__(self, product: Product, password: str) -> None:
        self.product = product
        asked = {"username": "admin", "password": password}
        token = httpx.post(f"{product.control_url}/api/v1/token", json=asked, timeout=30).json()["token"]
        self._headers = {"Authorization": f"Bearer {token}"}

    def api(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        url = f"{self.product.control_url}/api/v1/{path}"
        answer = httpx.request(method, url, json=body, headers=self._headers, timeout=60)
        assert answer.status_code == status, answer.text
        return answer.json()

    def ask(self, version: int | None = None, **headers: str) -> str:
        path = "/risk" if version is None else f"/risk/versions/{version}"
        answer = self.product.post(path, ROW, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def traced(self, request_id: str) -> Any:
        """The trace, once the gateway has written the record."""

        def written() -> Any:
            done = self.product.json("trace", request_id)
            return done if done["requests"] else None

        return until(written, "the record is on disk")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("traced")
    product = Product(folder / "home")
    product.environment["MODELYARD_DATABASE_URL"] = database_url
    password = re.search(r"password (\S+)", product.run("init").stderr)
    assert password
    table = applicants(folder / "table.csv")
    for seed in ("0", "1"):
        words = ["--target", "bad", "--name", "risk", "--candidates", "logistic", "--seed", seed]
        product.run("train", str(table), *words)
    product.run("deploy", "risk", "--version", "1")
    with product.up():
        yield Story(product, password[1])


def applicants(path: Path) -> Path:
    random = np.random.default_rng(0)
    age, income = random.integers(18, 80, 400), random.normal(100, 30, 400).round(1)
    bad = random.random(400) < 1 / (1 + np.exp((age - 35) / 10 + (income - 90) / 20))
    pl.DataFrame({"age": age, "income": income, "bad": np.where(bad, "yes", "no")}).write_csv(path)
    return path


def test_a_request_is_traced_to_version_revision_and_approver(story: Story) -> None:
    product = story.product
    first = story.ask(**{"X-Request-Id": "order-1"})
    product.run("endpoint", "configure", "risk", "--needs-approval")
    product.run("traffic", "risk", "1=1", "2=99")
    assert story.traced(story.ask())["requests"][0]["version"] == 1  # it waits: nothing has changed
    between = datetime.now(UTC).isoformat()
    (change,) = story.api("GET", "changes")["results"]
    story.api("POST", f"changes/{change['id']}/approve")

    def second() -> str | None:
        answer = product.post("/risk", ROW).json()
        return str(answer["request_id"]) if answer["version"] == 2 else None

    found = story.traced(str(until(second, "version 2 answers")))
    (one,) = found["requests"]
    assert (found["genuine"], found["principal"], one["percent"]) == (True, "anonymous", 99)
    assert one["put_there"]["by"].startswith("local:")
    assert (one["put_there"]["verb"], one["put_there"]["approved_by"]) == ("set_traffic", "admin")
    assert one["put_there"]["revision"] <= one["revision"] == story.api("GET", "plan")["revision"]
    assert one["origin"]["run"] == 2
    assert one["origin"]["data_digest"]
    assert one["duration_ms"] > 0

    (before,) = story.traced(first)["requests"]
    assert (before["version"], before["percent"], before["put_there"]["verb"]) == (1, 100, "deploy")
    (named,) = product.json("trace", "order-1")["requests"]
    assert named["request_id"] == first
    (state,) = product.json("history", "risk", "--at", between)
    assert (state["weights"], state["approved_by"]) == ({"1": 100}, "")
    (state,) = story.api("GET", "models/risk/served")
    assert (state["weights"], state["approved_by"]) == ({"1": 1, "2": 99}, "admin")


def test_feedback_and_inputs_are_told(story: Story) -> None:
    made = story.ask(version=1)
    told = story.product.post("/risk/feedback", {"request_id": made, "truth": "yes"})
    assert told.status_code == 202

    def truths() -> Any:
        requests = story.product.json("trace", made)["requests"]
        return requests and requests[0]["feedback"]

    (truth,) = until(truths, "the truth is on disk")  # type: ignore[misc]
    assert truth["truth"] == "yes"
    seen = story.api("GET", f"trace/{made}?inputs=1")["requests"][0]["seen"]
    assert seen["rows"] == [ROW]
    assert story.api("GET", "audit")["results"][0]["verb"] == "trace_inputs"


def test_what_gateways_saw_of_two_versions_is_compared(story: Story) -> None:
    for version in (1, 2, 2):
        story.ask(version)
    found = story.product.json("models", "compare", "risk", "1", "2")
    assert found["a"]["observed"]["calls"] >= 1
    assert found["b"]["observed"]["calls"] >= 2
    assert found["b"]["observed"]["p50_ms"] > 0
    assert found["same_data"] is True
    assert found["recipe"] == {"seed": [0, 1]}


def test_a_refused_request_and_a_made_up_id_are_told_apart(story: Story) -> None:
    refused = story.product.post("/risk", {"age": "old"})
    genuine = refused.json()["request_id"]
    said = story.product.run("trace", genuine).stdout
    assert "genuine" in said
    made_up = story.product.run("trace", "0" * 32, expect=1)
    assert "did not make this id" in made_up.stderr


def test_an_id_outlives_its_record(story: Story) -> None:
    made = story.ask(version=1)
    story.traced(made)
    for path in (story.product.root / "records").glob("*.records"):
        path.unlink()
    found = story.product.json("trace", made)
    assert (found["requests"], found["genuine"]) == ([], True)
    assert (found["principal"], found["endpoint"]) == ("anonymous", "risk")
