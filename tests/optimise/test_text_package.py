"""A hub's folder becomes a version that takes strings: what it says is obeyed, what is not served is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from kit.encoders import WIDTH, WORDS, classifier, contextual, folder, leaky, positioned, telling, tokenizer, vectors_of
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelyardError, NotFound
from modelyard.contract.signature import TensorSpec
from modelyard.optimise.register import package_model
from modelyard.optimise.text import package_text_model, probe_texts
from modelyard.runtimes.text import TextRecipe, TextRuntime

CLASSES = {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"2": "warm", "0": "cold", "1": "mild"},
    "max_position_embeddings": 32,
}
POOLED = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
MODULES = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]


def recipe_of(files: dict[str, bytes]) -> TextRecipe:
    return msgspec.json.decode(files["text.json"], type=TextRecipe)


def answers(root: Path, packaged: tuple[Manifest, dict[str, bytes]], *texts: str) -> dict[str, NDArray[Any]]:
    shelf = Shelf(root / "shelf")
    runtime = TextRuntime(shelf.open(shelf.put(*packaged)))
    try:
        return runtime.predict({"text": np.array(texts, dtype=object)})
    finally:
        runtime.close()


def test_a_folder_becomes_a_version_that_embeds_texts(tmp_path: Path) -> None:
    packaged = package_text_model(folder(tmp_path / "hub", contextual()), "words")
    manifest, files = packaged
    assert manifest.runtime == "text"
    assert manifest.signature.layout == "tensors"
    assert manifest.signature.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert manifest.signature.outputs == (TensorSpec("embedding", "FP32", (-1, WIDTH)),)
    assert manifest.independent_rows
    assert manifest.parity is not None
    assert manifest.parity.max_error <= manifest.parity.tolerance
    assert manifest.lineage.source == "brought: hub"
    assert files["model.onnx"] == contextual()  # the very bytes that were brought
    recipe = recipe_of(files)
    assert recipe.together
    assert recipe.max_length == 32
    found = answers(tmp_path, packaged, "alpha mike")["embedding"][0]
    wanted = vectors_of("alpha mike").mean(axis=0)
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-6)


def test_its_samples_are_what_it_answers(tmp_path: Path) -> None:
    packaged = package_text_model(folder(tmp_path / "hub", contextual()), "words")
    samples = json.loads(packaged[1]["samples.json"])
    assert len(samples) >= 2
    found = answers(tmp_path, packaged, *(sample["row"]["text"] for sample in samples))["embedding"]
    np.testing.assert_allclose(found, [sample["embedding"] for sample in samples], atol=1e-6)


def test_a_graph_whose_neighbours_leak_is_served_text_by_text(tmp_path: Path) -> None:
    packaged = package_text_model(folder(tmp_path / "hub", leaky()), "leaky")
    assert not recipe_of(packaged[1]).together
    assert "every text is computed alone" in packaged[1]["card.md"].decode()
    long = " ".join(WORDS)
    both = answers(tmp_path, packaged, "alpha", long)["embedding"]
    np.testing.assert_array_equal(both[0], answers(tmp_path, packaged, "alpha")["embedding"][0])


def test_a_classifier_names_its_classes_in_the_order_of_its_logits(tmp_path: Path) -> None:
    packaged = package_text_model(folder(tmp_path / "hub", classifier(), config=CLASSES), "weather")
    manifest, files = packaged
    assert manifest.task == "multiclass"
    assert manifest.contract.target is not None
    assert manifest.contract.target.classes == ("cold", "mild", "warm")
    assert [output.name for output in manifest.signature.outputs] == ["label", "probabilities"]
    found = answers(tmp_path, packaged, "alpha", "kilo kilo")
    assert found["label"].tolist() == [recipe_of(files).labels[row] for row in found["probabilities"].argmax(axis=1)]


def test_what_the_folder_says_is_obeyed(tmp_path: Path) -> None:
    hub = folder(
        tmp_path / "hub",
        contextual(),
        config={"max_position_embeddings": 512, "pad_token_id": 1},
        tokenizer_config={"model_max_length": 1e30},
        sentence_bert_config={"max_seq_length": 20, "do_lower_case": True},
        modules=MODULES[:2],
        config_sentence_transformers={"prompts": {"query": "alpha "}, "default_prompt_name": "query"},
        **{"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
    )
    recipe = recipe_of(package_text_model(hub, "words")[1])
    assert (recipe.pooling, recipe.normalise, recipe.max_length) == ("cls", False, 20)
    assert (recipe.prefix, recipe.lower_case, recipe.pad_id) == ("alpha ", True, 1)
    assert recipe_of(package_text_model(hub, "words", max_length=7, truncate=True)[1]).max_length == 7


def test_the_newer_way_to_say_how_vectors_are_pooled(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", contextual(), **{"1_Pooling__config": {"pooling_mode": "cls"}})
    assert recipe_of(package_text_model(hub, "words")[1]).pooling == "cls"


def test_who_packages_says_what_the_folder_leaves_open(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", contextual())
    recipe = recipe_of(package_text_model(hub, "words", pooling="cls", normalise=False, truncate=True)[1])
    assert (recipe.pooling, recipe.normalise, recipe.truncate) == ("cls", False, True)


def test_files_of_several_places_make_one_model(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", contextual())
    files = {"onnx/model.onnx": hub / "model.onnx", "tokenizer.json": tokenizer(), "config.json": hub / "config.json"}
    assert package_text_model(files, "words")[1]["model.onnx"] == contextual()


def test_the_graph_may_lie_in_the_folder_onnx(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", contextual())
    (hub / "onnx").mkdir()
    (hub / "model.onnx").rename(hub / "onnx" / "model.onnx")
    assert package_text_model(hub, "words")[1]["model.onnx"] == contextual()


def test_package_model_knows_a_folder(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", contextual())
    assert package_model(hub, None, "words")[0].runtime == "text"
    with pytest.raises(InvalidInput, match="leave the sample"):
        package_model(hub, "sample.csv", "words")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"modules": [*MODULES, {"type": "sentence_transformers.models.Dense"}]}, "'Dense'"),
        ({"1_Pooling__config": {"pooling_mode_max_tokens": True}}, "asks for max; mean and cls"),
        ({"1_Pooling__config": {**POOLED, "pooling_mode_cls_token": True}}, "cls and mean"),
        ({"1_Pooling__config": {"pooling_mode": "lasttoken"}}, "lasttoken"),
        ({"config": {}}, "nothing says how long"),
        ({"config": {"id2label": {"a": "b"}, "architectures": ["XForSequenceClassification"]}}, "nothing says how"),
        ({"config": []}, "config.json is not the JSON"),
        (
            {
                "1_Pooling__config": {**POOLED, "include_prompt": False},
                "config_sentence_transformers": {"prompts": {"q": "q: "}, "default_prompt_name": "q"},
            },
            "leaves the prompt out",
        ),
    ],
)
def test_what_would_change_answers_unseen_is_refused(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        package_text_model(folder(tmp_path / "hub", contextual(), **settings), "words")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"id2label": {"0": "only"}}, "id2label of two or more"),
        ({"id2label": {"0": "a", "1": "b"}}, "3 logits and config.json names 2 classes"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"id2label": {"a": "x", "b": "y"}}, "numbers to names"),
        ({"id2label": ["x", "y"]}, "numbers to names"),
        ({"id2label": {"0": "x", "1": "x", "2": "y"}}, "the same name"),
    ],
)
def test_a_classifier_that_cannot_be_told_apart_is_refused(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        package_text_model(folder(tmp_path / "hub", classifier(), config=CLASSES | changed), "weather")


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({"max_length": 33}, "between 1 and 32"),
        ({"max_length": 0}, "between 1 and 32"),
        ({"pooling": "cls"}, "pooled by mean"),
    ],
)
def test_a_wish_against_the_model_is_refused(tmp_path: Path, wishes: dict[str, Any], reason: str) -> None:
    hub = folder(tmp_path / "hub", contextual(), **{"1_Pooling__config": POOLED})
    with pytest.raises(InvalidInput, match=reason):
        package_text_model(hub, "words", **wishes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", contextual())
    (hub / "tokenizer.json").unlink()
    with pytest.raises(NotFound, match=r"tokenizer\.json"):
        package_text_model(hub, "words")
    (hub / "model.onnx").unlink()
    with pytest.raises(NotFound, match=r"onnx/model\.onnx"):
        package_text_model(hub, "words")
    with pytest.raises(NotFound, match="no file 'gone'"):
        package_text_model({"model.onnx": tmp_path / "gone", "tokenizer.json": tokenizer()}, "words")
    with pytest.raises(InvalidInput, match=r"no text model has a file 'vocab\.txt'"):
        package_text_model({"vocab.txt": b""}, "words")


def test_what_is_no_tokenizer_or_no_encoder_is_refused(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", contextual())
    (hub / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"tokenizer\.json is not read"):
        package_text_model(hub, "words")
    (hub / "tokenizer.json").write_bytes(tokenizer())
    (hub / "model.onnx").write_bytes(_pixels())
    with pytest.raises(InvalidInput, match="the graph takes pixels; a text encoder takes input_ids"):
        package_text_model(hub, "words")


def test_a_graph_that_answers_no_numbers_is_refused(tmp_path: Path) -> None:
    broken = onnx.load_model_from_string(contextual())
    table = next(tensor for tensor in broken.graph.initializer if tensor.name == "table")
    table.CopyFrom(onnx.numpy_helper.from_array(np.full((17, WIDTH), np.nan, dtype=np.float32), "table"))
    with pytest.raises(ModelyardError, match="not finite"):
        package_text_model(folder(tmp_path / "hub", broken.SerializeToString()), "words")


def test_probes_have_every_length_and_never_too_many_tokens() -> None:
    recipe = TextRecipe("last_hidden_state", max_length=40)
    texts = probe_texts(tokenizer(), recipe)
    assert texts == probe_texts(tokenizer(), recipe)
    lengths = [len(text.split()) + 2 for text in texts]
    assert max(lengths) == 40
    assert min(lengths) <= 3


def test_a_limit_that_the_graph_cannot_bear_is_found(tmp_path: Path) -> None:
    hub = folder(tmp_path / "hub", positioned(20), config={"max_position_embeddings": 22})
    with pytest.raises(InvalidInput, match="max_length=22 tokens; give a smaller one"):
        package_text_model(hub, "words")
    assert recipe_of(package_text_model(hub, "words", max_length=20)[1]).max_length == 20


def test_the_gate_sees_a_graph_that_answers_by_its_neighbours(tmp_path: Path) -> None:
    recipe = recipe_of(package_text_model(folder(tmp_path / "hub", telling()), "telling")[1])
    assert not recipe.together


def _pixels() -> bytes:
    value = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 4])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Neg", ["pixels"], ["answer"])], "pixels", [value], [answer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
