"""Versions become an ensemble and a pipeline, through the command alone, and answer over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import lightgbm
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from kit.applicants import BAD, CODES, WHOLE, fitted
from kit.images import encoded
from kit.pipelines import READER, bars, drawn, inked
from kit.product import Product

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]


def toml_of(value: object) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {toml_of(one)}' for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def test_models_are_composed_deployed_and_called(tmp_path: Path) -> None:
    product = Product(tmp_path / "home")
    table = tmp_path / "table.csv"
    WHOLE.assign(status=BAD).to_csv(table, index=False)
    trees = fitted(lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1), WHOLE, CODES)
    trees.booster_.save_model(tmp_path / "trees.txt")
    skops.io.dump(fitted(LogisticRegression(max_iter=500), WHOLE, CODES), tmp_path / "line.skops")
    product.run("models", "register", str(tmp_path / "trees.txt"), "--name", "trees", "--sample", str(table))
    product.run("models", "register", str(tmp_path / "line.skops"), "--name", "line", "--sample", str(table))

    refused = product.run("compose", "ensemble", "both", "--of", "trees:1", "line:7", expect=1)
    assert "line:7" in refused.stderr
    refused = product.run("compose", "ensemble", "both", "--of", "trees:1", "--by", "vote", expect=1)
    assert "two members or more" in refused.stderr
    made = product.json("compose", "ensemble", "both", "--of", "trees:1", "line:1", "--weights", "3", "1")
    assert (made["model"], made["version"]) == ("both", 1)
    manifest = product.json("models", "show", "both")["manifest"]
    assert [member["name"] for member in manifest["members"]] == ["trees:1", "line:1"]

    for name, graph in (("inked", inked()), ("bars", bars())):
        (tmp_path / f"{name}.onnx").write_bytes(graph)
        product.run("compose", "part", name, str(tmp_path / f"{name}.onnx"))
    steps = "".join(
        "[[steps]]\n" + "".join(f'"{key}" = {toml_of(value)}\n' for key, value in step.items())
        for step in READER["steps"]
    )
    heads = f"inputs = {toml_of(READER['inputs'])}\noutputs = {toml_of(READER['outputs'])}\n"
    (tmp_path / "reader.toml").write_text(heads + steps)
    product.run("compose", "pipeline", "reader", str(tmp_path / "reader.toml"))
    (tmp_path / "wrong.toml").write_text(heads + steps.replace('"whole"', '"hole"', 1))
    refused = product.run("compose", "pipeline", "reader", str(tmp_path / "wrong.toml"), expect=1)
    assert "step 'detect': there is no 'whole' yet" in refused.stderr

    for name in ("trees", "line", "both", "reader"):
        product.run("deploy", name)
    row = WHOLE.iloc[0].to_dict()
    with product.up():
        alone = [product.post(f"/{name}", row).json()["probability"] for name in ("trees", "line")]
        assert product.post("/both", row).json()["probability"] == pytest.approx(np.average(alone, weights=(3, 1)))
        read = httpx.post(f"{product.url}/reader", files={"page": ("p.png", encoded(drawn("abc", "b")))}, timeout=60)
        assert read.json()["text"] == "abc\nb", read.text
