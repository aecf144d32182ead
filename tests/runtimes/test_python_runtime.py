"""A user's own class: what it must have is said by name, and what it answers is held to what it declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kit.model_workers import store_class
from modelyard.artifacts.manifest import Code
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelFailed
from modelyard.optimise.held import package_class
from modelyard.runtimes import conformance
from modelyard.runtimes.examine import LIVES, LOADS, STREAMS, examine
from modelyard.runtimes.load import load
from modelyard.runtimes.python import PythonRuntime, code_of, signature_of

ROWS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


class Plain:
    inputs = {"x": ("FP32", (-1, 3))}  # noqa: RUF012 - as users write them
    outputs = {"y": ("FP32", (-1,)), "names": ("BYTES", (-1,))}  # noqa: RUF012
    answer: Any = None

    def predict(self, inputs: dict[str, Any]) -> Any:
        return self.answer


def declared(**parts: Any) -> type:
    return type(
        "Own", (), {"predict": lambda self, inputs: {}, "inputs": Plain.inputs, "outputs": Plain.outputs} | parts
    )


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (declared(predict=None), "has no method `predict"),
        (declared(inputs=None), "has no `inputs = "),
        (declared(outputs={}), "has no `outputs = "),
        (declared(inputs={"x": "FP32"}), "inputs: 'x' is written as"),
        (declared(inputs={"x": ("FP32", 3)}), "inputs: 'x' is written as"),
        (declared(inputs={"x": ("FLOAT", (-1,))}), "inputs: 'x' has a datatype among"),
        (declared(outputs={"y": ("FP32", (-1, 0))}), "the shape of 'y' has sizes above 0"),
        (declared(outputs={"y": ("FP32", (3,))}), "the shape of 'y' begins with -1"),
    ],
)
def test_what_lacks_is_named(model: type, says: str) -> None:
    with pytest.raises(InvalidInput, match="own:Class") as refusal:
        signature_of(model, "own:Class")
    assert says in str(refusal.value)


def test_a_signature_is_what_the_class_declares() -> None:
    signature = signature_of(declared(outputs={"y": ("FP32", (4,))}, independent_rows=False), "own:Class")
    assert signature.layout == "tensors"
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs] == [("x", "FP32", (-1, 3))]
    assert signature.outputs[0].shape == (4,)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("kit.own_models", "package.module:Class"),
        ("kit.own_models:", "package.module:Class"),
        ("kit/own:Sums", "package.module:Class"),
        ("no_such_package:Sums", "no module 'no_such_package' here"),
        ("kit.no_such_module:Sums", "no module 'kit.no_such_module' here"),
        ("kit.own_models:Nobody", "has no class 'Nobody'"),
        ("kit.own_models:Path.home", "has no class 'Path.home'"),
    ],
)
def test_an_entry_that_leads_nowhere(entry: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        PythonRuntime.of(entry)


def runtime_of(answer: Any) -> PythonRuntime:
    runtime = PythonRuntime.__new__(PythonRuntime)
    runtime.entry = "own:Class"
    runtime._outputs = {spec.name: spec for spec in signature_of(Plain, "own:Class").outputs}
    runtime._model = Plain()
    runtime._model.answer = answer
    return runtime


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "an answer is a dictionary"),
        ({"y": [1, 2]}, "predict gave no names"),
        ({"y": [1, 2], "names": ["a", "b"], "z": 1}, "1 outputs that `outputs` does not name"),
        ({"y": ["1", "2"], "names": ["a", "b"]}, "'y' is declared FP32"),
        ({"y": [1, 2], "names": [1.0, 2.0]}, "'names' is declared BYTES"),
        ({"y": [[1], [2, 3]], "names": ["a", "b"]}, "'y' is declared FP32"),
        ({"y": [[1, 2]], "names": ["a"]}, r"'y' is declared \[-1\], and is \[1, 2\] here"),
    ],
)
def test_an_answer_that_is_not_what_was_declared(answer: Any, says: str) -> None:
    with pytest.raises(ModelFailed, match=says):
        runtime_of(answer).predict(ROWS)


def test_lists_and_wider_numbers_are_taken() -> None:
    answer = runtime_of({"y": [1, 2], "names": np.array(["a", "bc"])}).predict(ROWS)
    assert answer["y"].dtype == np.float32
    assert answer["names"].dtype == object
    assert answer["names"].tolist() == ["a", "bc"]


def test_our_example_classes_keep_every_promise(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for entry in ("kit.own_models:Echo", "kit.own_models:Words"):
        runtime = PythonRuntime(shelf.open(store_class(shelf, entry)))
        rows = runtime.example or conformance.random_tensors(runtime.signature.inputs)
        assert [promise for promise in conformance.check(runtime, rows) if not promise.is_kept] == []


def test_files_of_the_version_reach_setup(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    artifact = shelf.open(store_class(shelf, "kit.own_models:Words", {"vocabulary.txt": b"a"}))
    runtime = PythonRuntime(artifact)
    assert (runtime._model.files / "vocabulary.txt").read_bytes() == b"a"
    assert PythonRuntime(shelf.open(store_class(shelf, "kit.own_models:Words")))._model.files is None


def test_other_code_than_was_registered_is_not_run(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    other = Code("kit.own_models:Sums", "kit==1.0", "0" * 64)
    with pytest.raises(InvalidInput, match=r"installed is other code, not kit==1.0"):
        PythonRuntime(shelf.open(store_class(shelf, "kit.own_models:Sums", code=other)))
    artifact = shelf.open(store_class(shelf, "kit.own_models:Sums"))
    plain = msgspec.structs.replace(artifact, manifest=msgspec.structs.replace(artifact.manifest, trusted=False))
    with pytest.raises(InvalidInput, match="names no trusted class"):
        PythonRuntime(plain)


def test_this_process_runs_trusted_code_only_when_told(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    digest = store_class(shelf, "kit.own_models:Sums")
    with pytest.raises(InvalidInput, match="trust=True"):
        load(tmp_path / digest)
    with load(tmp_path / digest, trust=True) as model:
        assert model.predict_tensors(ROWS)["total"].tolist() == [3.0, 12.0]
        with pytest.raises(InvalidInput, match="takes tensors"):
            model.predict([{"x": 1.0}])


def test_a_distribution_is_named_with_its_version() -> None:
    assert code_of("msgspec:Struct").distribution.startswith("msgspec==")


# --- examined in a process of its own


@pytest.fixture(autouse=True)
def kit_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def test_an_examination_keeps_what_it_saw() -> None:
    found = examine("kit.own_models:Words")
    assert found.broken == ()
    assert found.streams
    assert {LOADS, LIVES, STREAMS, conformance.INDEPENDENT} <= {promise.name for promise in found.promises}
    assert found.independent_rows


def test_a_crash_is_a_finding() -> None:
    found = examine("kit.own_models:Crashes")
    assert [(promise.name, promise.seen) for promise in found.broken] == [(LIVES, "the process was killed by SIGSEGV")]
    with pytest.raises(ModelFailed, match="SIGSEGV"):
        package_class("kit.own_models:Crashes", "own")


def test_a_hang_is_a_finding() -> None:
    found = examine("kit.own_models:Sums", timeout_s=0.0)
    assert [promise.seen for promise in found.broken] == ["the process was ended after 0 s"]


def test_what_cannot_be_loaded_says_why() -> None:
    with pytest.raises(InvalidInput, match="has no method `predict"):
        package_class("kit.own_models:Nothing", "own")


def test_answers_that_are_not_as_declared_are_a_finding() -> None:
    (broken,) = examine("kit.own_models:Liar").broken
    assert "'y' is declared FP32" in broken.seen
    assert "give it an `example`" in broken.seen


@pytest.mark.parametrize(("entry", "independent"), [("Sums", True), ("Ranks", False), ("Whole", False)])
def test_independence_is_measured_and_recorded(entry: str, independent: bool) -> None:
    manifest, files = package_class(f"kit.own_models:{entry}", "own")
    assert manifest.independent_rows is independent
    assert manifest.trusted
    assert manifest.code is not None
    assert manifest.code.entry == f"kit.own_models:{entry}"
    assert "Trusted code" in files["card.md"].decode()


def test_a_folder_of_files_travels_in_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    (tmp_path / ".hidden").write_bytes(b"2")
    _, files = package_class("kit.own_models:Words", "own", tmp_path)
    assert sorted(files) == ["card.md", "weights.bin"]
    (tmp_path / "deeper").mkdir()
    with pytest.raises(InvalidInput, match="holds files only; not so deeper"):
        package_class("kit.own_models:Words", "own", tmp_path)
