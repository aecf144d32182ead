"""Two versions timed side by side: in turns, in another process, and honest about what was asked."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kit.versions import CONTRACT, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput, ModelFailed, NotFound
from modelyard.runtimes import timing
from modelyard.runtimes.timing import compare_calls, measure, summary


def test_a_version_against_itself_is_equal_and_against_nothing_is_not_found(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    digest = store(shelf)
    found = measure(shelf, digest, store(shelf, 0.5))
    assert [one.rows for one in found.sizes] == list(timing.SIZES)
    assert found.real_rows is False
    for one in found.sizes:
        assert one.calls >= 5
        assert 0 < one.a_ms <= one.a_p95_ms
        assert one.ratio_interval[0] <= one.ratio_interval[1]
        assert 0.2 < one.ratio < 5  # the same graph, but for one number
    with pytest.raises(NotFound):
        measure(shelf, digest, "0" * 64)


def test_held_out_rows_are_asked_where_there_are_any(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    artifact = shelf.open(store(shelf))
    held = {"total": 100, "rows": [{"index": n, "row": CONTRACT.example, "probability": 0.5} for n in range(100)]}
    files = {"model.onnx": artifact.read("model.onnx"), "holdout.json": msgspec.json.encode(held)}
    digest = shelf.put(artifact.manifest, files)
    assert measure(shelf, digest, digest).real_rows is True


def test_a_version_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    good = store(shelf)
    broken = shelf.put(shelf.open(good).manifest, {"model.onnx": b"no graph"})
    with pytest.raises(ModelFailed, match="could not be timed"):
        measure(shelf, good, broken)
    (shelf.folder / good / "model.onnx").write_bytes(b"changed")
    with pytest.raises(InvalidInput, match="changed"):
        measure(shelf, good, good)


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    digest = store(shelf)
    with pytest.raises(Conflict, match="longer than"):
        measure(shelf, digest, digest, timeout_s=0.01)


def test_nothing_of_ours_reaches_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version's own code must not find our settings, which may hold secrets."""
    seen: dict[str, str] = {}
    popen = timing.subprocess.Popen

    def noted(*words, **options):
        seen.update(options["env"])
        return popen(*words, **options)

    monkeypatch.setenv("MODELYARD_DATABASE_URL", "postgres://me:secret@db/yard")
    monkeypatch.setattr(timing.subprocess, "Popen", noted)
    shelf = Shelf(tmp_path)
    digest = store(shelf)
    measure(shelf, digest, digest)
    assert seen
    assert not any(name.startswith("MODELYARD_") for name in seen)
    assert os.environ["MODELYARD_DATABASE_URL"]


def test_both_are_called_in_turns_and_each_goes_first_as_often() -> None:
    order: list[str] = []
    a, b = compare_calls(lambda _: order.append("a"), lambda _: order.append("b"), rounds=10)
    assert len(a) == len(b) == 10
    turns = ["".join(order[at : at + 2]) for at in range(6, len(order), 2)]
    assert sorted(turns) == ["ab"] * 5 + ["ba"] * 5


def test_the_ratio_and_its_interval_are_of_the_medians() -> None:
    random = np.random.default_rng(1)
    a = random.normal(1.0, 0.05, 200)
    found = summary(1, a / 1e3, 2 * random.normal(1.0, 0.05, 200) / 1e3)
    assert found.ratio == pytest.approx(2.0, rel=0.05)
    assert found.ratio_interval[0] < 2.0 < found.ratio_interval[1]
    assert (found.a_ms, found.calls) == (pytest.approx(1.0, rel=0.05), 200)
