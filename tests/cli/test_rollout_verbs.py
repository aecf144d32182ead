"""The verbs of guarded rollouts, in this process: what they begin, what they say, and how they end."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from shlex import split
from typing import Any

import pytest

from modelyard.artifacts.manifest import Lineage, Manifest
from modelyard.cli import main as command
from modelyard.cli.console import Console
from modelyard.cli.context import Context
from modelyard.contract.features import Column, Contract
from modelyard.contract.settings import Settings
from modelyard.contract.signature import Signature, TensorSpec


@pytest.fixture
def desk(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with two versions of `scores`, the first deployed."""
    from modelyard.control.setup import start

    start(Settings(home=str(own_home)))
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.work import register_packaged

    for seed in (1, 2):
        manifest = Manifest(
            model="scores",
            task="binary",
            framework="logistic",
            runtime="onnx",
            created_at="2026-01-01T00:00:00+00:00",
            files={},
            signature=Signature((TensorSpec("age", "FP64", (-1,)),), (TensorSpec("probability", "FP32", (-1,)),)),
            contract=Contract((Column("age", "number"),)),
            lineage=Lineage(seed=seed),
        )
        register_packaged(manifest, {"model.onnx": b"graph %d" % seed}, by="test")
    deploy("scores", 1, by="test")
    monkeypatch.setattr(Context, "by", "local:li")
    yield own_home
    from django.db import connections

    connections.close_all()


@pytest.fixture
def run(desk: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run one command; what it says on both streams."""

    def run(words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert command.main(["rollout", *split(words)]) == status
        said = capsys.readouterr()
        return said.out + said.err

    return run


def test_a_rollout_begins_with_what_is_asked_and_the_usual_rest(run: Any) -> None:
    said = json.loads(
        run("start scores 2 --steps 5,25,100 --step-minutes 30 --min-calls 2000 --errors 0.5 --slower 2 --fast-ms 5 "
            "--violations none --alpha 0.01 --lease-seconds 60 --json")
    )  # fmt: skip
    assert said["policy"] == {
        "steps": [{"percent": percent, "min_seconds": 1800.0, "min_calls": 2000} for percent in (5, 25, 100)],
        "guards": [
            {"kind": "errors", "margin": 0.005, "slower": 1.25, "fast_seconds": 0.001},
            {"kind": "latency", "margin": 0.02, "slower": 2.0, "fast_seconds": 0.005},
        ],
        "alpha": 0.01,
    }
    assert (said["by"], said["lease_seconds"], said["champion"], said["candidate"]) == ("local:li", 60.0, 1, 2)
    assert ["no gateway" in line for line in said["warnings"]] == [True, False]


def test_without_options_it_goes_as_the_reference_says(run: Any) -> None:
    said = run("start scores 2")
    assert "rollout 1: scores version 1 -> 2 at 1 %, running; waits for its time" in said
    assert "0 of 600 s, 0 of 1,000 calls" in said
    assert "no gateway runs" in said


def test_pausing_resuming_and_aborting_are_told(run: Any) -> None:
    run("start scores 2")
    assert "paused: lunch" in run("pause scores --reason lunch")
    assert "running; waits" in run("resume 1")
    assert "aborted: not today" in run("abort scores --reason 'not today'")
    shown = run("show scores")
    assert [word in shown for word in ("start", "pause lunch", "resume", "aborted not today")] == [True] * 4
    assert "local:li" in shown
    assert "is aborted already" in run("pause 1", 1)
    assert "scores" in run("list")
    assert [row["state"] for row in json.loads(run("list --json"))] == ["aborted"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_watching_ends_with_the_rollout(run: Any, monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr(Console, "is_interactive", is_terminal)
    run("start scores 2")

    def end() -> None:
        from django.db import connections

        from modelyard.control.rollouts.services import abort

        abort(1, "wang", "seen enough")
        connections.close_all()

    other = threading.Timer(0.3, end)
    other.start()
    said = run("watch scores", 1)
    other.join()
    assert "waits for its time" in said
    assert "aborted: seen enough" in said


def test_a_change_that_waits_is_told(run: Any) -> None:
    from modelyard.control.deployments.services import configure

    configure("scores", "local:li", needs_approval=True)
    assert "change 1 waits" in run("start scores 2")
    assert json.loads(run("start scores 2 --json"))["verb"] == "start_rollout"
    assert "no rollout yet" in run("list")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("start scores 2 --steps 5,1,100", "steps rise"),
        ("start scores 2 --latency none --slower 2", "--latency none"),
        ("start scores 2 --lease-seconds 0", "a lease lasts"),
        ("start scores 9", "no version"),
        ("start nobody 1", "no endpoint"),
        ("show nobody", "had no rollout yet"),
        ("abort 4", "no rollout 4"),
    ],
)
def test_what_cannot_be_done_is_refused(run: Any, words: str, says: str) -> None:
    assert says in run(words, 1)


@pytest.mark.parametrize("words", ["start scores 2 --steps a,b", "start scores 2 --errors much", "watch"])
def test_what_is_not_understood_is_a_usage_error(desk: Path, words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["rollout", *split(words)])
    assert ended.value.code == 2


def test_it_speaks_chinese(run: Any) -> None:
    assert "发布 1：scores 版本 1 -> 2，1 %，进行中；等待时间" in run("start scores 2 --lang zh").replace("; ", "；")
