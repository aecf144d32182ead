"""Strings in, embeddings or classes out: each text answers as if it were alone, whatever waits beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kit.encoders import (
    HEAD,
    TABLE,
    WIDTH,
    WORDS,
    classifier,
    contextual,
    leaky,
    padded,
    store,
    telling,
    tokens_of,
    vectors_of,
)
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.runtimes.catalogue import open_runtime
from modelyard.runtimes.load import load
from modelyard.runtimes.text import TextRecipe, TextRuntime
from modelyard.runtimes.version import LoadedVersion

RECIPE = TextRecipe("last_hidden_state", max_length=64)
TEXTS = st.lists(st.lists(st.sampled_from((*WORDS, "zulu")), max_size=62).map(" ".join), min_size=1, max_size=24)
Open = Callable[..., TextRuntime]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_text(graph: bytes, recipe: TextRecipe = RECIPE, threads: int = 1, **changed: Any) -> TextRuntime:
        recipe = msgspec.structs.replace(recipe, **changed)
        shelf = Shelf(tmp_path)
        runtime = open_runtime(shelf.open(store(shelf, graph, recipe)), threads)
        assert isinstance(runtime, TextRuntime)
        return runtime

    return open_text


def kept_open(graph: bytes, recipe: TextRecipe) -> TextRuntime:
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        return TextRuntime(shelf.open(store(shelf, graph, recipe)))


ENCODER = kept_open(contextual(), RECIPE)
ALONE = kept_open(leaky(), msgspec.structs.replace(RECIPE, together=False))


def ask(runtime: TextRuntime, *texts: Any) -> dict[str, NDArray[Any]]:
    return runtime.predict({"text": np.array(texts, dtype=object)})


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def test_an_embedding_is_the_mean_of_its_tokens_of_length_one(opened: Open) -> None:
    found = ask(opened(contextual()), "alpha bravo charlie", "mike")["embedding"]
    wanted = [unit(vectors_of("alpha bravo charlie").mean(axis=0)), unit(vectors_of("mike").mean(axis=0))]
    assert found.dtype == np.float32
    assert found.shape == (2, WIDTH)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_pooling_and_normalisation_are_what_the_recipe_says(opened: Open) -> None:
    vectors = vectors_of("alpha bravo")
    found = ask(opened(contextual(), pooling="cls", normalise=False), "alpha bravo")["embedding"][0]
    np.testing.assert_allclose(found, vectors[0], atol=1e-6)
    found = ask(opened(contextual(), normalise=False), "alpha bravo")["embedding"][0]
    np.testing.assert_allclose(found, vectors.mean(axis=0), atol=1e-6)


def test_a_graph_that_pools_by_itself_is_left_alone(opened: Open) -> None:
    runtime = opened(classifier(), output="logits", pooling="none", normalise=False)
    wanted = TABLE[tokens_of("golf hotel")].astype(np.float64).mean(axis=0) @ HEAD
    np.testing.assert_allclose(ask(runtime, "golf hotel")["embedding"][0], wanted, atol=1e-6)


def test_a_classifier_answers_labels_and_probabilities(opened: Open) -> None:
    labels = ("cold", "mild", "warm")
    runtime = opened(classifier(), output="logits", pooling="none", answer="classes", labels=labels)
    found = ask(runtime, "golf", "alpha kilo lima")
    for row, text in enumerate(("golf", "alpha kilo lima")):
        powers = np.exp(TABLE[tokens_of(text)].astype(np.float64).mean(axis=0) @ HEAD)
        np.testing.assert_allclose(found["probabilities"][row], powers / powers.sum(), atol=1e-6)
        assert found["label"][row] == labels[int(np.argmax(powers))]
    assert found["probabilities"].dtype == np.float32
    assert isinstance(found["label"][0], str)


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS)
def test_a_batch_of_any_lengths_answers_as_one_by_one(texts: list[str]) -> None:
    together = ask(ENCODER, *texts)["embedding"]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(together[row], ask(ENCODER, text)["embedding"][0], atol=1e-6)
        np.testing.assert_allclose(together[row], unit(vectors_of(text).mean(axis=0)), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(texts=TEXTS)
def test_where_neighbours_would_change_answers_every_text_runs_alone(texts: list[str]) -> None:
    together = ask(ALONE, *texts)["embedding"]
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(together[row], ask(ALONE, text)["embedding"][0])


def test_the_leaky_graph_leaks_unless_told_to_run_alone(opened: Open) -> None:
    long = " ".join(WORDS)
    alone = ask(opened(leaky()), "alpha")["embedding"][0]
    beside = ask(opened(leaky(), buckets=(64,)), "alpha", long)["embedding"][0]
    assert np.abs(alone - beside).max() > 1e-3
    apart = ask(opened(leaky(), buckets=(64,), together=False), "alpha", long)["embedding"][0]
    np.testing.assert_array_equal(alone, apart)


def test_texts_are_padded_only_to_the_longest_of_their_bucket(opened: Open) -> None:
    texts = ["alpha", " ".join(WORDS), "bravo mike", " ".join(WORDS[:12])]
    told = {"normalise": False, "buckets": (8, 16, 32)}
    seen = ask(opened(telling(), **told), *texts)["embedding"].tolist()
    assert seen == [[2, 4], [2, 15], [2, 4], [2, 15]]  # (texts, tokens) of the run that each was in
    seen = ask(opened(telling(), normalise=False, buckets=(64,)), *texts)["embedding"].tolist()
    assert seen == [[4, 15]] * 4
    seen = ask(opened(telling(), normalise=False, together=False), *texts)["embedding"].tolist()
    assert seen == [[1, 3], [1, 15], [1, 4], [1, 14]]


def test_padding_is_the_token_that_the_recipe_says(opened: Open) -> None:
    for pad_id in (0, 16):
        found = ask(opened(padded(), normalise=False, pad_id=pad_id), "alpha", "alpha bravo charlie")["embedding"]
        assert found[0].tolist() == [max(*tokens_of("alpha"), pad_id)]


def test_a_run_is_bounded_by_tokens_for_each_thread(opened: Open) -> None:
    told = {"normalise": False, "batch_tokens": 8}
    assert ask(opened(telling(), **told), *["alpha bravo"] * 4)["embedding"].tolist() == [[2, 4]] * 4
    assert ask(opened(telling(), threads=2, **told), *["alpha bravo"] * 4)["embedding"].tolist() == [[4, 4]] * 4


def test_a_text_that_is_too_long_is_refused_by_row_and_limit(opened: Open) -> None:
    runtime = opened(contextual(), max_length=5)
    ask(runtime, "alpha bravo charlie")
    with pytest.raises(InvalidInput, match=r"row 1: .*max_length=5 tokens: it has 6") as caught:
        ask(runtime, "alpha", "alpha bravo charlie delta", "mike", " ".join(WORDS))
    assert [(found.rule, found.row, found.column) for found in caught.value.violations] == [
        ("max_length", 1, "text"),
        ("max_length", 3, "text"),
    ]
    assert "delta" not in str(caught.value)


def test_a_text_is_cut_only_where_the_recipe_says_so(opened: Open) -> None:
    runtime = opened(contextual(), max_length=5, truncate=True)
    found = ask(runtime, "alpha bravo charlie delta echo", "alpha bravo charlie")["embedding"]
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)


def test_a_text_of_too_many_characters_is_not_even_tokenised(opened: Open) -> None:
    with pytest.raises(InvalidInput, match=r"row 1: .*max_characters=320: it has 321"):
        ask(opened(contextual(), max_length=5), "alpha", "a" * 321)
    with pytest.raises(InvalidInput, match="max_characters=10"):
        ask(opened(contextual(), max_characters=10), "alpha bravo")
    cut = ask(opened(contextual(), max_characters=11, truncate=True), "alpha bravo charlie", "alpha bravo")
    np.testing.assert_allclose(cut["embedding"][0], cut["embedding"][1], atol=1e-7)


@pytest.mark.parametrize("bad", [b"\xff", None, 3, "\ud800"])
def test_what_is_no_text_is_refused_by_row(opened: Open, bad: Any) -> None:
    with pytest.raises(InvalidInput, match="row 1: column 'text' must be text in UTF-8"):
        ask(opened(contextual()), "alpha", bad)


def test_an_empty_text_is_one_of_no_words(opened: Open) -> None:
    found = ask(opened(contextual()), "")["embedding"][0]
    np.testing.assert_allclose(found, unit(vectors_of("").mean(axis=0)), atol=1e-6)


def test_prefix_and_lower_case_come_before_the_tokenizer(opened: Open) -> None:
    plain = ask(opened(contextual()), "alpha bravo", "bravo")["embedding"]
    np.testing.assert_allclose(ask(opened(contextual(), prefix="alpha "), "bravo")["embedding"][0], plain[0], atol=1e-7)
    lower = opened(contextual(), lower_case=True)
    np.testing.assert_allclose(ask(lower, "Alpha BRAVO")["embedding"][0], plain[0], atol=1e-7)
    assert np.abs(ask(opened(contextual()), "Alpha BRAVO")["embedding"][0] - plain[0]).max() > 1e-3


def test_several_threads_may_ask_at_once(opened: Open) -> None:
    runtime = opened(contextual())
    texts = [" ".join(WORDS[:size]) for size in range(1, len(WORDS))]
    wanted = ask(runtime, *texts)["embedding"]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: ask(runtime, *texts)["embedding"], range(32)):
            np.testing.assert_array_equal(found, wanted)


def test_a_loaded_version_answers_texts_and_warms(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    loaded = LoadedVersion(shelf.open(store(shelf, contextual(), RECIPE)))
    assert loaded.warm((1, 2), rounds=1).keys() == {1, 2}
    assert loaded.predict({"text": np.array(["alpha"], dtype=object)})["embedding"].shape == (1, WIDTH)
    assert loaded.runtime.contributions({"text": np.array(["alpha"], dtype=object)}) is None
    loaded.close()


def test_modelyard_load_answers_texts_without_a_server(tmp_path: Path) -> None:
    with load(tmp_path / store(Shelf(tmp_path), contextual(), RECIPE)) as model:
        found = model.predict_tensors({"text": np.array(["alpha bravo", "mike"], dtype=object)})["embedding"]
    np.testing.assert_allclose(found[0], unit(vectors_of("alpha bravo").mean(axis=0)), atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_length": 0},
        {"batch_tokens": 0},
        {"buckets": (16, 16)},
        {"buckets": (0, 16)},
        {"labels": ("one", "two")},
        {"answer": "classes"},
        {"answer": "classes", "labels": ("same", "same")},
    ],
)
def test_a_recipe_is_true_from_birth(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_length|buckets|labels"):
        TextRecipe(**{"output": "logits", "max_length": 8} | wrong)


PROGRAM = "import os, modelyard.runtimes.text; print(os.environ['TOKENIZERS_PARALLELISM'])"


@pytest.mark.parametrize(("told", "wanted"), [(None, "false"), ("true", "true")])
def test_tokenizers_start_no_threads_of_their_own_unless_told(told: str | None, wanted: str) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    environment |= {"TOKENIZERS_PARALLELISM": told} if told else {}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wanted


def test_a_gateway_without_text_never_imports_tokenizers() -> None:
    program = "import modelyard.serve.main, modelyard.runtimes.version, sys; sys.exit('tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
