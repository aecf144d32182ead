"""Pipelines: checked before they run, equal to composing by hand, small in memory, and honest about what failed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.images import encoded, files, noise
from kit.pipelines import READER, WEIGHTS, bars, brightness, composed, drawn, gemm, inked, put, register
from kit.versions import CONTRACT, store
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelFailed, NotFound
from modelyard.contract.features import Column, Contract, Target
from modelyard.contract.home import Home
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.optimise.pipeline_file import pipeline_of, read_pipeline
from modelyard.optimise.tensors import package_tensors
from modelyard.runtimes.load import load
from modelyard.runtimes.version import LoadedVersion

CLASSIFY: dict[str, Any] = {
    "inputs": {"x": {"datatype": "FP32", "shape": [-1, 4]}},
    "steps": [
        {
            "name": "centre",
            "do": "standardise",
            "mean": [1, 2, 3, 4],
            "spread": [2, 2, 2, 2],
            "gives": {"x": "centred"},
        },
        {"name": "score", "version": "scores:1", "takes": {"x": "centred"}},
        {"name": "squash", "do": "softmax", "takes": {"x": "scores"}, "gives": {"x": "probabilities"}},
        {"name": "choose", "do": "argmax", "labels": ["red", "green", "blue"], "takes": {"scores": "probabilities"}},
    ],
    "outputs": {"label": "label", "probabilities": "probabilities", "score": "score"},
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def by_hand(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = ((x - [1, 2, 3, 4]) / 2) @ WEIGHTS
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores, powers / powers.sum(axis=1, keepdims=True)


def test_a_pipeline_says_what_its_steps_say_by_hand(home: Home) -> None:
    register(home, scores=gemm())
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    with load(put(home, CLASSIFY)) as model:
        got = model.predict_tensors({"x": x})
        manifest = model.manifest
    scores, probabilities = by_hand(x)
    np.testing.assert_allclose(got["probabilities"], probabilities, atol=1e-6)
    assert got["label"].tolist() == [["red", "green", "blue"][at] for at in scores.argmax(axis=1)]
    np.testing.assert_allclose(got["score"], probabilities.max(axis=1), atol=1e-6)
    assert (manifest.runtime, manifest.task, manifest.independent_rows) == ("pipeline", "tensor", True)
    assert [(one.role, one.name) for one in manifest.members] == [("score", "scores:1")]
    assert [(one.name, one.datatype, one.shape) for one in manifest.signature.outputs] == [
        ("label", "BYTES", (-1,)), ("probabilities", "FP32", (-1, 3)), ("score", "FP32", (-1,)),
    ]  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(0, 3), st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_however_rows_are_sliced_the_answer_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, count: int, at_once: int, columns: list[int]
) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    register(home, scores=gemm())
    told = copy.deepcopy(CLASSIFY) | {"rows_at_once": at_once}
    told["steps"] += [
        {"name": "some", "do": "select", "columns": columns, "takes": {"x": "probabilities"}, "gives": {"x": "some"}},
        {"name": "beside", "do": "concat", "takes": {"one": "some", "two": "score"}, "gives": {"x": "beside"}},
    ]
    told["outputs"] |= {"beside": "beside"}
    x = np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)
    with load(put(home, told)) as model:
        whole = model.predict_tensors({"x": x})
        singles = [model.predict_tensors({"x": x[at : at + 1]}) for at in range(count)]
    _, probabilities = by_hand(x)
    chosen = probabilities[:, columns] if len(columns) > 1 else probabilities[:, columns[0], None]
    wanted = np.concatenate([chosen, probabilities.max(axis=1, keepdims=True)], axis=1)
    np.testing.assert_allclose(whole["beside"], wanted, atol=1e-6)
    for name, values in whole.items():
        alone = np.concatenate([single[name] for single in singles])
        assert (alone == values).all() if values.dtype == object else np.allclose(alone, values, atol=1e-6)


# --- a table's rows


def matrix_version(shelf: Shelf, name: str, contract: Contract, graph: bytes, outputs: str = "scores") -> str:
    """A table's version of one matrix, with the contract as it is."""
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, len(contract.features))),), (TensorSpec(outputs, "FP32", (-1, 1)),), "matrix"
    )
    manifest = Manifest(name, "regression", "onnx", "onnx", "2026-01-01T00:00:00Z", {}, signature, contract)
    return shelf.put(manifest, {"model.onnx": graph})


