"""KServe's own client, V1, V2 and gRPC, gets the right answers from a gateway with its defaults."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.apart import python_of
from kit.forms import NAMES, a_plan, a_row, store_all
from kit.gateway import Gateway, gateway
from kit.versions import expected
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

pytestmark = [pytest.mark.thirdparty, pytest.mark.xdist_group("kserve"), pytest.mark.timeout(700)]

ROWS = [a_row(random.Random(seed)) for seed in range(40)]
RIGHT = [expected(row) for row in ROWS]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("kserve") / "home"
    digests = store_all(Shelf(Home(root).prepare().shelf))
    with gateway(root, a_plan(1, digests)) as one:
        yield one


@pytest.fixture(scope="module")
def said(running: Gateway, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    rows = tmp_path_factory.mktemp("rows") / "rows.json"
    rows.write_text(json.dumps(ROWS))
    session = Path(__file__).with_name("kserve_session.py")
    done = subprocess.run(
        [python_of("kserve"), session, running.url, f"127.0.0.1:{running.grpc_port}", "loans", rows],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_v1_predicts_explains_and_tells_events(said: dict[str, Any]) -> None:
    v1 = said["v1"]
    assert (v1["live"], v1["ready"]) == (True, True)
    for name in ("objects", "lists", "inputs", "event"):
        assert [one["probability"] for one in v1[name]["predictions"]] == pytest.approx(RIGHT, abs=1e-6), name
    assert v1["event_headers"]["ce-type"] == "io.kserve.inference.response"
    assert [list(one["contributions"]) for one in v1["explained"]["explanations"]] == [NAMES, NAMES]
    assert [one["probability"] for one in v1["explained"]["explanations"]] == pytest.approx(RIGHT[:2], abs=1e-6)


def test_v1_refusals_arrive_with_status_and_sentence(said: dict[str, Any]) -> None:
    v1 = said["v1"]
    for name, status, words in (
        ("unknown", 404, "nobody"),
        ("not_a_list", 400, 'Expected "instances" to be a list'),
        ("wrong", 400, "column 'age' must be at least 18"),
    ):
        assert v1[name][0] == status
        assert words in v1[name][1]


def test_v2_predicts_as_json_and_binary(said: dict[str, Any]) -> None:
    v2 = said["v2"]
    assert [v2[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]
    assert v2["id"] == "42"
    for name in ("json", "binary"):
        assert v2[name]["probability"] == pytest.approx(RIGHT, abs=1e-6), name
        assert set(v2[name]["decision"]) == {"approve", "decline"}


def test_v2_over_grpc_predicts_as_typed_and_raw_contents(said: dict[str, Any]) -> None:
    grpc = said["grpc"]
    assert [grpc[name] for name in ("live", "ready", "model_ready")] == [True, True, True]
    for name in ("contents", "raw"):
        assert grpc[name]["probability"] == pytest.approx(RIGHT, abs=1e-6), name
        assert set(grpc[name]["decision"]) == {"approve", "decline"}
