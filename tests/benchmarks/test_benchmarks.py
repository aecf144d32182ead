"""The benchmarks' own arithmetic, and one second of the real thing; nothing here asserts a speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.check import WrongAnswer, differs, verify
from benchmarks.load import LoadFailed, Round, has_wrk, load, parse
from benchmarks.report import Measured, as_json, ratio, ratios
from benchmarks.server import modelyard
from benchmarks.soak import Soaked, soak
from benchmarks.work import Work, credit1, graph_answers, probability_in


def a_round(per_second: float, errors: int = 0, server_us: float | None = 10.0) -> Round:
    return Round(per_second, 1.0, 2.0, errors, 0.3, server_us)


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Work]:
    folder = tmp_path_factory.mktemp("works")
    return credit1(trees=5, folder=folder), credit1(seed=8, trees=5, folder=folder)


def test_the_load_generators_summary_is_found_among_its_words() -> None:
    said = parse(
        "Running 1s test\n"
        'BENCH {"requests":300,"seconds":1.5,"p50_ms":1.25,"p99_ms":9.5,"not_2xx":2,"broken":1}\n'
        "Requests/sec: 200\n"
    )
    assert (said.requests, said.seconds, said.p99_ms, said.not_2xx, said.broken) == (300, 1.5, 9.5, 2, 1)


@pytest.mark.parametrize("output", ["", "unable to connect\n", "BENCHMARK {}\n"])
def test_a_generator_without_a_summary_has_failed(output: str) -> None:
    with pytest.raises(LoadFailed):
        parse(output)


def test_each_round_is_compared_with_its_neighbour() -> None:
    ours = Measured("credit1", 64, "Modelyard", [a_round(100), a_round(300), a_round(90)])
    theirs = Measured("credit1", 64, "rival", [a_round(50, server_us=40), a_round(100), a_round(30, server_us=None)])
    found = ratio(ours, theirs)
    assert found is not None
    assert (found.median, found.lowest, found.highest) == (3.0, 2.0, 3.0)
    assert found.processor == 2.5  # of the two rounds where it is known
    assert found.p99 == 1.0


def test_systems_with_errors_are_compared_with_nothing() -> None:
    ours = Measured("credit1", 64, "Modelyard", [a_round(100)])
    theirs = Measured("credit1", 64, "rival", [a_round(50, errors=1)])
    assert ratio(ours, theirs) is None
    other_load = Measured("credit1", 1, "rival", [a_round(50)])
    fair = Measured("credit1", 64, "fair", [a_round(50)])
    assert [one.rival for one in ratios([ours, theirs, other_load, fair])] == ["fair"]
    assert json.loads(as_json([ours, fair], {}, {}))["ratios"][0]["median"] == 2.0


def test_a_probability_is_read_from_both_dialects() -> None:
    assert probability_in(b'{"decision":"approve","probability":0.25}') == 0.25
    tensors = [{"name": "label", "data": [1]}, {"name": "probability", "data": [0.75]}]
    assert probability_in(json.dumps({"outputs": tensors}).encode()) == 0.75


@pytest.mark.parametrize(
    ("status", "answer", "is_right"),
    [
        (200, b'{"probability":0.5}', True),
        (200, b'{"probability":0.500009}', True),
        (200, b'{"probability":0.50002}', False),
        (200, b'{"probability":NaN}', False),
        (200, b'{"outputs":[]}', False),
        (200, b"<html>", False),
        (503, b'{"probability":0.5}', False),
    ],
)
def test_only_the_expected_answer_is_right(status: int, answer: bytes, is_right: bool) -> None:
    assert (differs(status, answer, 0.5) is None) is is_right


@pytest.mark.parametrize("arguments", [["nothing"], ["soak", "credit1"], ["--rounds", "many"]])
def test_what_cannot_be_measured_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage" in capsys.readouterr().err


def test_growth_is_read_after_warm_up() -> None:
    samples = [(float(at), 100 + (50 if at >= 4 else 0) + (8 if at >= 10 else 0)) for at in range(12)]
    assert Soaked(memory={1: samples}).growth_bytes(warm_up_s=4) == {1: 8}
    assert not Soaked().is_clean
    assert not Soaked(answered=1, wrong=1).is_clean


def test_a_work_is_kept_until_its_makers_change(works: tuple[Work, Work]) -> None:
    folder = works[0].folder.parent
    stamp = (works[0].folder / "work.json").stat().st_mtime_ns
    again = credit1(trees=5, folder=folder)
    assert again == works[0]
    assert (again.folder / "work.json").stat().st_mtime_ns == stamp
    assert len(again.requests.read_text().splitlines()) == len(again.bodies)
    assert graph_answers(works[1], again.bodies) != again.expected["modelyard"]  # versions can be told apart


def test_a_wrong_system_is_not_measured(works: tuple[Work, Work]) -> None:
    work = works[0]
    with modelyard({work.endpoint: {1: work.digest}}, [work.shelf]) as gateway:
        assert verify(gateway, work, work.expected["modelyard"]) == len(work.bodies)
        with pytest.raises(WrongAnswer, match="is right"):
            verify(gateway, work, [1 - right for right in work.expected["modelyard"]])
        if has_wrk():
            said = load(gateway, work.path, work.requests, connections=4, seconds=1)
            assert said.errors == 0
            assert said.per_second > 0
            assert said.p99_ms >= said.p50_ms > 0
    assert gateway.process.returncode == 0


def test_a_short_soak_is_clean(works: tuple[Work, Work]) -> None:
    said = soak(works, [], seconds=2.0, every_s=0.7)
    assert said.is_clean, said.reasons
    assert said.deployments >= 1
    assert len(said.memory) in (0, 2)  # workers; none where the kernel does not tell


def test_every_rival_is_beside_its_lock() -> None:
    root = Path(__file__).parents[2]
    assert (root / "requirements" / "rivals" / "fastapi.txt").is_file()
    for rival in (root / "benchmarks" / "rivals").glob("*.py"):
        compile(rival.read_text(), rival.name, "exec")
