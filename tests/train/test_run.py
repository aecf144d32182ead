"""From a table to a proven version: what comes out, and that it comes out the same again."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column
from modelyard.data.contracts import infer_contract
from modelyard.runtimes.version import LoadedVersion
from modelyard.train.recipe import DecisionTemplate, Recipe, TreeRecipe
from modelyard.train.run import Trained, train

QUICK = Recipe(lightgbm=TreeRecipe(max_rounds=40, learning_rate=0.1), bootstrap=50, folds=3)


def make_table(rows: int = 700) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    income = np.exp(rng.normal(3, 1, rows))
    home = rng.choice(["own", "rent", "other: a, b"], rows, p=[0.5, 0.4, 0.1])
    age = rng.integers(18, 80, rows)
    sex = rng.choice(["f", "m"], rows)
    z = -1 - 0.8 * (np.log(income) - 3) + 1.2 * (home == "rent") + 0.5 * (age < 25) * (home == "rent")
    status = np.where(rng.random(rows) < 1 / (1 + np.exp(-z)), "bad", "good")
    stated = [None if i % 9 == 0 else float(v) for i, v in enumerate(income)]
    return pl.DataFrame({"income": stated, "home": home, "age": age, "sex": sex, "one": 1, "status": status})


@pytest.fixture(scope="module", params=["lightgbm", "logistic", "scorecard"])
def trained(request: pytest.FixtureRequest) -> Trained:
    recipe = msgspec.structs.replace(QUICK, candidates=(request.param,))
    return train(make_table(), recipe, name="toy", target="status")


def opened(trained: Trained, folder: Path) -> LoadedVersion:
    shelf = Shelf(folder)
    return LoadedVersion(shelf.open(shelf.put(trained.manifest, trained.files)))


def test_the_served_version_answers_as_the_trained_one(trained: Trained, tmp_path: Path) -> None:
    version = opened(trained, tmp_path)
    holdout = msgspec.json.decode(trained.files["holdout.json"])
    assert holdout["total"] == len(holdout["rows"]) == trained.manifest.metrics["test_rows"]
    matrix = version.encoder.encode_rows([entry["row"] for entry in holdout["rows"]])
    wanted = np.array([entry["probability"] for entry in holdout["rows"]])
    np.testing.assert_allclose(version.predict(matrix)["probability"], wanted, atol=1e-5)
    one, single = version.encoder.decode_json(msgspec.json.encode(holdout["rows"][0]["row"]), 1)
    assert single
    np.testing.assert_allclose(version.predict(one)["probability"], wanted[:1], atol=1e-5)


def test_the_explanation_adds_up_to_the_answer(trained: Trained, tmp_path: Path) -> None:
    version = opened(trained, tmp_path)
    rows = [entry["row"] for entry in msgspec.json.decode(trained.files["holdout.json"])["rows"]]
    matrix = version.encoder.encode_rows(rows)
    explained = version.explain(matrix)
    assert explained is not None
    log_odds = explained.sum(axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), version.predict(matrix)["probability"], atol=1e-5)


def test_what_a_version_says_of_itself(trained: Trained) -> None:
    manifest = trained.manifest
    assert manifest.parity is not None
    assert manifest.parity.max_error <= 1e-5
    assert manifest.parity.edge_rows > 5
    assert manifest.framework == trained.report["chosen"]
    assert {"auc", "ks", "gini", "log_loss", "brier", "ece", "auc_low", "auc_high", "oof_auc"} <= set(manifest.metrics)
    assert manifest.metrics["auc_low"] < manifest.metrics["auc"] < manifest.metrics["auc_high"]
    assert {column.name: column.role for column in manifest.contract.columns if column.role != "feature"} == {
        "sex": "sensitive",
        "one": "unused",
    }
    assert set(trained.report["groups"]["sex"]) == {"f", "m"}
    card = trained.files["card.md"].decode()
    assert "95 % bootstrap interval" in card
    assert "| sex | f |" in card


def test_the_source_table_holds_the_held_out_rows(trained: Trained) -> None:
    table = make_table()
    for entry in msgspec.json.decode(trained.files["holdout.json"])["rows"][:20]:
        row: dict[str, Any] = table.row(entry["index"], named=True)
        assert entry["row"] == {name: row[name] for name in entry["row"]}


def test_the_same_table_and_recipe_give_the_same_model() -> None:
    first, second = (train(make_table(), QUICK, name="toy", target="status") for _ in range(2))
    assert first.files["model.onnx"] == second.files["model.onnx"]
    assert first.manifest.metrics == second.manifest.metrics


def test_rows_without_an_outcome_are_left_out_and_indices_stay_those_of_the_source() -> None:
    trained = train(_with_gaps(make_table()), QUICK, name="toy", target="status")
    assert trained.report["rows_without_outcome"] == 175
    entries = msgspec.json.decode(trained.files["holdout.json"])["rows"]
    assert all(entry["index"] % 4 for entry in entries)


def _with_gaps(table: pl.DataFrame) -> pl.DataFrame:
    values = [None if at % 4 == 0 else value for at, value in enumerate(table["status"])]
    return table.with_columns(status=pl.Series(values))


def test_the_template_speaks_and_may_state_the_cutoff() -> None:
    template = DecisionTemplate(positive="decline", negative="approve", meaning="probability of default", cutoff=0.4)
    trained = train(make_table(), QUICK, name="toy", target="status", decision=template)
    decision = trained.manifest.decision
    assert decision is not None
    assert (decision.positive, decision.negative, decision.cutoff) == ("decline", "approve", 0.4)


def test_a_table_of_nothing_but_sensitive_columns_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no column is left"):
        train(make_table().select("sex", "status"), QUICK, name="toy", target="status")


def test_a_recipe_refuses_what_it_does_not_know() -> None:
    with pytest.raises(msgspec.ValidationError, match="depth"):
        msgspec.convert({"depth": 3}, Recipe)
    with pytest.raises(ValueError, match="max_depth between 1 and 6"):
        TreeRecipe(max_depth=9)


def test_a_contract_that_does_not_fit_the_table_is_refused() -> None:
    table = make_table()
    contract = train(table, QUICK, name="toy", target="status").manifest.contract
    with pytest.raises(InvalidInput, match="lacks: home"):
        train(table.drop("home"), QUICK, name="toy", target="status", contract=contract)
    leaking = msgspec.structs.replace(
        contract, columns=(*contract.columns, Column("status", "category", categories=("bad", "good")))
    )
    with pytest.raises(InvalidInput, match="the target 'status' among its features"):
        train(table, QUICK, name="toy", target="status", contract=leaking)


def test_a_stated_contract_is_kept() -> None:
    stated = infer_contract(make_table(), "status")
    columns = tuple(
        msgspec.structs.replace(column, maximum=200.0, clip=(20.0, 60.0)) if column.name == "age" else column
        for column in stated.columns
    )
    contract = msgspec.structs.replace(stated, columns=columns)
    trained = train(make_table(), QUICK, name="toy", target="status", contract=contract)
    age = next(column for column in trained.manifest.contract.features if column.name == "age")
    assert (age.maximum, age.clip) == (200.0, (20.0, 60.0))
