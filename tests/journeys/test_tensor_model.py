"""A network that takes pictures, exported for one of them: registered without a sample, deployed, called with many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kit.product import Product

pytestmark = [pytest.mark.journey, pytest.mark.timeout(200)]

FILTERS = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
PICTURES = np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)


def network() -> bytes:
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(FILTERS, "filters")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def scores(pictures: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (3, 3), axis=(2, 3))
    return np.einsum("ncxyij,kcij->nkxy", windows, FILTERS).mean(axis=(2, 3))


def test_a_network_for_one_picture_is_registered_deployed_and_called_with_five(tmp_path: Path) -> None:
    product = Product(tmp_path / "home")
    file = tmp_path / "network.onnx"
    file.write_bytes(network())
    said = product.run("models", "register", str(file), "--name", "net")
    assert "net version 1 is registered" in said.stdout
    assert "it takes tensors as they are: image FP32 [-1, 3, 8, 8]" in said.stdout + said.stderr
    product.run("deploy", "net")
    with product.up():
        for count in (1, 5):
            tensor = {"name": "image", "datatype": "FP32", "shape": [count, 3, 8, 8]}
            tensor["data"] = PICTURES[:count].ravel().tolist()
            answer = product.post("/v2/models/net/infer", {"inputs": [tensor]})
            assert answer.status_code == 200, answer.text
            (output,) = answer.json()["outputs"]
            assert output["shape"] == [count, 4]
            found = np.array(output["data"]).reshape(count, 4)
            np.testing.assert_allclose(found, scores(PICTURES[:count]), rtol=1e-4, atol=1e-5)
        answer = product.post("/net", {"image": PICTURES[0].tolist()})
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["scores"], scores(PICTURES[:1])[0], rtol=1e-4, atol=1e-5)
