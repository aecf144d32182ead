"""The command's own story on a small table, through real processes: train, deploy, up, predict, keys, stop."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from modelyard.cli.exits import Exit
from modelyard.client import Client
from modelyard.contract.errors import Unauthenticated

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


class Desk:
    """One home with ports of its own, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            self.gateway_port, self.control_port = one.getsockname()[1], two.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
        self.environment = kept | {
            "MODELYARD_HOME": str(self.home),
            "MODELYARD_GATEWAY_PORT": str(self.gateway_port),
            "MODELYARD_GRPC_PORT": "0",
            "MODELYARD_CONTROL_PORT": str(self.control_port),
            "MODELYARD_WORKERS": "1",
            "LANG": "C.UTF-8",
        }
        self.url = f"http://127.0.0.1:{self.gateway_port}"

    def run(self, *words: str, status: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "modelyard.cli.main", *words],
            env=self.environment | more,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    random = np.random.default_rng(0)
    age, income = random.integers(18, 80, 400), random.normal(100, 30, 400).round(1)
    bad = random.random(400) < 1 / (1 + np.exp((age - 35) / 10 + (income - 90) / 20))
    table = pl.DataFrame({"age": age, "income": income, "bad": np.where(bad, "yes", "no")})
    table.write_csv(desk.folder / "table.csv")
    return desk


@pytest.fixture(scope="module")
def trained(desk: Desk) -> Any:
    answer = desk.json("train", "table.csv", "--target", "bad", "--name", "risk", "--candidates", "logistic")
    return answer


@pytest.fixture(scope="module")
def up(desk: Desk, trained: Any) -> Iterator[subprocess.Popen[str]]:
    deployed = desk.run("deploy", "risk")
    assert "modelyard up" in deployed.stderr  # no gateway runs yet: it says when it will be served
    command = [sys.executable, "-m", "modelyard.cli.main", "up", "--require-keys"]
    with subprocess.Popen(command, env=desk.environment, stdout=subprocess.PIPE, text=True, cwd=desk.folder) as process:
        assert process.stdout
        first = process.stdout.readline()  # printed once the gateway serves and control has had its time
        assert desk.url in first
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert str(desk.control_port) in process.stdout.read()
    assert desk.run("status", status=Exit.UNREACHABLE)


@pytest.fixture(scope="module")
def key(desk: Desk, up: subprocess.Popen[str]) -> str:
    return desk.run("keys", "create", "tester", "--scopes", "infer,explain").stdout.strip()


def test_training_says_what_it_made(desk: Desk, trained: Any) -> None:
    assert (trained["model"], trained["version"]) == ("risk", 1)
    assert {"auc", "ks", "gini", "log_loss", "brier"} <= trained["metrics"].keys()
    assert [model["model"] for model in desk.json("models", "list")] == ["risk"]
    shown = desk.json("models", "show", "risk:champion")
    assert (shown["version"], shown["digest"], shown["aliases"]) == (1, trained["digest"], {"champion": 1})
    assert "income" in desk.run("models", "show", "risk").stdout


def test_a_contract_can_be_edited_and_given_back(desk: Desk, trained: Any) -> None:
    toml = desk.run("contract", "table.csv", "--target", "bad").stdout
    (desk.folder / "contract.toml").write_text(toml.replace("maximum = ", "maximum = 9"))
    words = ["--target", "bad", "--name", "edited", "--candidates", "logistic", "--contract", "contract.toml"]
    desk.json("train", "table.csv", *words)
    assert (
        desk.json("models", "show", "edited")["manifest"]["contract"]
        != desk.json("models", "show", "risk")["manifest"]["contract"]
    )


@pytest.mark.usefixtures("up")
def test_status_says_what_runs(desk: Desk) -> None:
    status = desk.json("status")
    assert status["gateway"]["running"]
    assert status["control"] == {"url": f"http://127.0.0.1:{desk.control_port}", "running": True}
    assert status["endpoints"] == [
        {"name": "risk", "model": "risk", "versions": {"1": 100}, "aliases": {"champion": 1}}
    ]


def test_a_file_through_the_gateway(desk: Desk, key: str) -> None:
    rows = "id,age,income,note\na,30,80.5,x\nb,-1,80,y\nc,70,,z\nd,many,90,\ne,45,120,w\n"
    (desk.folder / "rows.csv").write_text(rows)
    done = desk.run("predict", "risk", "--data", "rows.csv", "--output", "out.csv", status=3, MODELYARD_KEY=key)
    assert "out.rejected.csv" in done.stderr
    with open(desk.folder / "out.csv", newline="", encoding="utf-8") as file:
        answered = list(csv.DictReader(file))
    assert [(row["id"], row["note"]) for row in answered] == [("a", "x"), ("e", "w")]
    with open(desk.folder / "out.rejected.csv", newline="", encoding="utf-8") as file:
        refused = {row["row"]: row["refused_because"] for row in csv.DictReader(file)}
    assert refused.keys() == {"2", "3", "4"}
    assert "age: must be at least 0" in refused["2"]
    with Client(desk.url, key=key) as client:
        answer = client.endpoint("risk").predict({"age": 30, "income": 80.5})
    assert float(answered[0]["probability"]) == pytest.approx(answer.probability, abs=1e-6)


def test_without_a_key_it_says_how_to_make_one(desk: Desk, key: str) -> None:
    (desk.folder / "one.csv").write_text("age,income\n30,80\n")
    done = desk.run("predict", "risk", "--data", "one.csv", status=1)
    assert "modelyard keys create" in done.stderr
    done = desk.run("predict", "risk", "--data", "one.csv", "--json", MODELYARD_KEY=key)
    assert json.loads(done.stdout)["predictions"][0]["row"] == 1
    done = desk.run("predict", "risk", "--data", "one.csv", "--url", "http://127.0.0.1:1", status=4)
    assert "modelyard up" in done.stderr


def test_a_revoked_key_is_refused_once_the_command_returns(desk: Desk, key: str) -> None:
    other = json.loads(desk.run("keys", "create", "short", "--expires", "1h", "--json").stdout)
    with Client(desk.url, key=other["key"]) as client:
        client.endpoint("risk").predict({"age": 30, "income": 80})
        desk.run("keys", "revoke", other["id"])
        with pytest.raises(Unauthenticated):
            client.endpoint("risk").predict({"age": 30, "income": 80})
    states = {entry["id"]: entry["state"] for entry in desk.json("keys", "list")}
    assert states[other["id"]] == "revoked"
    assert other["key"] not in desk.run("keys", "list").stdout


@pytest.mark.usefixtures("up")
def test_a_second_up_is_refused_and_harms_nothing(desk: Desk) -> None:
    assert "runs already" in desk.run("up", status=1).stderr
    assert desk.json("status")["gateway"]["running"]


@pytest.mark.usefixtures("up")
def test_logs_and_doctor(desk: Desk) -> None:
    assert "plan served" in desk.run("logs", "gateway").stdout
    assert [line for line in desk.json("doctor") if line["level"] == "fail"] == []