def test_rows_of_a_table_go_in_by_its_contract_and_its_decision_comes_out(home: Home) -> None:
    shelf = Shelf(home.prepare().shelf)
    second = Contract((Column("p", "number", minimum=0.0, maximum=1.0),), Target("points"))
    points = matrix_version(shelf, "points", second, gemm(np.array([[100.0]], dtype=np.float32)))
    register(home, loans=store(shelf), points=points)
    told = {
        "rows": "loans:1",
        "steps": [
            {"name": "risk", "version": "loans:1"},
            {"name": "beside", "do": "concat", "takes": {"p": "probability"}, "gives": {"x": "column"}},
            {"name": "points", "version": "points:1", "takes": {"rows": "column"}, "gives": {"scores": "points"}},
        ],
        "outputs": {"probability": "probability", "points": "points"},
    }
    row = {"age": 35, "income": None, "home": "rent", "job": "unheard of", "guarantor": False}
    with load(put(home, told)) as model, load(shelf.folder / shelf.open(_digest(home, "loans")).digest) as alone:
        answer, wanted = model.predict(row), alone.predict(row)
        assert (answer.probability, answer.decision, answer.score) == (
            wanted.probability, wanted.decision, wanted.score,
        )  # fmt: skip
        assert model.manifest.task == "binary"
        outputs = model._loaded.predict(model._loaded.encoder.encode_rows([row]))
        assert outputs["points"][0, 0] == pytest.approx(100 * wanted.probability)  # type: ignore[operator]
        with pytest.raises(InvalidInput, match="'age' must be at least 18"):
            model.predict(row | {"age": 3})


def _digest(home: Home, name: str) -> str:
    from modelyard.artifacts.names import resolve

    return resolve(home, f"{name}:1")


def test_what_a_step_makes_is_held_to_the_next_ones_contract(home: Home) -> None:
    shelf = Shelf(home.prepare().shelf)
    narrow = Contract((Column("p", "number", minimum=0.0, maximum=0.5),), Target("points"))
    register(
        home, scores=gemm(), points=matrix_version(shelf, "points", narrow, gemm(np.ones((1, 1), dtype=np.float32)))
    )
    told = {
        "inputs": {"x": {"datatype": "FP32", "shape": [-1, 1]}},
        "steps": [{"name": "points", "version": "points:1", "takes": {"rows": "x"}, "gives": {"scores": "y"}}],
        "outputs": {"y": "y"},
        "example": {"x": [[0.1], [0.2]]},
    }
    with load(put(home, told)) as model:
        assert model.predict_tensors({"x": np.array([[0.25]], dtype=np.float32)})["y"] == pytest.approx(0.25)
        with pytest.raises(InvalidInput, match=r"^step 'points': row 1: column 'p' must be at most 0.5"):
            model.predict_tensors({"x": np.array([[0.1], [0.7]], dtype=np.float32)})
    refused = copy.deepcopy(told) | {"rows": "points:1"}
    refused.pop("inputs")
    refused.pop("example")
    refused["steps"][0]["takes"] = {"rows": "rows"}
    register(home, points=_digest(home, "points"), loans=store(shelf))
    refused["steps"].append({"name": "risk", "version": "loans:1", "takes": {"rows": "rows"}})
    with pytest.raises(InvalidInput, match=r"step 'risk': 'rows' takes FP32 \[-1, 5\] and is given FP32 \[-1, 1\]"):
        composed(home, refused)


# --- what does not fit is refused when it is composed


