"""`modelyard runtime check` and classes in `models register`: what is kept and broken stands there: crashes too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.applicants import BAD, WHOLE, fitted
from kit.model_workers import KIT_PATH
from modelyard.cli.context import Context
from modelyard.cli.look import _gateway_lines
from modelyard.cli.main import command_line, main
from modelyard.contract.plan import GatewayState, ModelWorkerState
from modelyard.runtimes.conformance import INDEPENDENT
from modelyard.runtimes.examine import LIVES, LOADS

Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def kit_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", KIT_PATH)


def check(capsys: Said, entry: str, *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["runtime", "check", entry, "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def broken(report: dict[str, Any]) -> list[str]:
    return [promise["name"] for promise in report["promises"] if not promise["is_kept"]]


def test_a_class_that_keeps_every_promise(capsys: Said) -> None:
    status, report = check(capsys, "kit.own_models:Words")
    assert (status, broken(report)) == (0, [])
    assert report["conforms"]
    assert report["independent_rows"]
    assert report["streams"]
    assert report["signature"]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize(
    ("entry", "name", "seen"),
    [
        ("Crashes", LIVES, "killed by SIGSEGV"),
        ("Nothing", LOADS, "has no method `predict"),
        ("Nobody", LOADS, "has no class 'Nobody'"),
        ("Ranks", INDEPENDENT, "differs from together"),
    ],
)
def test_a_broken_promise_is_named_with_what_was_seen(entry: str, name: str, seen: str, capsys: Said) -> None:
    status, report = check(capsys, f"kit.own_models:{entry}")
    assert status == 1
    assert not report["conforms"]
    assert name in broken(report)
    assert any(seen in promise["seen"] for promise in report["promises"])
    assert report["independent_rows"] is (entry != "Ranks")


def test_files_reach_setup(capsys: Said, tmp_path: Path) -> None:
    status, report = check(capsys, "kit.own_models:Unready", "--files", str(tmp_path))
    assert status == 1
    assert "RuntimeError: the weights are not there" in report["promises"][0]["seen"]
    assert main(["runtime", "check", "kit.own_models:Unready", "--files", str(tmp_path / "nowhere")]) == 1


def test_the_terminal_shows_each_promise_and_what_the_class_printed(capsys: Said) -> None:
    assert main(["runtime", "check", "kit.own_models:Crashes"]) == 1
    out, err = capsys.readouterr()
    assert "the process was killed by SIGSEGV" in out
    assert "kit.own_models:Crashes cannot be served like this" in err
    assert main(["runtime", "check", "kit.own_models:Ranks"]) == 1
    assert "never be joined into batches" in capsys.readouterr().err
    assert main(["runtime", "check", "kit.own_models"]) == 1
    assert "package.module:Class" in capsys.readouterr().err


def test_a_class_is_registered_by_name_and_marked_as_trusted_code(capsys: Said, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "weights.bin").write_bytes(b"1")
    words = ["models", "register", "kit.own_models:Words", "--name", "words"]
    assert main([*words, "--files", str(files)]) == 0
    capsys.readouterr()
    assert main(["models", "list"]) == 0
    assert "python (trusted code)" in capsys.readouterr().out
    assert main(["models", "show", "words"]) == 0
    shown = capsys.readouterr().out
    assert "trusted code: kit.own_models:Words" in shown
    assert "BYTES" in shown
    assert main(["models", "show", "words", "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)["manifest"]
    assert manifest["code"]["entry"] == "kit.own_models:Words"
    assert sorted(manifest["files"]) == ["card.md", "weights.bin"]
    assert main([*words, "--trust"]) == 1
    assert "leave all but --name and --files out" in capsys.readouterr().err


def test_the_status_shows_each_process_and_why_it_died(capsys: Said) -> None:
    death = "2026-01-01T00:00:00Z pid 7 was killed by SIGSEGV"
    held = ModelWorkerState("ab" * 32, 1, 8, "ready", 300 << 20, 2, death)
    state = GatewayState(1, "http://localhost", 0.0, models=(held,))
    _gateway_lines(Context(command_line().parse_args(["status"])), state, None)
    said = capsys.readouterr().out
    assert "model worker abababababab-1: ready, process 8, 300 MB, 2 restarts" in said
    assert f"died: {death}; more in run/models/abababababababab-1.json" in said


def test_a_dependent_class_is_registered_as_what_it_is(capsys: Said) -> None:
    assert main(["models", "register", "kit.own_models:Ranks", "--name", "ranks"]) == 0
    capsys.readouterr()
    assert main(["models", "show", "ranks"]) == 0
    assert "calls are never joined" in capsys.readouterr().out


def test_a_model_is_kept_as_it_is_when_asked(capsys: Said, tmp_path: Path) -> None:
    import skops.io
    from sklearn.linear_model import LogisticRegression

    skops.io.dump(fitted(LogisticRegression(), WHOLE, BAD), tmp_path / "own.skops")
    WHOLE.to_csv(tmp_path / "rows.csv", index=False)
    words = ["models", "register", str(tmp_path / "own.skops"), "--sample", str(tmp_path / "rows.csv"), "--name"]
    for name, flags, runtime in (("kept", ["--runtime", "native"], "sklearn"), ("converted", [], "onnx")):
        assert main([*words, name, *flags]) == 0
        capsys.readouterr()
        assert main(["models", "show", name, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["manifest"]["runtime"] == runtime
        assert not shown["manifest"].get("trusted", False)
    assert main([*words, "other", "--files", str(tmp_path)]) == 1
    assert "--files is for a class of your own" in capsys.readouterr().err
