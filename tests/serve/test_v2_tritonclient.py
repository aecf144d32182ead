"""tritonclient, which we did not write, uses every V2 extension that the gateway lists."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.apart import python_of
from kit.gateway import Gateway, gateway
from kit.tensor_versions import ONNX_TYPES, store_identity
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.secure.keys import digest_of

pytestmark = pytest.mark.xdist_group("v2_gateway")

KEY = "my_key_that_may_unload"
SESSION = Path(__file__).parents[1] / "thirdparty/triton_session.py"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("triton") / "home"
    shelf = Shelf(Home(root).prepare().shelf)
    planned = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}), {})
        for name, digest in (
            ("same", store_identity(shelf, tuple(ONNX_TYPES), classes=("low", "middle", "high"))),
            ("other", store_identity(shelf, ("FP32",), name="other")),
        )
    )
    key = PlannedKey("k1", digest_of(KEY), "operator", ("infer", "repository:same"))
    with gateway(root, ServingPlan(1, 0.0, planned, (key,))) as one:
        yield one


@pytest.fixture(scope="module")
def said(running: Gateway) -> dict[str, Any]:
    command = [python_of("tritonclient"), SESSION, "extensions", f"127.0.0.1:{running.port}", "same", KEY]
    session = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert session.returncode == 0, session.stderr
    found: dict[str, Any] = json.loads(session.stdout)
    return found


def test_every_datatype_comes_back(said: dict[str, Any]) -> None:
    assert set(said["datatypes"]) == set(ONNX_TYPES)
    sent = said["sent"]
    assert said["binary"] == sent
    assert said["json"] == {name: sent[name] for name in said["json"]}
    assert len(said["json"]) == len(ONNX_TYPES) - 3


def test_bodies_may_be_compressed(said: dict[str, Any]) -> None:
    assert said["compressed"] == {way: [0, 1, 100] for way in said["compressed"]}
    assert len(said["compressed"]) == 9


def test_config_classification_and_parameters(said: dict[str, Any]) -> None:
    assert said["config"]["name"] == "same"
    assert {one["data_type"] for one in said["config"]["input"]} >= {"TYPE_FP16", "TYPE_BF16", "TYPE_STRING"}
    assert [text.split(":")[1:] for text in said["classes"]] == [["2", "high"], ["0", "low"]]
    assert said["too_late"][0] == "504"
    assert said["sequence"][0] == "400"
    assert "stateful" in said["sequence"][1]


def test_statistics(said: dict[str, Any]) -> None:
    (stats,) = said["statistics"]
    assert stats["inference_count"] >= 14
    assert stats["inference_stats"]["success"]["ns"] > 0
    assert stats["inference_stats"]["fail"]["count"] == 2
    assert said["all_statistics"] == [["other", "1"], ["same", "1"]]


def test_unloaded_and_loaded_again(said: dict[str, Any]) -> None:
    assert {"name": "same", "version": "1", "state": "READY", "reason": ""} in said["index"]
    unloaded = said["unloaded"]
    assert unloaded["ready"] is False
    assert unloaded["index"] == [{"name": "same", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert unloaded["infer"][0] == "503"
    assert "is not at ready state" in unloaded["infer"][1]
    assert said["override"][0] == "400"
    assert said["without_key"][0] == "403"
    assert said["loaded"] == {"ready": True, "answer": [0, 1, 100]}