def changed(told: dict[str, Any], step: int, **values: Any) -> dict[str, Any]:
    told = copy.deepcopy(told)
    told["steps"][step] |= values
    return told


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (changed(CLASSIFY, 1, takes={"x": "x2"}), "step 'score': there is no 'x2' yet; there are x, centred"),
        (changed(CLASSIFY, 1, takes={"y": "centred"}), "step 'score': it takes x and is given y"),
        (changed(CLASSIFY, 1, gives={"nothing": "n"}), "step 'score': it gives scores, and no 'nothing'"),
        (changed(CLASSIFY, 2, gives={"x": "scores"}), "step 'squash': there is a 'scores' already"),
        (
            changed(CLASSIFY, 0, mean=[1, 2], spread=[1, 2]),
            r"step 'centre': 'x' takes .*\[-1, 2\] and is given FP32 \[-1, 4\]",
        ),
        (changed(CLASSIFY, 0, mean=[1, 2], spread=[1, 0]), "step 'centre': standardise has as many means"),
        (changed(CLASSIFY, 0, typo=3), "step 'centre': Object contains unknown field `typo`"),
        (changed(CLASSIFY, 0, do="standardize"), "step 'centre': Invalid value 'standardize'"),
        (changed(CLASSIFY, 3, labels=["red", "green"]), r"step 'choose': 'scores' takes .*\[-1, 2\]"),
        (changed(CLASSIFY, 1, mean=[1]), "step 'score': a version has no parameters"),
        (changed(CLASSIFY, 1, do="softmax"), "step 'score' does something built in"),
        (changed(CLASSIFY, 2, name="score"), "steps are named twice: score"),
        (CLASSIFY | {"outputs": {"y": "yy"}}, "there is no 'yy'"),
        (CLASSIFY | {"inputs": {"x": {"datatype": "FP32", "shape": [4]}}}, "begins with -1"),
        (CLASSIFY | {"inputs": {"x": {"datatype": "INT8", "shape": [-1, 4]}}}, "'x' takes FP32 or FP64"),
        (CLASSIFY | {"colour": 1}, "unknown field `colour`"),
        (CLASSIFY | {"rows": "scores:1"}, "not both"),
        (READER | {"outputs": {"word": "word"}}, "output 'word' is BYTES .* of crop; an output has one answer"),
        (READER | {"outputs": {"heat": "heat"}}, "each row of its own shape"),
        (
            changed(READER, 8, takes={"text": "word", "confidence": "confidence", "row": "row", "boxes": "crops"}),
            "'boxes' takes",
        ),
        (changed(READER, 5, takes={"pixels": "boxes"}), "step 'scale_crops': 'pixels' takes UINT8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(home: Home, told: dict[str, Any], reason: str) -> None:
    register(home, scores=gemm(), inked=inked(), bars=bars())
    with pytest.raises(InvalidInput, match=reason):
        composed(home, told)


def test_a_version_that_is_not_there_is_named_with_its_step(home: Home) -> None:
    register(home, scores=gemm())
    with pytest.raises(NotFound, match="step 'score': no registered version is called 'scores:7'"):
        composed(home, changed(CLASSIFY, 1, version="scores:7"))


def test_a_pipeline_that_takes_no_made_up_rows_asks_for_an_example(home: Home) -> None:
    register(home, inked=inked(), bars=bars())
    told = copy.deepcopy(READER) | {"inputs": READER["inputs"] | {"id": {"datatype": "BYTES", "shape": [-1]}}}
    with pytest.raises(InvalidInput, match=r"step 'decode': .*give an \[example\]"):
        composed(home, told)
    (home.root / "page.png").write_bytes(encoded(drawn("abc")))
    example = {"page": ["page.png", "page.png"], "id": ["1", "2"]}
    told["outputs"] |= {"id": "id"}
    with load(put(home, told | {"example": example})) as model:
        assert model.predict_tensors({"page": files(encoded(drawn("cab"))), "id": files("7")})["id"].tolist() == ["7"]
    with pytest.raises(NotFound, match=r"no file 'gone\.png'"):
        composed(home, told | {"example": example | {"page": ["gone.png", "page.png"]}})


# --- images


def test_images_go_through_and_come_back_row_by_row(home: Home) -> None:
    register(home, inked=inked(), bars=bars())
    pages = [encoded(drawn(*words)) for words in (("abc", "cab"), ("b",), ("acbca", "a", "ccc"))]
    blank = encoded(np.full((40, 40, 3), 255, dtype=np.uint8))
    with load(put(home, READER)) as model:
        assert model.manifest.independent_rows
        assert model.manifest.signature.inputs[0].content == "image"
        assert [spec.content for spec in model.manifest.signature.outputs] == ["", "json"]
        together = model.predict_tensors({"page": files(*pages, blank)})
        alone = [model.predict_tensors({"page": files(page)}) for page in (*pages, blank)]
    assert together["text"].tolist() == ["abc\ncab", "b", "acbca\na\nc", ""]  # ccc: repeats without a blank are one
    for name in ("text", "lines"):
        assert together[name].tolist() == [one[name][0] for one in alone]
    lines = json.loads(together["lines"][0])
    assert [line["text"] for line in lines] == ["abc", "cab"]
    np.testing.assert_allclose(lines[0]["box"], [[10, 10], [45, 10], [45, 29], [10, 29]], atol=1.5)
    assert json.loads(together["lines"][3]) == []


def test_images_of_every_size_are_asked_in_groups_of_one(home: Home) -> None:
    register(home, seen=brightness())
    told = {
        "inputs": {"page": {"datatype": "BYTES", "shape": [-1]}},
        "steps": [
            {"name": "decode", "do": "decode_image", "takes": {"image": "page"}},
            {"name": "scale", "do": "normalise", "gives": {"x": "x"}, "order": "bgr", "scale": 1.0},
            {"name": "see", "version": "seen:1"},
        ],
        "outputs": {"seen": "seen"},
        "rows_at_once": 0,
    }
    images = [noise(height, width, at) for at, (height, width) in enumerate(((9, 7), (5, 11), (9, 7), (3, 3)))]
    with load(put(home, told)) as model:
        got = model.predict_tensors({"page": files(*map(encoded, images))})["seen"]
    np.testing.assert_allclose(got, [[image.mean(), image.shape[1]] for image in images], rtol=1e-5)


def test_the_row_and_the_rule_of_a_refused_image_are_told(home: Home) -> None:
    register(home, inked=inked(), bars=bars())
    good = encoded(drawn("abc"))
    with load(put(home, changed(READER, 0, max_pixels=40_000))) as model:
        for bad, rule in ((b"no image", "image"), (encoded(noise(300, 200)), "max_pixels")):
            with pytest.raises(InvalidInput, match=r"^step 'decode': row 2: column 'page' ") as caught:
                model.predict_tensors({"page": files(good, good, bad)})
            assert caught.value.violations[0].row == 2
            assert caught.value.violations[0].rule == rule
            assert caught.value.violations[0].column == "page"


def test_a_page_full_of_text_goes_through_a_few_rows_at_a_time(home: Home) -> None:
    register(home, inked=inked(), bars=bars())
    told = copy.deepcopy(READER) | {"made_rows_at_once": 2}
    asked: list[int] = []
    with load(put(home, told)) as model:
        member = model._loaded.runtime._versions["recognise"]  # type: ignore[attr-defined]
        whole = member.predict

        def counted(inputs: dict[str, Any]) -> dict[str, Any]:
            asked.append(len(inputs["x"]))
            outputs: dict[str, Any] = whole(inputs)
            return outputs

        member.predict = counted
        words = ("abc", "cab", "bac", "aca", "b")
        assert model.predict_tensors({"page": files(encoded(drawn(*words)))})["text"][0] == "\n".join(words)
    assert sum(asked) == 5
    assert max(asked) <= 2


def test_without_pillow_a_reader_of_images_says_what_it_needs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    register(home, inked=inked(), bars=bars(), scores=gemm())
    reader, plain = put(home, READER), put(home, CLASSIFY)
    monkeypatch.setattr("modelyard.runtimes.pipeline.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"modelyard\[image\]"):
        load(reader)
    load(plain).close()


# --- what goes wrong is named, what it took is told


def test_the_step_that_fails_is_named_and_its_words_are_not_repeated(home: Home) -> None:
    register(home, scores=gemm())
    folder = put(home, CLASSIFY)
    whole = LoadedVersion(Shelf(folder.parent).open(folder.name))

    class Broken:
        def run(self, *_: object) -> object:
            raise RuntimeError("x is 4711.5")

    whole.runtime._versions["score"].runtime._session = Broken()  # type: ignore[attr-defined]
    with pytest.raises(ModelFailed, match=r"^step 'score': it failed on this input with RuntimeError$") as caught:
        whole.predict({"x": np.zeros((1, 4), dtype=np.float32)})
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_how_long_each_step_took_comes_with_the_answer(home: Home) -> None:
    register(home, inked=inked(), bars=bars())
    folder = put(home, READER)
    whole = LoadedVersion(Shelf(folder.parent).open(folder.name))
    outputs = whole.predict({"page": files(encoded(drawn("abc")), encoded(drawn("b")))})
    assert whole.runtime.steps == tuple(step["name"] for step in READER["steps"])  # type: ignore[attr-defined]
    assert len(outputs.took_ns) == len(READER["steps"])  # type: ignore[attr-defined]
    assert min(outputs.took_ns) > 0  # type: ignore[attr-defined]
    assert whole.warm((1, 2))[1] > 0  # its own example, not a made-up text


# --- the file, and graphs of tensors


def test_a_file_of_toml_is_read_and_characters_are_looked_up(home: Home, tmp_path: Path) -> None:
    with_signs = _with_metadata(bars(), "signs", "a\nb")
    register(home, inked=inked(), bars=with_signs)
    told = copy.deepcopy(READER)
    told["steps"][7]["characters"] = {"version": "bars:1", "key": "signs", "then": ["c"]}
    with load(put(home, told)) as model:
        assert model.predict_tensors({"page": files(encoded(drawn("cab")))})["text"][0] == "cab"
    told["steps"][7]["characters"] = {"version": "bars:1", "key": "none"}
    with pytest.raises(InvalidInput, match="no 'none'; it has signs"):
        composed(home, told)
    (home.root / "signs.txt").write_text("a\nb\nc\n")
    told["steps"][7]["characters"] = {"file": "signs.txt"}
    assert composed(home, told).manifest.independent_rows
    path = tmp_path / "chain.toml"
    path.write_text(
        'outputs = {y = "x"}\n[[steps]]\nname = "s"\ndo = "softmax"\n[inputs.x]\ndatatype = "FP32"\nshape = [-1, 2]\n'
    )
    assert read_pipeline(path).steps[0].do == "softmax"
    path.write_text("steps = 3")
    with pytest.raises(InvalidInput, match="there are no"):
        read_pipeline(path)
    path.write_text("steps = [")
    with pytest.raises(InvalidInput, match="not TOML"):
        read_pipeline(path)
    with pytest.raises(NotFound, match=r"no file 'none\.toml'"):
        read_pipeline(tmp_path / "none.toml")
    with pytest.raises(InvalidInput, match="not both, not neither"):
        pipeline_of({"steps": [{"name": "s", "do": "softmax"}], "outputs": {"x": "x"}})


def _with_metadata(data: bytes, key: str, value: str) -> bytes:
    import onnx

    model = onnx.load_model_from_string(data)
    model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


def test_a_graph_of_tensors_is_brought_as_it_is(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "scores.onnx"
    path.write_bytes(gemm())
    manifest, kept = package_tensors(path, "scores")
    assert manifest.signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert manifest.independent_rows
    assert kept["model.onnx"] == gemm()
    with pytest.raises(NotFound, match="no file"):
        package_tensors(tmp_path / "none.onnx", "scores")
    with pytest.raises(InvalidInput, match="not a sound ONNX model"):
        package_tensors(b"rubbish", "scores")
    assert CONTRACT.columns  # a table's version is brought with a sample instead: `package_model`
