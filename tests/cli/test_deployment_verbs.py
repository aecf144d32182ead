"""The verbs of what answers, in this process: what they change, what they say, and who may approve."""

import json
from pathlib import Path

import pytest

from modelyard.artifacts.manifest import Lineage, Manifest
from modelyard.cli import main as command
from modelyard.cli.context import Context
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.plan import Lease, PlannedEndpoint, Shadow
from modelyard.contract.settings import Settings
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.control.deployments.reading import read_plan

AGE = Column("age", "number")


@pytest.fixture
def desk(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with three versions of `scores`, the first deployed; the third asks for one column more."""
    from modelyard.control.setup import start

    start(Settings(home=str(own_home)))
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.work import register_packaged

    for seed in (1, 2, 3):
        columns = (AGE, Column("income", "number")) if seed == 3 else (AGE,)
        manifest = Manifest(
            model="scores",
            task="binary",
            framework="logistic",
            runtime="onnx",
            created_at="2026-01-01T00:00:00+00:00",
            files={},
            signature=Signature((TensorSpec("age", "FP64", (-1,)),), (TensorSpec("probability", "FP32", (-1,)),)),
            contract=Contract(columns),
            lineage=Lineage(seed=seed),
        )
        register_packaged(manifest, {"model.onnx": b"graph %d" % seed}, by="test")
    deploy("scores", 1, by="test")
    monkeypatch.setattr(Context, "by", "local:li")
    yield Home(own_home)
    from django.db import connections

    connections.close_all()


def planned(home: Home) -> PlannedEndpoint:
    plan = read_plan(home)
    assert plan is not None
    return plan.endpoints[0]


def run(words: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    """Everything that the command says, on one line each."""
    from shlex import split

    assert command.main(split(words)) == status, capsys.readouterr().err
    streams = capsys.readouterr()
    return streams.out + streams.err


def test_traffic_is_shared_and_stays_sticky(desk: Home, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("traffic scores 1=90 2=10 --sticky-by X-Customer", capsys)
    assert "1: 90 %, 2: 10 %" in said
    assert "same X-Customer, same version" in said
    run("traffic scores champion=50 2=50", capsys)
    assert (planned(desk).split.weights, planned(desk).split.sticky_by) == ({1: 50, 2: 50}, "X-Customer")
    run("traffic scores 1=50 2=50 --not-sticky", capsys)
    assert planned(desk).split.sticky_by is None
    assert "answers with scores version 2" in run("deploy scores --version 2", capsys)
    assert "answers with scores version 1" in run("rollback scores", capsys)


def test_a_wrong_share_is_refused(desk: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sum to 90, not to 100" in run("traffic scores 1=80 2=10", capsys, 1)
    assert "version 1 is named twice" in run("traffic scores 1=50 champion=50", capsys, 1)
    assert "no such column" in run("traffic scores 1=50 2=50 --sticky-by column:id", capsys, 1)
    for words in ("1", "1=", "=10", "1=101", "1=-1"):
        with pytest.raises(SystemExit):
            command.main(["traffic", "scores", words])
    assert planned(desk).split.weights == {1: 100}


def test_what_breaks_callers_needs_a_reason(desk: Home, capsys: pytest.CaptureFixture[str]) -> None:
    from modelyard.control.registry.models import Event

    assert "it requires column 'income'" in run("deploy scores", capsys, 1)
    run("deploy scores --force 'they send it'", capsys)
    event = Event.objects.filter(verb="deploy").first()
    assert (event.by, event.details["forced"]) == ("local:li", "they send it")


def test_a_shadow_begins_and_ends(desk: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "copies of 5 % of the calls" in run("shadow scores 2 --percent 5", capsys)
    assert planned(desk).shadow == Shadow(2, 5)
    run("shadow scores --off", capsys)
    assert planned(desk).shadow is None
    for wrong in ("shadow scores", "shadow scores 2 --off", "shadow scores 2 --percent 0"):
        run(wrong, capsys, 1)


def test_two_people_collide(desk: Home, capsys: pytest.CaptureFixture[str]) -> None:
    seen = json.loads(run("endpoint show scores --json", capsys))["revision"]
    run(f"traffic scores 1=90 2=10 --expect {seen}", capsys)
    assert "was changed meanwhile" in run(f"traffic scores 1=80 2=20 --expect {seen}", capsys, 1)
    assert planned(desk).split.weights == {1: 90, 2: 10}
    assert f"revision {seen + 1}" in run("endpoint show scores", capsys)


def test_an_endpoint_is_configured_in_parts(desk: Home, capsys: pytest.CaptureFixture[str]) -> None:
    from modelyard.control.deployments.services import set_lease

    run("endpoint configure scores --max-rows 50", capsys)
    run("endpoint configure scores --default", capsys)
    assert (planned(desk).max_rows, read_plan(desk).default_endpoint) == (50, "scores")
    run("endpoint configure scores --max-rows none --no-default", capsys)
    assert (planned(desk).max_rows, read_plan(desk).default_endpoint) == (None, None)
    assert "has no decision" in run("endpoint configure scores --cutoff 0.3", capsys, 1)
    set_lease("scores", 30.0, by="test")
    assert planned(desk).lease == Lease(30.0, 1)
    assert "for 30 s, version 1 gets all calls" in run("endpoint show scores", capsys)


def test_an_approval_is_missing_then_given(
    desk: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission

    from modelyard.control.accounts.services import create_token

    run("endpoint configure scores --needs-approval", capsys)
    said = run("traffic scores 1=90 2=10", capsys)
    assert "change 1 waits: modelyard approve 1" in said
    assert planned(desk).split.weights == {1: 100}
    assert "traffic 1=90 2=10" in run("changes", capsys)
    (waiting,) = json.loads(run("changes --json", capsys))
    assert (waiting["id"], waiting["by"], waiting["status"]) == (1, "local:li", "waiting")

    assert "no terminal" in run("approve 1 --as wang", capsys, 1)
    users = get_user_model().objects
    wang, li = (users.create_user(name, password="a long enough password") for name in ("wang", "li"))
    monkeypatch.setenv("MODELYARD_TOKEN", create_token(wang)[1])
    refused = run("approve 1 --as wang", capsys, 1)
    assert "has not the permission deployments.approve_change" in refused
    assert "keys list" not in refused  # that is of the gateway's keys
    for user in (wang, li):
        user.user_permissions.add(Permission.objects.get(codename="approve_change"))
    assert "is not that of 'li'" in run("approve 1 --as li", capsys, 1)
    monkeypatch.setenv("MODELYARD_TOKEN", create_token(li)[1])
    assert "another principal approves it" in run("approve 1 --as li", capsys, 1)
    monkeypatch.setenv("MODELYARD_TOKEN", create_token(wang)[1])
    said = run("approve 1 --as wang", capsys)
    assert "asked for by local:li, is approved by wang and done" in said
    assert planned(desk).split.weights == {1: 90, 2: 10}

    for words in ("rollback scores", "undeploy scores", "deploy scores --version 2", "shadow scores 3"):
        run(words, capsys, 1 if words.startswith("shadow") else 0)  # version 3 would refuse calls
    assert "change 2: rejected" in run("reject 2 --as wang --reason 'not today'", capsys)
    assert "change 3: withdrawn" in run("reject 3", capsys)
    assert "approved" in run("changes --all", capsys)
    assert "was withdrawn by local:li already" in run("approve 3 --as wang", capsys, 1)
    assert planned(desk).split.weights == {1: 90, 2: 10}


def test_a_password_is_asked_for_on_the_terminal(
    desk: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelyard.control.accounts.services import ensure_admin

    password = ensure_admin()
    run("endpoint configure scores --needs-approval", capsys)
    run("undeploy scores", capsys)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or password)
    run("approve 1 --as admin", capsys)
    assert asked == ["password of admin: "]
    assert read_plan(desk).endpoints == ()


def test_the_log_says_whose_command_it_was(desk: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass

    monkeypatch.undo()
    args = command.command_line().parse_args(["changes"])
    assert Context(args).by == f"local:{getpass.getuser()}"
