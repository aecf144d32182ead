"""A text encoder from a hub's folder to answers over HTTP, through the command alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kit.encoders import WIDTH, contextual, folder, vectors_of
from kit.product import Product

pytestmark = pytest.mark.journey


def test_a_folder_is_registered_deployed_and_called(tmp_path: Path) -> None:
    hub = folder(tmp_path / "words", contextual())
    product = Product(tmp_path / "home")
    made = product.json("models", "register", str(hub), "--name", "words")
    assert (made["model"], made["version"]) == ("words", 1)
    assert product.json("models", "register", str(hub), "--name", "words", "--truncate", "--max-length", "5")

    refused = product.run("models", "register", str(hub), "--name", "words", "--sample", "rows.csv", expect=1)
    assert "--sample" in refused.stderr
    refused = product.run("models", "register", str(hub / "model.onnx"), "--name", "words", "--truncate", expect=1)
    assert "--truncate" in refused.stderr
    refused = product.run("models", "register", str(hub / "tokenizer.json"), "--name", "words", expect=1)
    assert "--sample is missing" in refused.stderr

    product.run("deploy", "words", "--version", "1")
    with product.up():
        wanted = vectors_of("alpha bravo").mean(axis=0)
        answer = product.post("/words", {"text": "alpha bravo"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] == 1
        np.testing.assert_allclose(answer.json()["embedding"], wanted / np.linalg.norm(wanted), atol=1e-6)
        product.run("deploy", "words", "--version", "2")
        cut = product.post("/words", [{"text": "alpha bravo charlie delta"}, {"text": "alpha bravo charlie"}]).json()
        assert cut["version"] == 2
        first, second = (row["embedding"] for row in cut["predictions"])
        assert len(first) == WIDTH
        np.testing.assert_allclose(first, second, atol=1e-6)
    manifest = json.loads(product.run("models", "show", "words:2", "--json").stdout)["manifest"]
    assert manifest["runtime"] == "text"
