"""The grammar of the command and what its exit status means."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import modelyard
from modelyard.cli import main as command
from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.client import Unreachable
from modelyard.contract.errors import InvalidInput, ModelyardError, Unauthenticated

VERBS = [
    "init",
    "train",
    "contract",
    "models list",
    "models show",
    "models register",
    "deploy",
    "undeploy",
    "rollback",
    "traffic",
    "shadow",
    "endpoint show",
    "endpoint configure",
    "changes",
    "approve",
    "reject",
    "predict",
    "serve",
    "up",
    "status",
    "logs",
    "keys create",
    "keys list",
    "keys revoke",
    "config show",
    "doctor",
    "backup",
    "restore",
    "upgrade",
    "adopt",
    "demo",
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([*verb.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: modelyard")


@pytest.mark.parametrize(
    "words", [["nonsense"], ["train"], ["keys", "create", "x", "--expires", "soon"], ["--lang", "fr"]]
)
def test_a_wrong_command_line_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == Exit.USAGE
    assert "usage:" in capsys.readouterr().err


def test_no_verb_shows_the_help_with_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == Exit.USAGE
    help_text = capsys.readouterr().out
    for status in Exit:
        assert f"\n  {int(status)}  " in help_text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--version"])
    assert capsys.readouterr().out == f"modelyard {modelyard.__version__}\n"


def test_home_may_stand_before_and_after_the_verb(tmp_path: Path) -> None:
    for words in (["--home", "a", "status"], ["status", "--home", "a"], ["--home", "b", "status", "--home", "a"]):
        assert command.command_line().parse_args(words).home == "a"


@pytest.mark.parametrize(
    ("raised", "status", "shown"),
    [
        (InvalidInput("column 'Age' is odd"), 1, "error: column 'Age' is odd"),
        (Unreachable("nothing answers at http://x"), 4, "modelyard up"),
        (Unauthenticated("a key is needed"), 1, "modelyard keys create"),
        (FileNotFoundError(2, "No such file or directory", "rows.csv"), 1, "error: rows.csv: No such file"),
        (ModuleNotFoundError("no", name="django"), 1, "pip install"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_verb_ends_is_the_exit_status(
    raised: BaseException, status: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(context: Context) -> int:
        raise raised

    monkeypatch.setattr("modelyard.cli.look.run_status", fail)
    assert command.main(["status"]) == status
    streams = capsys.readouterr()
    assert shown in streams.err
    assert "Traceback" not in streams.err + streams.out


def test_a_fault_of_ours_goes_to_a_file_that_only_its_owner_reads(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(context: Context) -> int:
        raise RuntimeError("the reactor is on fire")

    monkeypatch.setattr("modelyard.cli.look.run_status", fail)
    assert command.main(["status"]) == Exit.FAILED
    shown = capsys.readouterr().err
    report = own_home / "logs" / "command.log"
    assert "Traceback" not in shown
    assert str(report) in shown
    assert "the reactor is on fire" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


def test_a_reader_that_closes_the_pipe_is_no_error() -> None:
    program = "import modelyard.cli.main as m, sys; sys.exit(m.main(['config', 'show']))"
    shell = f"'{sys.executable}' -c \"{program}\" | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def run_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    status = command.main(words)
    streams = capsys.readouterr()
    return status, json.loads(streams.out)


def test_config_shows_where_a_value_came_from(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_home.mkdir()
    (own_home / "modelyard.toml").write_text("workers = 3\n")
    monkeypatch.setenv("MODELYARD_GATEWAY_PORT", "8001")
    monkeypatch.setenv("MODELYARD_DATABASE_URL", "postgres://me:secret@db:5432/yard?password=secret")
    status, shown = run_json(["config", "show", "--json"], capsys)
    assert status == 0
    assert shown["gateway_port"] == {"value": 8001, "from": "MODELYARD_GATEWAY_PORT"}
    assert shown["workers"] == {"value": 3, "from": str(own_home / "modelyard.toml")}
    assert shown["host"] == {"value": "127.0.0.1", "from": "default"}
    assert "secret" not in json.dumps(shown)
    assert command.main(["config", "show"]) == 0
    assert "secret" not in capsys.readouterr().out


def test_a_setting_that_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_GATEWAY_PROT", "8001")
    assert command.main(["status"]) == Exit.FAILED
    assert "MODELYARD_GATEWAY_PROT: there is no setting 'gateway_prot'" in capsys.readouterr().err.replace("\n", " ")


def test_a_key_in_the_environment_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_KEY", "my_secret")
    assert command.main(["config", "show", "--json"]) == 0
    assert "my_secret" not in capsys.readouterr().out


def test_status_of_a_home_where_nothing_runs_is_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_CONTROL_PORT", "1")
    status, shown = run_json(["status", "--json"], capsys)
    assert status == Exit.UNREACHABLE
    assert shown["gateway"] == {"running": False}
    assert shown["control"] == {"url": "http://127.0.0.1:1", "running": False}
    assert (shown["plan"], shown["endpoints"]) == (None, [])


def test_doctor_says_ok_warn_or_fail_with_a_next_step(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = run_json(["doctor", "--json"], capsys)[1]
    assert {"python", "disk", "home", "gateway_port", "plan", "shelf", "clock"} <= {line["check"] for line in findings}
    assert all(line["level"] == "ok" or line["next_step"] for line in findings)


def test_doctor_fails_a_home_that_others_may_read(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert os.name == "posix", "a home lives on Linux or macOS"
    own_home.mkdir()
    own_home.chmod(0o755)
    status, shown = run_json(["doctor", "--json"], capsys)
    assert status == Exit.FAILED
    assert next(line for line in shown if line["check"] == "home")["level"] == "fail"


def test_an_open_address_without_keys_is_refused_before_anything_starts(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["up", "--host", "0.0.0.0"]) == Exit.FAILED
    assert "--require-keys" in capsys.readouterr().err
    assert not own_home.exists()


def test_words_come_in_the_terminals_language(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_CONTROL_PORT", "1")
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    command.main(["status"])
    assert "未运行" in capsys.readouterr().out
    command.main(["status", "--lang", "en"])
    assert "does not run" in capsys.readouterr().out


def test_an_error_keeps_its_notes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = ModelyardError("no")
    error.add_note("request id 42")

    def fail(context: Context) -> int:
        raise error

    monkeypatch.setattr("modelyard.cli.look.run_status", fail)
    command.main(["status"])
    assert "request id 42" in capsys.readouterr().err
