"""The main job: tables become governed APIs by three commands, and what is served is what was trained."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.apart import python_of
from kit.callers import Callers
from kit.gateway import until
from kit.product import Product
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

SHIPPED = Path(__file__).parents[2] / "src/modelyard/blueprints/credit_scoring/data"
TABLES = {
    "german": (SHIPPED / "german_credit.csv", "creditability", "bad", 0.76, 0.82),
    "lending": (Path(__file__).parents[1] / "data/credit/lending_club.csv", "Class", "bad", 0.69, 0.78),
}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """`modelyard demo --once` has run; then everything is up."""
    product = Product(tmp_path_factory.mktemp("bank") / "home")
    said = product.run("demo", "--once").stdout
    assert '"decision"' in said
    with product.up():
        yield product


@pytest.fixture(scope="module")
def holdout(product: Product) -> list[dict[str, Any]]:
    """Every held-out row, with the trained pipeline's own probability."""
    digest = product.json("models", "show", "credit_scoring")["digest"]
    rows = json.loads(Shelf(Home(product.root).shelf).open(digest).read("holdout.json"))
    assert len(rows["rows"]) == rows["total"] > 800
    return list(rows["rows"])


def test_the_credit_model_is_as_good_as_a_sound_pipeline_should_be(product: Product) -> None:
    metrics = product.json("models", "show", "credit_scoring")["metrics"]
    assert 0.835 <= metrics["oof_auc"] <= 0.860
    assert metrics["auc_low"] < metrics["auc"] < metrics["auc_high"]


def test_every_held_out_row_is_served_as_it_was_trained_one_by_one(product: Product, holdout: list[Any]) -> None:
    with httpx.Client(base_url=product.url) as client:
        for held in holdout:
            reply = client.post("/credit_scoring", json=held["row"])
            assert reply.status_code == 200, reply.text
            assert abs(reply.json()["probability"] - held["probability"]) <= 1e-5


@pytest.mark.parametrize("size", [2, 64, 891])
def test_every_held_out_row_is_served_as_it_was_trained_in_batches(
    product: Product, holdout: list[Any], size: int
) -> None:
    for at in range(0, len(holdout), size):
        part = holdout[at : at + size]
        answers = product.post("/credit_scoring", [held["row"] for held in part]).json()["predictions"]
        assert len(answers) == len(part)
        for answer, held in zip(answers, part, strict=True):
            assert abs(answer["probability"] - held["probability"]) <= 1e-5


def test_every_held_out_row_is_served_as_it_was_trained_from_sixteen_connections(
    product: Product, holdout: list[Any]
) -> None:
    wanted = {json.dumps(held["row"]): held["probability"] for held in holdout}
    seen: set[str] = set()
    lock = threading.Lock()

    def check(status: int, body: Any, row: dict[str, Any]) -> None:
        assert status == 200, body
        assert abs(body["probability"] - wanted[json.dumps(row)]) <= 1e-5
        with lock:
            seen.add(json.dumps(row))

    callers = Callers(product.gateway_port, "/credit_scoring", [held["row"] for held in holdout], check).start(16)
    until(lambda: len(seen) == len(wanted) or callers.failures, "every row was asked", 120)
    callers.stop()
    assert callers.failures == []


def test_what_the_same_version_says_in_process_is_what_it_says_over_http(product: Product, holdout: list[Any]) -> None:
    import modelyard

    with modelyard.load("credit_scoring:champion", home=product.root) as model:
        rows = [held["row"] for held in holdout]
        for prediction, held in zip(model.predict(rows), holdout, strict=True):
            assert abs(prediction.probability - held["probability"]) <= 1e-5


def test_declines_say_why_and_explanations_add_up(product: Product, holdout: list[Any]) -> None:
    from math import exp

    declined = 0
    for held in holdout[:200]:
        answer = product.post("/credit_scoring", held["row"]).json()
        if answer["decision"] == "decline":
            declined += 1
            assert 1 <= len(answer["reasons"]) <= 4
            assert all(reason["text"] and reason["contribution"] > 0 for reason in answer["reasons"])
        else:
            assert "reasons" not in answer
        said = product.post("/credit_scoring/explain", held["row"]).json()
        log_odds = said["base"] + sum(said["contributions"].values())
        assert 1 / (1 + exp(-log_odds)) == pytest.approx(answer["probability"], abs=1e-5)
    assert declined > 20


@pytest.mark.parametrize("name", TABLES)
def test_any_credit_table_trains_and_deploys_with_the_same_three_commands(
    product: Product, name: str, tmp_path: Path
) -> None:
    path, target, positive, low, high = TABLES[name]
    trained = product.json("train", str(path), "--target", target, "--positive", positive, "--name", name)
    assert trained["model"] == name
    assert trained["version"] == 1
    assert {"auc", "ks", "gini", "log_loss", "brier"} <= trained["metrics"].keys()
    assert low <= trained["metrics"]["oof_auc"] <= high
    product.run("deploy", name)
    product.run("predict", name, "--data", str(path), "--output", str(tmp_path / "out.csv"))
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        answered = list(csv.DictReader(file))
    with open(path, newline="", encoding="utf-8") as file:
        assert len(answered) == len(list(csv.DictReader(file)))
    assert all(0 <= float(row["probability"]) <= 1 for row in answered)
    described = httpx.get(f"{product.url}/{name}").json()
    assert product.post(f"/{name}", described["example"]).status_code == 200


