"""MiniLM behind a real gateway: strings in, embeddings out, equal to those computed by hand in this process."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kit.encoders import classifier, folder, minilm
from kit.gateway import Gateway, gateway
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.optimise.text import package_text_model

TEXTS = (
    "How do I renew my life insurance policy?",
    "ok",
    "My car was stolen yesterday; which documents do you need, and by when, so that the claim can be paid?",
    "Does disability insurance cover pregnancy?",
    "今天天气很好。",
    "naïve café, 25 % off! 🚗",
)
CLASSES = {"id2label": {"0": "cold", "1": "mild", "2": "warm"}, "max_position_embeddings": 32}
Embed = Callable[[str], NDArray[np.float64]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm(tmp_path_factory.mktemp("hub") / "minilm")


@pytest.fixture(scope="module")
def by_hand(hub: Path) -> Embed:
    """One text at a time, unpadded, in float64: tokenizers and ONNX Runtime without a line of the product."""
    tokenizer = Tokenizer.from_file(str(hub / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    session = ort.InferenceSession(str(hub / "model.onnx"), providers=["CPUExecutionProvider"])

    def embed(text: str) -> NDArray[np.float64]:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = session.run(None, feeds)[0][0].astype(np.float64).mean(axis=0)
        return mean / np.linalg.norm(mean)

    return embed


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, hub: Path) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("home")
    shelf = Shelf(Home(root).prepare().shelf)
    weather = folder(root / "weather", classifier(), config=CLASSES)
    digests = {
        "minilm": shelf.put(*package_text_model(hub, "minilm")),
        "weather": shelf.put(*package_text_model(weather, "weather")),
    }
    endpoints = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}))
        for name, digest in digests.items()
    )
    with gateway(root, ServingPlan(1, time.time(), endpoints)) as running:
        yield running


def test_a_row_is_an_object_with_a_text(served: Gateway, by_hand: Embed) -> None:
    for text in TEXTS:
        answer = served.post("/minilm", {"text": text})
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["embedding"], by_hand(text), atol=1e-6)


def test_a_bare_string_is_a_row_too(served: Gateway, by_hand: Embed) -> None:
    answer = served.post("/minilm", TEXTS[0])
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["embedding"], by_hand(TEXTS[0]), atol=1e-6)


@pytest.mark.parametrize("rows", [[{"text": text} for text in TEXTS], list(TEXTS)], ids=["objects", "strings"])
def test_a_list_answers_in_its_order(served: Gateway, by_hand: Embed, rows: list[Any]) -> None:
    answer = served.post("/minilm", rows)
    assert answer.status_code == 200, answer.text
    found = [row["embedding"] for row in answer.json()["predictions"]]
    np.testing.assert_allclose(found, [by_hand(text) for text in TEXTS], atol=1e-6)


def test_v2_takes_texts_as_json_and_as_binary(served: Gateway, by_hand: Embed) -> None:
    tensor: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)]}
    wanted = [by_hand(text) for text in TEXTS]
    answer = served.post("/v2/models/minilm/infer", {"inputs": [tensor | {"data": list(TEXTS)}]})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [len(TEXTS), 384])
    np.testing.assert_allclose(np.reshape(output["data"], (-1, 384)), wanted, atol=1e-6)

    tail = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in TEXTS)
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(tail)}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = httpx.post(f"{served.url}/v2/models/minilm/infer", content=head + tail, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(np.reshape(answer.json()["outputs"][0]["data"], (-1, 384)), wanted, atol=1e-6)


def test_metadata_says_that_it_takes_text(served: Gateway) -> None:
    said = served.get("/v2/models/minilm").json()
    assert said["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert said["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}]


def test_callers_at_once_get_their_own_answers(served: Gateway, by_hand: Embed) -> None:
    wanted = {text: by_hand(text) for text in TEXTS}

    def call(text: str) -> tuple[str, list[float]]:
        return text, served.post("/minilm", {"text": text}).json()["embedding"]

    with ThreadPoolExecutor(8) as pool:
        for text, found in pool.map(call, TEXTS * 5):
            np.testing.assert_allclose(found, wanted[text], atol=1e-6)


def test_a_text_that_is_too_long_is_refused_and_its_neighbours_are_not(served: Gateway, by_hand: Embed) -> None:
    refused = served.post("/minilm", [{"text": "ok"}, {"text": "word " * 300}])
    assert refused.status_code == 422, refused.text
    assert "row 1" in refused.json()["detail"]
    assert "max_length=256" in refused.json()["detail"]
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(served.post, "/minilm", {"text": text}) for text in ("word " * 300, *TEXTS) * 3]
        answers = [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [422, *[200] * len(TEXTS)] * 3
    np.testing.assert_allclose(answers[1].json()["embedding"], by_hand(TEXTS[0]), atol=1e-6)


def test_a_refusal_counts_rows_as_the_caller_does(served: Gateway) -> None:
    for endpoint, size in (("minilm", 30), ("weather", 2000)):  # both are computed in parts
        rows = [{"text": "ok"}] * size
        refused = served.post(f"/{endpoint}", [*rows, {"text": "word " * 300}, *rows[:20]])
        assert refused.status_code == 422, refused.text
        assert refused.json()["violations"][0]["row"] == size


@pytest.mark.parametrize("row", [{"text": 3}, {"text": None}, {}, {"text": "ok", "other": "x"}, 7, None, "\ud800"])
def test_what_is_no_text_is_refused(served: Gateway, row: Any) -> None:
    answer = httpx.post(f"{served.url}/minilm", content=json.dumps(row).encode(), timeout=30)
    assert answer.status_code in (400, 422), answer.text


def test_a_classifier_answers_a_label_and_probabilities(served: Gateway) -> None:
    answer = served.post("/weather", {"text": "alpha kilo"})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert sum(said["probabilities"]) == pytest.approx(1, abs=1e-6)
    assert said["label"] == ("cold", "mild", "warm")[int(np.argmax(said["probabilities"]))]
