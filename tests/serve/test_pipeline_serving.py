"""Pipelines behind a real gateway: images in every dialect, bombs refused, steps timed, the failing one named."""

from __future__ import annotations

import base64
import copy
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from kit.gateway import Gateway, gateway, plan
from kit.images import bomb, encoded, files, noise
from kit.own_models import Sums
from kit.pipelines import READER, bars, drawn, inked, put, register
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.optimise.held import package_class
from modelyard.runtimes.load import load
from modelyard.serve.openapi_examples import WHITE_PIXEL

PAGE = encoded(drawn("abc", "cab"))
OTHER = encoded(drawn("b"))
LIMIT = 400_000  # pixels


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("home")
    home = Home(root)
    register(home, inked=inked(), bars=bars())
    with gateway(root, plan(1, {1: put(home, READER).name}), max_pixels=LIMIT, workers=1) as running:
        yield running


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def check(answer: httpx.Response, text: str = "abc\ncab") -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    assert said["text"] == text
    assert [line["text"] for line in said["lines"]] == text.split("\n")
    return said


def test_base64_in_json_one_page_and_many(served: Gateway) -> None:
    said = check(served.post("/loans", {"page": b64(PAGE)}))
    np.testing.assert_allclose(said["lines"][0]["box"][0], [10, 10], atol=1.5)
    assert said["lines"][0]["confidence"] > 0.5
    many = served.post("/loans", [{"page": b64(PAGE)}, {"page": b64(OTHER)}, {"page": {"b64": b64(PAGE)}}])
    assert [row["text"] for row in many.json()["predictions"]] == ["abc\ncab", "b", "abc\ncab"]


def test_a_form_one_page_and_many(served: Gateway) -> None:
    url = f"{served.url}/loans"
    check(httpx.post(url, files={"page": ("page.png", PAGE)}, timeout=30))
    check(httpx.post(url, files={"page": (None, b64(PAGE))}, timeout=30))  # a text: base64
    many = httpx.post(url, files=[("page", ("1.png", PAGE)), ("page", ("2.png", OTHER))], timeout=30)
    assert [row["text"] for row in many.json()["predictions"]] == ["abc\ncab", "b"]
    refused = httpx.post(url, files={"pages": ("page.png", PAGE)}, timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")


def test_v2_in_json_and_binary(served: Gateway) -> None:
    tensor = {"name": "page", "datatype": "BYTES", "shape": [2]}
    answer = served.post("/v2/models/loans/infer", {"inputs": [tensor | {"data": [b64(PAGE), b64(OTHER)]}]})
    assert answer.status_code == 200, answer.text
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    assert outputs["text"] == ["abc\ncab", "b"]
    assert [line["text"] for line in json.loads(outputs["lines"][0])] == ["abc", "cab"]
    tail = b"".join(struct.pack("<I", len(data)) + data for data in (PAGE, OTHER))
    head = msgspec.json.encode({"inputs": [tensor | {"parameters": {"binary_data_size": len(tail)}}]})
    headers = {"inference-header-content-length": str(len(head))}
    binary = httpx.post(f"{served.url}/v2/models/loans/infer", content=head + tail, headers=headers, timeout=30)
    assert binary.status_code == 200, binary.text
    assert {one["name"]: one["data"] for one in binary.json()["outputs"]} == outputs


def test_v1_and_the_caller_s_own_process(served: Gateway) -> None:
    predicted = served.post("/v1/models/loans:predict", {"instances": [{"page": {"b64": b64(PAGE)}}]})
    assert predicted.json()["predictions"][0]["text"] == "abc\ncab"
    assert predicted.json()["predictions"][0]["lines"][1]["text"] == "cab"
    digest = served.shelf.digests()
    (mine,) = [one for one in digest if served.shelf.open(one).manifest.runtime == "pipeline"]
    with load(served.home.shelf / mine) as model:
        assert model.predict_tensors({"page": files(PAGE)})["text"].tolist() == ["abc\ncab"]


def test_a_large_page_is_read_by_the_bulk_worker(served: Gateway) -> None:
    large = encoded(np.repeat(np.repeat(drawn("abc", "cab", "bac"), 3, axis=0), 3, axis=1), compress_level=0)
    assert len(large) > 65_536  # bulk_bytes
    check(httpx.post(f"{served.url}/loans", files={"page": ("p.png", large)}, timeout=30), "abc\ncab\nbac")


def test_bombs_are_refused_by_their_header(served: Gateway) -> None:
    for data in (bomb(9000, 9000), encoded(noise(700, 600))):
        refused = httpx.post(f"{served.url}/loans", files={"page": ("p.png", data)}, timeout=30)
        assert refused.status_code == 422, refused.text
        assert f"max_pixels={LIMIT}" in refused.text
        assert refused.json()["violations"][0] == {
            "rule": "max_pixels", "column": "page", "row": 0, "message": refused.json()["violations"][0]["message"],
        }  # fmt: skip
    assert served.post("/loans", {"page": "rubbish"}).status_code == 422
    check(served.post("/loans", {"page": b64(PAGE)}))


def test_the_api_document_says_what_it_takes_and_its_example_works(served: Gateway) -> None:
    document = served.get("/loans/openapi.json").json()
    text = json.dumps(document)
    assert '"contentEncoding": "base64"' in text
    assert WHITE_PIXEL in text
    said = served.post("/loans", {"page": WHITE_PIXEL}).json()
    assert (said["text"], said["lines"]) == ("", [])


def test_every_step_is_timed(served: Gateway) -> None:
    check(served.post("/loans", {"page": b64(PAGE)}))
    lines = served.get("/metrics").text.splitlines()
    for step in (one["name"] for one in READER["steps"]):
        label = f'endpoint="loans",step="{step}",version="1"'
        (count,) = [line for line in lines if line.startswith(f"modelyard_step_seconds_count{{{label}")]
        (spent,) = [line for line in lines if line.startswith(f"modelyard_step_seconds_sum{{{label}")]
        assert float(count.split()[-1]) >= 1
        assert 0 < float(spent.split()[-1]) < 60


def test_a_failing_step_names_itself_also_in_a_model_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    home = Home(tmp_path).prepare()
    shelf = Shelf(home.shelf)
    own = shelf.put(*package_class("kit.own_models:Sums", "sums"))
    register(home, sums=own)
    told: dict[str, Any] = {
        "inputs": {"x": {"datatype": "FP32", "shape": [-1, 3]}},
        "steps": [
            {"name": "halve", "do": "standardise", "mean": [0, 0, 0], "spread": [2, 2, 2], "gives": {"x": "half"}},
            {"name": "add up", "version": "sums:1", "takes": {"x": "half"}},
        ],
        "outputs": {"total": "total"},
    }
    assert Sums.inputs == {"x": ("FP32", (-1, 3))}
    folder = put(home, copy.deepcopy(told))
    manifest = shelf.open(folder.name).manifest
    assert (manifest.in_worker, manifest.trusted) == (True, True)
    with gateway(tmp_path, plan(1, {1: folder.name}), workers=1, model_workers=1) as running:
        assert running.post("/loans", {"x": [2.0, 4.0, 6.0]}).json()["total"] == pytest.approx(6.0)
        failed = running.post("/loans", {"x": [-8.0, 0.0, 0.0]})  # half of it lets the class raise
        assert failed.status_code == 500
        assert failed.json()["detail"] == "step 'add up': it failed on this input with RuntimeError"
        assert "4711" not in failed.text
        assert "own_models.py" in running.log.read_text()
        assert 'step="add up"' in running.get("/metrics").text
        state = running.state()
        assert state is not None
        assert [model.digest for model in state.models] == [folder.name]