def test_a_mistake_is_named_by_column_row_and_rule(product: Product) -> None:
    example = httpx.get(f"{product.url}/credit_scoring").json()["example"]
    reply = product.post("/credit_scoring", [example, example | {"Age": 7}])
    assert reply.status_code == 422
    violation = reply.json()["violations"][0]
    assert (violation["column"], violation["row"], violation["rule"]) == ("Age", 1, "minimum")


def test_the_control_process_dies_and_its_database_is_gone_and_the_gateway_goes_on(tmp_path: Path) -> None:
    product = Product(tmp_path / "home")
    table = SHIPPED / "german_credit.csv"
    product.run(
        "train", str(table), "--target", "creditability", "--name", "german", "--candidates", "scorecard"
    )  # the quickest candidate: this story is not about quality
    product.run("deploy", "german")
    with product.up():
        example = httpx.get(f"{product.url}/german").json()["example"]
        revision = product.json("status")["plan"]["revision"]
        answers: list[int] = []
        callers = Callers(
            product.gateway_port, "/german", [example], lambda status, body, row: answers.append(status)
        ).start(4)
        first = int((product.root / "run" / "control.pid").read_text())
        for suffix in ("", "-wal", "-shm"):
            (product.root / f"control.sqlite3{suffix}").unlink(missing_ok=True)
        os.kill(first, signal.SIGKILL)

        def is_replaced() -> bool:
            path = product.root / "run" / "control.pid"
            return path.exists() and int(path.read_text() or 0) not in (0, first)

        until(is_replaced, "a fresh control process", 60)
        until(product.is_ready, "the fresh control answers", 60)
        before = len(answers)
        until(lambda: len(answers) > before + 100, "calls go on")
        callers.stop()
        assert callers.failures == []
        assert set(answers) == {200}
        assert product.json("status")["plan"]["revision"] == revision
        refused = product.run("deploy", "german", expect=1)
        assert "adopt" in refused.stderr or "restore" in refused.stderr
        product.run("adopt")
        product.run("deploy", "german")
        assert product.post("/german", example).status_code == 200


def test_a_key_made_and_revoked_by_the_command_works_and_then_does_not(product: Product) -> None:
    key = product.run("keys", "create", "caller", "--scopes", "infer").stdout.strip()
    example = httpx.get(f"{product.url}/credit_scoring").json()["example"]
    headers = {"Authorization": f"Bearer {key}"}
    until(lambda: product.post("/credit_scoring", example, headers=headers).status_code == 200, "the key works", 5)
    assert product.post("/credit_scoring/explain", example, headers=headers).status_code == 403
    identity = next(row["id"] for row in product.json("keys", "list") if row["principal"] == "caller")
    product.run("keys", "revoke", identity)
    until(lambda: product.post("/credit_scoring", example, headers=headers).status_code == 401, "it is refused", 1)
    assert key not in (product.root / "plan.json").read_text()
    assert all(key not in log.read_text() for log in (product.root / "logs").glob("*.log"))


def test_a_backup_of_a_running_home_is_restored_elsewhere_and_serves(product: Product, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    product.run("backup", str(archive))
    assert archive.stat().st_mode & 0o077 == 0
    other = Product(tmp_path / "other")
    other.run("restore", str(archive))
    with other.up():
        example = httpx.get(f"{other.url}/credit_scoring").json()["example"]
        mine, theirs = (one.post("/credit_scoring", example).json() for one in (product, other))
        assert mine["probability"] == theirs["probability"]


@pytest.mark.thirdparty
def test_tritonclient_gets_metadata_and_the_trained_predictions(
    product: Product, holdout: list[Any], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([held["row"] for held in holdout]))
    session = Path(__file__).parents[1] / "thirdparty/triton_session.py"
    address = product.url.removeprefix("http://")
    done = subprocess.run(
        [python_of("tritonclient"), session, address, "credit_scoring", rows],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [said[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]
    assert said["server"]["name"] == "modelyard"
    assert [spec["name"] for spec in said["model"]["inputs"]] == list(holdout[0]["row"])
    wanted = [held["probability"] for held in holdout]
    for name in ("json", "defaults", "binary"):
        assert said[name] == pytest.approx(wanted, abs=1e-5), name
        assert set(said[f"{name}_decisions"]) == {"approve", "decline"}
    assert said["one_by_one"] == pytest.approx(wanted[:20], abs=1e-5)
    assert said["async"] == pytest.approx(wanted[:16], abs=1e-5)
    assert (said["id"], said["pinned"]) == ("42", "1")
    assert said["unknown"] == ["404", "Request for unknown model: 'nobody' is not found"]
    assert said["missing"][0] == "400"
