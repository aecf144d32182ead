"""The benchmarks' own arithmetic, and a second of each real thing; nothing here asserts a speed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks import bench, document, grpc, hostile
from benchmarks.__main__ import main
from benchmarks.caller import Output, Said, difference
from benchmarks.changes import NewSplits
from benchmarks.check import WrongAnswer, differs, expected_of, verify
from benchmarks.gateway import modelyard, ungoverned
from benchmarks.load import LoadFailed, Round, has_wrk, load, parse
from benchmarks.processes import Memory
from benchmarks.report import (
    ALONE,
    OFF,
    OURS,
    TRITON,
    Figures,
    Measured,
    Started,
    ratio,
    ratios,
    show,
    verdicts,
)
from benchmarks.shadows import measure as measure_shadow
from benchmarks.soak import Felt, Soaked, neighbours, soak
from benchmarks.work import Work, credit1, feeds_of, graph_answers, noop, numbers_in
from kit.gateway import until
from modelyard.contract.plan import TrafficSplit

ROOT = Path(__file__).parents[2]
MACHINE = {"cores": "2", "processor": "one", "memory": "4 GiB", "system": "Linux", "python": "3.11"}


def a_round(per_second: float, errors: int = 0, server_us: float | None = 10.0, p99_ms: float = 2.0) -> Round:
    return Round(per_second, 1.0, p99_ms, errors, 0.3, server_us)


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Work]:
    folder = tmp_path_factory.mktemp("works")
    return credit1(trees=5, folder=folder), credit1(seed=8, trees=5, folder=folder)


# --- arithmetic -----------------------------------------------------------------------------------------------------


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
    with pytest.raises(LoadFailed):
        grpc.parse(output)


def test_the_summary_over_http2_counts_what_failed_in_any_way() -> None:
    said = grpc.parse(
        "finished in 4.01s, 123.45 req/s, 2.00MB/s\n"
        "requests: 500 total, 510 started, 495 done, 490 succeeded, 3 failed, 1 errored, 1 timeout\n"
        "traffic: 8.02MB (8412345) total, 1.00MB (1048576) headers (space savings 90.00%), 48.34KB (49500) data\n"
    )
    assert (said.done, said.failed, said.per_second, said.data_bytes) == (495, 5, 123.45, 49500)


def test_each_round_is_compared_with_its_neighbour() -> None:
    ours = Measured("credit1", 64, OURS, [a_round(100), a_round(300), a_round(90)])
    theirs = Measured("credit1", 64, "rival", [a_round(50, server_us=40), a_round(100), a_round(30, server_us=None)])
    found = ratio(ours, theirs)
    assert found is not None
    assert (found.median, found.lowest, found.highest) == (3.0, 2.0, 3.0)
    assert found.processor == 2.5  # of the two rounds where it is known
    assert found.p99 == 1.0


def test_systems_with_errors_are_compared_with_nothing() -> None:
    ours = Measured("credit1", 64, OURS, [a_round(100)])
    theirs = Measured("credit1", 64, "rival", [a_round(50, errors=1)])
    assert ratio(ours, theirs) is None
    other_load = Measured("credit1", 1, "rival", [a_round(50)])
    fair = Measured("credit1", 64, "fair", [a_round(50)])
    assert [one.rival for one in ratios([ours, theirs, other_load, fair])] == ["fair"]


@pytest.mark.parametrize(
    ("ours", "theirs", "is_met"), [(350.0, 100.0, True), (349.0, 100.0, False), (400.0, 100.0, True)]
)
def test_the_bar_beside_a_ratio(ours: float, theirs: float, is_met: bool) -> None:
    measured = [Measured("credit1", 64, OURS, [a_round(ours)]), Measured("credit1", 64, TRITON, [a_round(theirs)])]
    throughput, p99 = verdicts(Figures(MACHINE, "2026-01-01", measured))
    assert (throughput.figure, throughput.is_met) == (ours / theirs, is_met)
    assert p99.is_met  # the same on both sides


def test_governance_limits_start_and_memory_have_bars() -> None:
    measured = [
        Measured("credit1", 64, OURS, [a_round(80)]),
        Measured("credit1", 64, OFF, [a_round(100)]),
        Measured("minilm", 16, OURS, [a_round(94)]),
        Measured("minilm", 16, ALONE, [a_round(100)]),
    ]
    started = [Started(OURS, [0.9], [Memory(31, 40)]), Started(TRITON, [2.0], [Memory(100, 120)])]
    figures = Figures(MACHINE, "2026-01-01", measured, started)
    said = {(v.what, v.rival): (round(v.figure, 3), v.is_met) for v in verdicts(figures)}
    assert said == {
        ("credit1 c64: cost of everything on", OFF): (0.2, True),
        ("minilm c16: requests/s", ALONE): (0.94, False),
        ("start, seconds", ""): (0.9, True),
        ("start", TRITON): (0.45, True),
        ("memory", TRITON): (0.31, False),
    }


def test_figures_come_back_and_are_published_between_the_marks(tmp_path: Path) -> None:
    measured = [Measured("noop", 64, OURS, [a_round(200)]), Measured("noop", 64, TRITON, [a_round(100)])]
    figures = Figures(MACHINE, "2026-01-01", measured, growth={"endpoints": [{"endpoints": 1.0, "p50 ms": 0.5}]})
    figures.write(tmp_path / "figures.json")
    assert Figures.read(tmp_path / "figures.json") == figures
    assert json.loads((tmp_path / "figures.json").read_text())["ratios"][0]["median"] == 2.0
    show(Console(quiet=True), figures)
    page = tmp_path / "page.md"
    marks = [f"<!-- {name}: written by `make bench` -->\nold\n<!-- end of {name} -->" for name in ("figures", "growth")]
    page.write_text("before\n" + "\n".join(marks) + "\nafter\n")
    document.publish(figures, page, tmp_path / "plots")
    document.publish_growth(figures, page, tmp_path / "plots")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert re.search(r"\| noop \| 64 \| Modelyard \| 200 \|", text)
    for name in re.findall(r"\(plots/(\w+)\.svg\)", text):
        assert (tmp_path / "plots" / f"{name}.svg").read_text().startswith("<?xml")


def test_the_page_has_its_marks() -> None:
    text = document.PAGE.read_text("utf-8")
    for name in ("figures", "growth"):
        assert text.count(f"<!-- {name}: written by `make bench` -->") == text.count(f"<!-- end of {name} -->") == 1


# --- right or wrong -------------------------------------------------------------------------------------------------


def test_numbers_are_read_from_every_dialect() -> None:
    assert numbers_in(b'{"decision":"approve","probability":0.25}', "probability") == [0.25]
    tensors = [{"name": "label", "data": [1]}, {"name": "probability", "data": [0.75, 0.5]}]
    assert numbers_in(json.dumps({"outputs": tensors}).encode(), "probability") == [0.75, 0.5]
    assert numbers_in(b'{"same":[[1,2],[3,4]]}', "same") == [1, 2, 3, 4]
    assert numbers_in(b"[[1,2]]", "same") == [1, 2]


@pytest.mark.parametrize(
    ("status", "answer", "is_right"),
    [
        (200, b'{"probability":0.5}', True),
        (200, b'{"probability":0.500009}', True),
        (200, b'{"probability":0.50002}', False),
        (200, b'{"probability":[0.5,0.5]}', False),
        (200, b'{"outputs":[]}', False),
        (200, b"<html>", False),
        (503, b'{"probability":0.5}', False),
    ],
)
def test_only_the_expected_answer_is_right(status: int, answer: bytes, is_right: bool) -> None:
    assert (differs(status, answer, [0.5]) is None) is is_right


def test_the_soaks_callers_compare_as_strictly() -> None:
    right = msgspec.convert([0.5, 0.25], list[float])
    assert difference(Said([Output("p", [0.5, 0.25])]), right, "p") is None  # type: ignore[arg-type]
    for wrong in (Said(), Said([Output("q", [0.5, 0.25])]), Said([Output("p", [0.5])]), Said([Output("p", [0.5, 1])])):
        assert difference(wrong, right, "p") is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [["--rounds", "many"], ["soak", "credit1"], ["grpc", "--nothing"]])
def test_what_cannot_be_understood_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nothing"], ["growth", "nothing"]])
def test_what_cannot_be_measured_is_refused(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_growth_of_memory_is_read_after_warm_up() -> None:
    samples = [(float(at), 100 + (50 if at >= 4 else 0) + (8 if at >= 10 else 0)) for at in range(12)]
    assert Soaked(memory={1: samples}).growth(warm_up_s=4) == {1: (150, 158)}
    assert not Soaked().is_clean
    assert not Soaked(answered=1, wrong=1).is_clean


def test_what_a_neighbour_costs_is_the_median_over_the_turns() -> None:
    assert Felt("any", [1.0, 2.0, 4.0], [2.0, 2.0, 12.0]).ratio == 2.0


# --- works ----------------------------------------------------------------------------------------------------------


def test_a_work_is_kept_until_its_makers_change(works: tuple[Work, Work]) -> None:
    folder = works[0].folder.parent
    stamp = (works[0].folder / "work.json").stat().st_mtime_ns
    again = credit1(trees=5, folder=folder)
    assert again == works[0]
    assert (again.folder / "work.json").stat().st_mtime_ns == stamp
    assert len(again.requests.read_text().splitlines()) == len(again.bodies)
    assert graph_answers(works[1], again.bodies) != again.expected["modelyard"]  # versions can be told apart


def test_a_work_is_asked_in_the_dialect_of_the_system(works: tuple[Work, Work]) -> None:
    v2, plain = works[0].asked("v2"), works[0].asked("plain")
    assert (v2.path, plain.path) == ("/v2/models/credit1/infer", "/credit1")
    rows = feeds_of(v2.bodies[0])["rows"]
    assert json.loads(plain.bodies[0]) == {"rows": json.loads(v2.bodies[0])["inputs"][0]["data"]} or rows.shape[0] == 1
    assert plain.requests.read_text().splitlines() == plain.bodies


def test_noop_gives_back_what_it_got(tmp_path: Path) -> None:
    work = noop(tmp_path)
    assert work.expected["rival"][3] == pytest.approx(feeds_of(work.bodies[3])["rows"][0])


# --- the real thing -------------------------------------------------------------------------------------------------


def test_a_wrong_system_is_not_measured(works: tuple[Work, Work]) -> None:
    work = works[0]
    with modelyard({work.endpoint: {1: work.digest}}, [work.shelf]) as gateway:
        assert verify(gateway, work, work.expected["modelyard"]) == len(work.bodies)
        with pytest.raises(WrongAnswer, match="is right"):
            verify(gateway, work, [[1 - right[0]] for right in work.expected["modelyard"]])
        if (memory := gateway.memory()) is not None:
            assert memory.resident > memory.proportional > 0
        if has_wrk():
            said = load(gateway, work, connections=4, seconds=1)
            assert said.errors == 0
            assert said.per_second > 0
            assert said.p99_ms >= said.p50_ms > 0
            assert said.sampled > 0
    assert gateway.process.returncode == 0


def test_without_governance_nobody_asks_for_a_key_and_nothing_is_recorded(works: tuple[Work, Work]) -> None:
    work = works[0]
    with ungoverned({work.endpoint: {1: work.digest}}, [work.shelf]) as gateway:
        del gateway.headers["Authorization"]
        verify(gateway, work, expected_of(gateway, work))
        assert not list(gateway.home.root.rglob("*.records"))
    with modelyard({work.endpoint: {1: work.digest}}, [work.shelf]) as gateway:
        verify(gateway, work, expected_of(gateway, work))
        until(lambda: list(gateway.home.root.rglob("*.records")), "records are written just after the answers")
        del gateway.headers["Authorization"]
        with pytest.raises(WrongAnswer, match="401"):
            verify(gateway, work, expected_of(gateway, work))


def test_a_short_soak_is_clean(works: tuple[Work, Work]) -> None:
    said = soak(works, [], seconds=3.0, every_s=0.7)
    assert said.is_clean, said.reasons
    assert said.deployments >= 1
    assert said.saturation > 0
    assert said.memory or not Path("/proc/self/statm").exists()


def test_a_short_soak_of_splits_is_clean_and_would_notice_a_wrong_version(works: tuple[Work, Work]) -> None:
    said = soak(works, [], seconds=3.0, every_s=0.3, kind=NewSplits)
    assert said.is_clean, said.reasons
    assert said.deployments >= 3
    splits = NewSplits(works, {})
    splits._in_force = [TrafficSplit({1: 100}, spans=((1, 100),)), TrafficSplit({3: 100}, spans=((3, 100),))]
    right = Said([Output(works[0].output, works[0].expected["modelyard"][0])], model_version="1")
    assert splits.judge(0, works[0])(right, 0) is None
    assert "only [1, 3]" in str(splits.judge(0, works[0])(msgspec.structs.replace(right, model_version="2"), 0))


def test_a_shadows_cost_is_measured(works: tuple[Work, Work]) -> None:
    found = measure_shadow(works[0], seconds=0.6, turns=1, share=0.2)
    assert (found.failed, found.wrong) == (0, 0)
    assert found.copies["compared"] > 0
    assert found.copies["differing"] == 0
    assert found.ratio > 0


def test_a_neighbour_is_felt_and_heard(works: tuple[Work, Work]) -> None:
    (felt,) = neighbours(works[0], 0.4, ("nested JSON",), turns=1)
    assert felt.failed == 0
    assert len(felt.alone_ms) == len(felt.meanwhile_ms)
    assert min(felt.alone_ms) > 0
    assert sum(felt.answers.values()) > 0


def test_every_neighbour_can_be_started() -> None:
    assert len(hostile.KINDS) == 6
    done = subprocess.run([sys.executable, "-m", "benchmarks.hostile", "none", "1", ""], cwd=ROOT, capture_output=True)
    assert b"KeyError" in done.stderr


# --- rivals ---------------------------------------------------------------------------------------------------------


def test_every_rival_is_beside_its_lock() -> None:
    locks = ROOT / "requirements" / "rivals"
    for name in ("bentoml", "fastapi", "kserve", "litserve", "mlserver", "plots", "triton"):
        assert (locks / f"{name}.txt").is_file()
        assert (locks / f"{name}.in").is_file()
    for rival in (ROOT / "benchmarks" / "rivals").glob("*.py"):
        compile(rival.read_text(), rival.name, "exec")
    assert set(bench.SYSTEMS.values()) == {OFF, *document_names()}


def document_names() -> set[str]:
    from benchmarks.rivals import rivals

    return set(rivals([], Path("pipeline.joblib")))


def test_all_systems_compute_with_one_version_of_onnx_runtime() -> None:
    pattern = re.compile(r"^onnxruntime==(\S+)", re.MULTILINE)
    locks = [ROOT / "requirements" / "dev.txt", *(ROOT / "requirements" / "rivals").glob("*.txt")]
    found = {match for lock in locks for match in pattern.findall(lock.read_text("utf-8"))}
    assert len(found) == 1, found
