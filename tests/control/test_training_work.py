"""From a table to a registered version, in this process and as a job; and what a second training changes."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.artifacts.names import resolve
from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.control.setup import active_settings
from modelyard.train.recipe import Recipe

QUICK = Recipe(candidates=("logistic",), folds=2, bootstrap=50)


@pytest.fixture
def table(home: Home) -> Path:
    """A table in the home that can be learned from."""
    dice = random.Random(7)
    rows = ["age,income,status"]
    for _ in range(400):
        age, income = dice.randint(18, 80), dice.randint(500, 9000)
        bad = dice.random() < 1 / (1 + 2.7 ** ((income - 2500) / 900))
        rows.append(f"{age},{income},{'bad' if bad else 'good'}")
    path = home.root / "tables" / "loans.csv"
    path.parent.mkdir()
    path.write_text("\n".join(rows))
    return path


def test_the_first_is_champion_and_the_next_a_challenger(home: Home, table: Path) -> None:
    from modelyard.control.registry.services import find_version
    from modelyard.control.training.models import Run
    from modelyard.control.training.work import run_training

    first, trained = run_training(table, name="loans", target="status", positive="bad", recipe=QUICK, by="li")
    assert (first.number, first.created_by) == (1, "li")
    assert first.metrics == trained.manifest.metrics
    run = Run.objects.get()
    assert (run.status, run.version_id, run.source, run.recipe["folds"]) == ("succeeded", first.pk, "loans.csv", 2)
    assert "registered: loans version 1" in run.log
    again = Recipe(candidates=("logistic",), folds=3, bootstrap=50)
    second, _ = run_training(table, name="loans", target="status", positive="bad", recipe=again)
    assert find_version("loans").number == 1
    assert find_version("loans", "challenger") == second
    assert resolve(home, "loans:challenger") == second.digest


def test_a_failed_training_is_kept_with_its_reason(table: Path) -> None:
    from modelyard.control.training.models import Run
    from modelyard.control.training.work import run_training

    with pytest.raises(InvalidInput):
        run_training(table, name="loans", target="nothing", recipe=QUICK)
    run = Run.objects.get()
    assert run.status == "failed"
    assert "nothing" in run.error


def test_a_frame_is_a_table_too(home: Home, table: Path) -> None:
    import pandas as pd

    from modelyard.control.training.work import run_training

    version, _ = run_training(pd.read_csv(table), name="loans", target="status", positive="bad", recipe=QUICK)
    assert version.number == 1
    with pytest.raises(InvalidInput, match="data frame"):
        run_training([1, 2], name="loans", target="status")


def test_a_run_that_was_asked_for_is_done_by_the_runner(home: Home, table: Path) -> None:
    from modelyard.control.jobs.services import find_job
    from modelyard.control.runner import Runner
    from modelyard.control.training.services import find_run, request_run

    recipe = {"candidates": ["logistic"], "folds": 2, "bootstrap": 50}
    run = request_run(by="li", name="loans", table=table.name, target="status", positive="bad", recipe=recipe)
    runner = Runner(active_settings())
    runner.turn()
    try:
        runner.running[0].process.wait(60)
        runner.turn()
    finally:
        runner.give_back()
    job, run = find_job(run.job_id), find_run(run.pk)
    assert (job.status, job.error) == ("succeeded", ""), job.log
    assert (run.status, run.version.number, run.created_by) == ("succeeded", 1, "li")
    assert job.result["version"] == 1
    assert "parity" in job.log


def test_the_same_blueprint_is_not_trained_twice(home: Home, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control.training import work
    from modelyard.train.recipe import Blueprint

    package = home.root.parent / "ready_loans"
    package.mkdir()
    (package / "__init__.py").write_text('"""A ready table."""\n')
    (package / "loans.csv").write_bytes(table.read_bytes())
    monkeypatch.syspath_prepend(str(package.parent))
    ready = Blueprint("loans", {"en": "Loans"}, "ready_loans", "loans.csv", "status", "bad", recipe=QUICK)
    monkeypatch.setattr(work, "blueprint_named", lambda name: ready)
    first, artifact = work.run_blueprint("loans")
    assert artifact.digest == first.digest
    monkeypatch.setattr(work, "train", None)  # a second training would break
    steps: list[str] = []

    class Listener:
        def step(self, title: str, detail: str = "") -> None:
            steps.append(title)

        def tick(self, done: int, total: int) -> None: ...

    second, again = work.run_blueprint("loans", Listener())
    assert (second, again.digest) == (first, artifact.digest)
    assert steps == ["already trained"]


@pytest.mark.parametrize("name", ["../loans.csv", "/etc/passwd", "sub/loans.csv", "", ".", "..", ".hidden", "link.csv"])
def test_no_path_leads_out_of_the_tables(table: Path, name: str) -> None:
    from modelyard.contract.errors import ModelyardError
    from modelyard.control.training.services import table_named

    (table.parent / "link.csv").symlink_to("/etc/passwd")
    with pytest.raises(ModelyardError):
        table_named(name)
    assert table_named("loans.csv") == table


def test_runs_end_with_their_jobs(home: Home, table: Path) -> None:
    from modelyard.control.jobs.services import cancel
    from modelyard.control.training.services import close_lost_runs, find_run, request_run

    run = request_run(by="li", name="loans", table=table.name, target="status")
    cancel(run.job_id, by="li")
    assert close_lost_runs() == 1
    assert find_run(run.pk).status == "failed"


def test_the_web_process_sleeps_through_the_heavy_rooms(home: Home) -> None:
    heavy = ["lightgbm", "sklearn", "pandas", "polars", "onnxruntime", "xgboost", "modelyard.serve", "modelyard.data"]
    program = f"""
import sys
import modelyard.control.wsgi
from django.urls import get_resolver
get_resolver().url_patterns
import modelyard.control.main, modelyard.control.runner
print([name for name in {heavy!r} if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"
