"""A version in a model worker answers as one that is loaded here; what goes wrong is said once and soon."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.gateway import until
from kit.model_workers import ModelWorkers, model_workers, store_class
from kit.versions import CONTRACT, expected, store
from modelyard.contract.errors import InvalidInput, ModelFailed, NotReady
from modelyard.contract.tensor import Inputs
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve import channel
from modelyard.serve.channel import RemoteVersion
from modelyard.serve.shared import ANSWER_BYTES, KEPT_BYTES


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelWorkers]:
    with model_workers(tmp_path_factory.mktemp("home"), model_timeout_s=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def sums(workers: ModelWorkers) -> Iterator[RemoteVersion]:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Sums"))
    yield version
    version.close()


def rows(*firsts: float) -> Inputs:
    return {"x": np.array([[first, 1.0, 2.0] for first in firsts], dtype=np.float32)}


def test_a_table_answers_as_it_does_in_this_process(workers: ModelWorkers) -> None:
    artifact = workers.shelf.open(store(workers.shelf))  # any runtime may be held apart
    here, there = LoadedVersion(artifact), workers.open(artifact.digest)
    table = [CONTRACT.example | {"age": age} for age in range(18, 60)]
    matrix = here.encoder.encode_rows(table)
    np.testing.assert_array_equal(there.predict(matrix)["probability"], here.predict(matrix)["probability"])
    np.testing.assert_allclose(there.predict(matrix)["probability"][3], expected(table[3]), rtol=1e-5)
    parts = [matrix[:1], matrix[1:7], matrix[7:]]
    np.testing.assert_array_equal(there.predict_joined(parts)["probability"], here.predict(matrix)["probability"])
    np.testing.assert_array_equal(there.explain(matrix), here.explain(matrix))
    assert list(there.warm()) == list(here.warm())
    assert there.explain_cost() > 0
    there.close()


def test_texts_and_odd_shapes_come_back_whole(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Echo"))
    texts = np.array(["héllo", "", "金额", b"\xff\x00", "x" * 100_000], dtype=object)
    sent = {"text": texts, "numbers": np.arange(10.0).reshape(5, 2), "flag": np.array([True, False, True, True, False])}
    answer = version.predict(sent)
    assert answer["text"].tolist() == ["HÉLLO", "", "金额", b"\xff\x00", "X" * 100_000]
    np.testing.assert_array_equal(answer["numbers"], sent["numbers"])
    np.testing.assert_array_equal(answer["flag"], ~sent["flag"])
    joined = version.predict_joined([{name: values[:2] for name, values in sent.items()}, sent])
    assert joined["text"].tolist()[:3] == ["HÉLLO", "", "HÉLLO"]
    version.close()


@pytest.mark.parametrize("count", [1, 1000, ANSWER_BYTES // 8 + 1, KEPT_BYTES // 12 + 1])
def test_batches_of_every_size_are_answered_and_stay_as_they_were(sums: RemoteVersion, count: int) -> None:
    values = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    first = sums.predict({"x": values})["total"]
    kept = first.copy()
    sums.predict({"x": values + 1})  # must not write into the first answer
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(first, values.sum(axis=1), rtol=1e-6)


def test_an_error_of_the_model_is_its_callers_alone(sums: RemoteVersion, capfd: pytest.CaptureFixture[str]) -> None:
    pid = sums.predict(rows(1))["pid"][0]
    with pytest.raises(ModelFailed, match="with RuntimeError") as failure:
        sums.predict(rows(-4))
    assert "4711" not in str(failure.value)  # what the caller sent
    said = "".join(capfd.readouterr())
    assert "own_models.py" in said  # where it was raised is in the log
    assert "4711" not in said
    assert sums.predict(rows(1))["pid"][0] == pid


def test_an_input_that_the_class_refuses_is_the_caller_s(workers: ModelWorkers) -> None:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Picky"))  # is measured with its example
    assert version.predict(text("a b"))["word"].tolist() == ["a"]
    with pytest.raises(InvalidInput, match="no such text"):
        version.predict(text("z"))
    version.close()


def test_a_death_fails_what_it_held_and_no_more(workers: ModelWorkers, sums: RemoteVersion) -> None:
    before, lost = sums.predict(rows(1))["pid"][0], sums.lost
    with pytest.raises(NotReady, match="ended while it held this call"):
        sums.predict(rows(-1))
    answer = sums.predict(rows(5))  # waits for the replacement
    assert answer["total"].tolist() == [8.0]
    assert answer["pid"][0] != before
    assert sums.lost == lost + 1


@pytest.mark.parametrize("mischief", [-2, -6], ids=["sleeps", "holds the interpreter"])
def test_a_batch_that_never_ends_is_ended(sums: RemoteVersion, mischief: float) -> None:
    start = time.monotonic()
    with pytest.raises(NotReady):
        sums.predict(rows(mischief))
    assert time.monotonic() - start < 10
    assert sums.predict(rows(5))["total"].tolist() == [8.0]


def test_callers_of_several_threads_get_their_own_rows(sums: RemoteVersion) -> None:
    wrong: list[float] = []

    def call(first: float) -> None:
        for _ in range(50):
            if sums.predict(rows(first))["total"].tolist() != [first + 3]:
                wrong.append(first)

    threads = [threading.Thread(target=call, args=(float(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_two_gateway_workers_share_a_process(workers: ModelWorkers, sums: RemoteVersion) -> None:
    other = workers.open(sums.artifact.digest, worker=1)
    assert other.predict(rows(1))["pid"][0] == sums.predict(rows(1))["pid"][0]
    other.close()
    assert sums.predict(rows(1))["total"].tolist() == [4.0]


def test_what_cannot_be_loaded_says_why(workers: ModelWorkers) -> None:
    digest = store_class(workers.shelf, "kit.own_models:Unready", {"weights.bin": b"1"})
    with pytest.raises(NotReady, match="could not load: RuntimeError: the weights are not there"):
        workers.open(digest)
    workers.wanted.discard(digest)


def test_a_process_that_is_not_there_is_not_waited_for_long(
    workers: ModelWorkers, sums: RemoteVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "REPLACED_S", 0.2)
    version = RemoteVersion(sums.artifact, tmp_path / "nobody.sock")
    with pytest.raises(NotReady, match="no process holds own now"):
        version.predict(rows(1))
    with pytest.raises(NotReady, match=r"not there within 0\.1 s"):
        version.connect(0.1)


def test_an_unloaded_version_asks_nobody(workers: ModelWorkers, sums: RemoteVersion) -> None:
    version = workers.open(sums.artifact.digest)
    version.close()
    with pytest.raises(NotReady, match="being unloaded"):
        version.predict(rows(1))


# --- streams


@pytest.fixture(scope="module")
def words(workers: ModelWorkers) -> Iterator[RemoteVersion]:
    version = workers.open(store_class(workers.shelf, "kit.own_models:Words"))
    yield version
    version.close()


def text(value: str) -> dict[str, Any]:
    return {"text": np.array([value], dtype=object)}


def test_a_stream_gives_piece_after_piece_while_batches_pass_by(words: RemoteVersion) -> None:
    assert words.streams
    pieces = []
    for piece in words.stream(text("a b c")):
        pieces.append(piece["word"].tolist())
        assert words.predict(text("x y"))["word"].tolist() == ["x"]
    assert pieces == [["a"], ["b"], ["c"]]
    assert list(words.stream(text(""))) == []


def test_streams_take_turns(words: RemoteVersion) -> None:
    pairs = zip(words.stream(text("a b")), words.stream(text("c d")), strict=True)
    assert [(one["word"][0], other["word"][0]) for one, other in pairs] == [("a", "c"), ("b", "d")]


def test_a_stream_that_is_left_is_ended(words: RemoteVersion) -> None:
    for _ in range(40):  # more than a process holds open
        stream = words.stream(text("a b c"))
        assert next(stream)["word"].tolist() == ["a"]
        stream.close()  # type: ignore[attr-defined]


def test_a_stream_has_an_end_in_time(words: RemoteVersion) -> None:
    stream = words.stream(text("a b c"), timeout_s=0.05)
    next(stream)
    time.sleep(0.06)
    with pytest.raises(NotReady, match="did not end in time"):
        next(stream)


def test_a_death_ends_the_stream(words: RemoteVersion) -> None:
    stream = words.stream(text("a die b"))
    assert next(stream)["word"].tolist() == ["a"]
    with pytest.raises(NotReady, match="ended while it held"):
        next(stream)
    assert words.predict(text("x y"))["word"].tolist() == ["x"]


def test_who_does_not_stream_says_so(sums: RemoteVersion) -> None:
    assert not sums.streams
    with pytest.raises(InvalidInput, match="does not answer piece by piece"):
        next(iter(sums.stream(rows(1))))


def test_a_stopped_process_is_replaced(workers: ModelWorkers, sums: RemoteVersion) -> None:
    pid = int(sums.predict(rows(1))["pid"][0])
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(NotReady):  # it is idle as far as anybody knows, and found by its silence
        sums.predict(rows(1))
    until(lambda: answers(sums), "its replacement answers")  # it may rest before, for it died more than once here
    assert int(sums.predict(rows(1))["pid"][0]) != pid


def answers(version: RemoteVersion) -> bool:
    try:
        return len(version.predict(rows(1))["total"]) == 1
    except NotReady:
        return False
