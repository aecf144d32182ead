"""Verbs that name, tag, compare and look back, on a home with two versions; through the command itself."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.versions import CONTRACT, store
from modelyard.artifacts.names import resolve
from modelyard.artifacts.store import Shelf
from modelyard.cli import main as command
from modelyard.cli.exits import Exit
from modelyard.contract.encoding import Encoder
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.contract.telemetry import Feedback, Prediction, frame
from modelyard.secure.request_ids import request_ids


class Desk:
    """The command on one home, and what it printed."""

    def __init__(self, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def run(self, *words: str, status: int = Exit.OK) -> str:
        self._capsys.readouterr()
        got = command.main(list(words))
        streams = self._capsys.readouterr()
        assert got == status, streams.err
        self.err = streams.err
        return streams.out

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))


@pytest.fixture
def desk(own_home: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    from modelyard.control.setup import start

    start(Settings(home=str(own_home)))
    from modelyard.control.registry.services import CHAMPION, register_version, set_alias

    home = Home(own_home)
    shelf = Shelf(home.shelf)
    for base in (0.0, 0.5):
        digest = store(shelf, base)
        register_version(shelf.open(digest).manifest, digest, "li")
    set_alias("loans", CHAMPION, 1, "li")
    return Desk(home, capsys)


def test_an_alias_is_pointed_and_taken_away(desk: Desk) -> None:
    assert desk.run("alias", "loans", "challenger", "2") == "loans:challenger is version 2\n"
    assert resolve(desk.home, "loans:challenger") == resolve(desk.home, "loans:2")
    desk.run("alias", "loans", "best", "challenger")
    assert desk.json("models", "list")[0]["aliases"] == {"best": 2, "challenger": 2, "champion": 1}
    desk.run("alias", "loans", "best", "--remove")
    assert "best" not in desk.json("models", "list")[0]["aliases"]
    for words in (["loans", "best"], ["loans", "best", "1", "--remove"], ["loans", "best", "--remove"]):
        desk.run("alias", *words, status=Exit.FAILED)
    verbs = [(event["verb"], event["details"]["alias"]) for event in desk.json("history", "loans", "--limit", "2")]
    assert verbs == [("remove_alias", "best"), ("set_alias", "best")]


def test_tags_narrow_the_list(desk: Desk) -> None:
    assert desk.json("tag", "loans", "team=risk") == {"team": "risk"}
    assert desk.json("tag", "loans:2", "stage=trial", "tier=1") == {"stage": "trial", "tier": "1"}
    assert "stage" in desk.run("tag", "loans:2")
    assert desk.json("tag", "loans:2", "--remove", "tier") == {"stage": "trial"}
    (model,) = desk.json("models", "list", "--tag", "stage=trial")
    assert [version["number"] for version in model["versions"]] == [2]
    (model,) = desk.json("models", "list", "--tag", "team=risk")
    assert [version["number"] for version in model["versions"]] == [2, 1]
    shown = desk.run("models", "list", "loans")
    assert "stage=trial, team=risk" in shown
    assert desk.run("models", "list", "--tag", "stage=live") == ""
    assert "no version is like that" in desk.err
    desk.run("tag", "loans", "team=risk", "--remove", "team", status=Exit.FAILED)
    desk.run("tag", "loans", "team", status=Exit.FAILED)


def test_a_long_list_is_cut_for_people_and_whole_for_programs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.cli.models.SHOWN_VERSIONS", 1)
    assert len(desk.run("models", "list").splitlines()) == 2  # the headings, and the newest
    assert "1 more" in desk.err
    assert len(desk.json("models", "list")[0]["versions"]) == 2
    assert len(desk.json("models", "list", "--limit", "1")[0]["versions"]) == 1
    with pytest.raises(SystemExit):
        command.main(["models", "list", "--limit", "0"])


def test_a_version_that_cannot_serve_says_so(desk: Desk) -> None:
    from modelyard.control.registry.models import Version

    assert "removed" not in desk.run("models", "list")
    Version.objects.filter(number=2).update(status=Version.Status.REMOVED, trusted=True)
    assert "logistic (trusted code, removed)" in desk.run("models", "list")


def test_what_was_described_is_shown(desk: Desk) -> None:
    assert desk.run("models", "describe", "loans", "who pays back") == "loans is described\n"
    desk.run("models", "describe", "loans:2", "bolder in the north")
    assert desk.json("models", "list")[0]["description"] == "who pays back"
    desk.run("tag", "loans:2", "stage=trial")
    shown = desk.run("models", "show", "loans:2")
    assert "bolder in the north" in shown
    assert "tags stage=trial" in shown
    assert "by li" in shown
    assert desk.json("models", "show", "loans:2")["note"] == "bolder in the north"


def test_two_versions_are_compared(desk: Desk) -> None:
    found = desk.json("models", "compare", "loans", "champion", "2")
    assert (found["a"]["version"], found["b"]["version"], found["timing"]) == (1, 2, None)
    assert not found["same_artifact"]
    shown = desk.run("models", "compare", "loans", "1", "2")
    assert "the same for callers" in shown
    assert "both are the same artifact" in desk.run("models", "compare", "loans", "1", "1")
    desk.run("models", "compare", "loans", "1", "9", status=Exit.FAILED)


def test_two_versions_are_timed(desk: Desk) -> None:
    sizes = desk.json("models", "compare", "loans", "1", "2", "--measure")["timing"]["sizes"]
    assert [one["rows"] for one in sizes] == [1, 64]
    assert "ratio" in desk.run("models", "compare", "loans", "1", "2", "--measure")


def test_what_served_at_an_instant_and_who_wanted_it_so(desk: Desk) -> None:
    from datetime import UTC, datetime

    from modelyard.contract.plan import TrafficSplit
    from modelyard.control.deployments.services import deploy, set_traffic

    deploy("loans", 1, by="li")
    then = datetime.now(UTC).isoformat()
    set_traffic("loans", TrafficSplit({1: 70, 2: 30}), by="wu")
    (state,) = desk.json("history", "loans", "--at", then)
    assert (state["endpoint"], state["weights"], state["by"], state["verb"]) == ("loans", {"1": 100}, "li", "deploy")
    (state,) = desk.json("history", "loans", "--at", datetime.now(UTC).isoformat())
    assert (state["weights"], state["by"]) == ({"1": 70, "2": 30}, "wu")
    shown = desk.run("history", "loans", "--at", datetime.now(UTC).isoformat())
    assert "wu" in shown
    assert "30" in shown
    assert desk.json("history", "loans", "--at", "2020-01-01") == []
    assert desk.run("history", "loans", "--at", "2020-01-01") == ""
    assert "the log begins later" in desk.err
    log = desk.run("history", "loans")
    assert "weights 1=70, 2=30" in log
    desk.run("history", "loans", "--at", "yesterday", status=Exit.FAILED)
    desk.run("history", "nobody", status=Exit.FAILED)


@pytest.fixture
def answered(desk: Desk) -> Prediction:
    from modelyard.control.deployments.services import deploy

    deploy("loans", 1, by="li")
    made = request_ids(desk.home.keys).new("anonymous", "loans")
    inputs = Encoder(CONTRACT).encode_rows([CONTRACT.example]).astype("<f4").tobytes()
    outputs = np.array([0.25], "<f4").tobytes()
    now = time.time_ns()
    record = Prediction(made, now, "loans", 1, 99, "anonymous", 1, inputs, outputs, 1_500_000, "order-7")
    truth = Feedback(made, now + 1, "loans", "anonymous", "bad")
    path = desk.home.records / f"worker-0-{now:020d}.records"
    path.write_bytes(frame(record) + frame(truth))
    return record


def test_an_answer_is_traced(desk: Desk, answered: Prediction) -> None:
    (one,) = desk.json("trace", answered.request_id)["requests"]
    assert (one["endpoint"], one["version"], one["put_there"]["by"], one["seen"]) == ("loans", 1, "li", None)
    assert [truth["truth"] for truth in one["feedback"]] == ["bad"]
    shown = desk.run("trace", "order-7")
    for fact in (answered.request_id, "loans version 1", "put there by li: deploy, 100 %", "in 1.5 ms", "to be bad"):
        assert fact in shown
    assert "rent" not in shown
    assert "0.25" not in shown


def test_inputs_are_shown_when_asked_for_and_that_is_written_down(desk: Desk, answered: Prediction) -> None:
    from modelyard.control.accounts.models import AuditEvent

    shown = desk.run("trace", answered.request_id, "--inputs")
    assert "rent" in shown
    assert "0.25" in shown
    (row,) = desk.json("trace", answered.request_id, "--inputs")["requests"][0]["seen"]["rows"]
    assert row == CONTRACT.example
    looked = AuditEvent.objects.filter(verb="trace_inputs")
    assert {(event.principal[:6], event.object) for event in looked} == {("local:", answered.request_id)}


def test_an_id_without_a_record_says_what_it_proves(desk: Desk, answered: Prediction) -> None:
    ids = request_ids(desk.home.keys)
    shown = desk.run("trace", ids.new("anonymous", "loans"))
    assert "is genuine: anonymous got it from endpoint loans" in shown
    assert "records reach back to" in shown
    assert "refused before it reached an endpoint" in desk.run("trace", ids.new("", ""))
    desk.run("trace", "0" * 32, status=Exit.FAILED)
    assert "did not make this id" in desk.err
    desk.run("trace", "never-sent", status=Exit.FAILED)


def test_it_is_said_in_chinese(desk: Desk, answered: Prediction) -> None:
    assert "上线：li" in desk.run("trace", answered.request_id, "--lang", "zh")
    assert "指向版本 2" in desk.run("alias", "loans", "challenger", "2", "--lang", "zh")
