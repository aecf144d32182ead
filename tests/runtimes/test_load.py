"""`modelyard.load` in the caller's own process: the same answers, without Django."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import modelyard
from modelyard.artifacts.names import publish_names
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.runtimes.load import LoadedModel
from modelyard.secure.signing import signer
from modelyard.train.recipe import Recipe
from modelyard.train.run import train


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    age, income = random.integers(18, 80, 400), random.normal(100, 30, 400).round(1)
    bad = random.random(400) < 1 / (1 + np.exp((age - 35) / 10 + (income - 90) / 20))
    return pl.DataFrame({"age": age, "income": income, "bad": np.where(bad, "yes", "no")})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, table: pl.DataFrame) -> Path:
    root = tmp_path_factory.mktemp("home")
    recipe = Recipe(candidates=("logistic",), folds=2, bootstrap=50)
    trained = train(table, recipe, name="risk", target="bad", positive="yes")
    digest = Shelf(Home(root).shelf).put(trained.manifest, trained.files)
    names = {"risk:champion": digest, "risk:1": digest, "risk:12": digest}
    publish_names(Home(root), names, signer(Home(root).keys))
    return root


@pytest.fixture
def model(home: Path) -> Any:
    with modelyard.load("risk:1", home=home) as model:
        yield model


def test_one_row_many_rows_and_frames_agree(model: LoadedModel, table: pl.DataFrame) -> None:
    rows = table.drop("bad")
    many = model.predict(rows.to_dicts())
    assert [model.predict(row).probability for row in rows.head(20).to_dicts()] == pytest.approx(
        [answer.probability for answer in many[:20]], abs=1e-6
    )
    assert model.predict(rows) == many
    assert model.predict(rows.to_pandas()) == many
    assert [answer.row for answer in many] == list(range(len(many)))


def test_decision_score_and_reasons(model: LoadedModel) -> None:
    risky, safe = model.predict([{"age": 19, "income": 40.0}, {"age": 70, "income": 160.0}])
    assert (risky.decision, safe.decision) == ("yes", "no")
    assert risky.score is not None
    assert safe.score is not None
    assert risky.score < safe.score
    assert [reason.column for reason in risky.reasons]
    assert safe.reasons == ()
    assert model.predict({"age": 19, "income": 40.0}, reasons="none").reasons == ()
    all_told = model.predict([{"age": 70, "income": 20.0}], reasons="all", language="zh")[0]
    assert {reason.column for reason in all_told.reasons} == {"income"}


def test_contributions_sum_to_the_log_odds(model: LoadedModel) -> None:
    row = {"age": 30, "income": 80.0}
    told = model.explain(row)
    probability = model.predict(row).probability
    assert probability is not None
    assert told.base + sum(told.contributions.values()) == pytest.approx(
        np.log(probability / (1 - probability)), abs=1e-4
    )


def test_a_wrong_row_is_refused_as_behind_the_gateway(model: LoadedModel) -> None:
    with pytest.raises(InvalidInput) as caught:
        model.predict([{"age": 30, "income": 80.0}, {"age": "old", "income": 80.0}])
    assert [(violation.row, violation.column, violation.rule) for violation in caught.value.violations] == [
        (1, "age", "type")
    ]
    with pytest.raises(InvalidInput):
        model.predict({"age": 30, "income": 80.0}, reasons="some")


def test_names_aliases_and_folders(home: Path) -> None:
    for name, version in (("risk", 12), ("risk:champion", 12), ("risk:1", 1)):
        with modelyard.load(name, home=home) as model:
            assert model.version == version
            assert "risk" in repr(model)
    folder = home / "shelf" / model.digest
    for given in (folder, str(folder)):
        with modelyard.load(given) as opened:
            assert (opened.digest, opened.version) == (model.digest, 0)
    for absent in ("risk:2", "other"):
        with pytest.raises(NotFound):
            modelyard.load(absent, home=home)
    with pytest.raises(NotFound):
        modelyard.load(home / "nothing")


def test_no_row_is_no_answer(model: LoadedModel) -> None:
    assert model.predict([]) == []


def test_it_wakes_neither_django_nor_the_workshop(home: Path) -> None:
    program = (
        "import modelyard, sys; modelyard.load('risk', home=sys.argv[1]).predict({'age': 30, 'income': 80.0});"
        "print({'django', 'pandas', 'polars', 'sklearn', 'lightgbm', 'onnx', 'modelyard.control'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(home)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
