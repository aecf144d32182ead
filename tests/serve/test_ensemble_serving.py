"""Ensembles behind a real gateway: inline where their members are graphs, in a model worker where one needs it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from kit.applicants import BAD, WHOLE, fitted
from kit.ensembles import part, rows, three
from kit.gateway import Gateway, gateway, plan
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.optimise.compose import package_ensemble
from modelyard.optimise.parts import Part
from modelyard.optimise.register import package_model
from modelyard.runtimes.load import load


def put(shelf: Shelf, parts: list[Part], *options: Any, **more: Any) -> str:
    """The ensemble on the shelf."""
    made = package_ensemble("loans", parts, *options, **more)
    return shelf.put(made.manifest, made.files)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("home")
    shelf = Shelf(Home(root).shelf)
    parts = three(shelf)
    mean = put(shelf, parts, "mean", weights=(1, 2, 3), log_odds=True)
    vote = put(shelf, parts, "vote")
    with gateway(root, plan(1, {1: vote, 2: mean})) as running:
        yield running


def test_the_answer_is_that_of_the_same_version_in_process(served: Gateway) -> None:
    plain = rows(40)
    planned = served.get("/loans").json()
    assert planned["version"] == 2
    answer = served.post("/loans?reasons=all", plain)
    assert answer.status_code == 200, answer.text
    with load(_folder(served, 2)) as model:
        wanted = model.predict(plain, reasons="all")
        explained = model.explain(plain[0])
    got = answer.json()["predictions"]
    np.testing.assert_allclose([one["probability"] for one in got], [one.probability for one in wanted], atol=1e-7)
    assert [one["decision"] for one in got] == [one.decision for one in wanted]
    assert [[r["column"] for r in one["reasons"]] for one in got] == [[r.column for r in w.reasons] for w in wanted]
    told = served.post("/loans/explain", plain[0]).json()
    assert told["contributions"] == pytest.approx(explained.contributions, abs=1e-5)
    assert sum(told["contributions"].values()) + told["base"] == pytest.approx(
        np.log(told["probability"] / (1 - told["probability"])), abs=1e-4
    )


def _folder(served: Gateway, number: int) -> Path:
    found = {
        Shelf(served.home.shelf).open(digest).manifest.lineage.source.partition(" ")[0]: digest
        for digest in served.shelf.digests()
    }
    return served.home.shelf / found["vote" if number == 1 else "mean"]


def test_a_vote_has_a_decision_and_no_explanation(served: Gateway) -> None:
    answer = served.post("/loans/versions/1", rows(1)[0]).json()
    assert answer["probability"] in (pytest.approx(0.0), pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(1.0))
    assert answer["decision"] == ("decline" if answer["probability"] >= 0.5 else "approve")
    assert served.post("/loans/versions/1/explain", rows(1)[0]).status_code == 404


def test_other_dialects_take_its_columns_too(served: Gateway) -> None:
    row = rows(1)[0] | {"income": 100.0, "home": "rent"}
    alone = served.post("/loans", row).json()["probability"]
    kinds = {
        "age": "INT64",
        "income": "FP64",
        "home": "BYTES",
        "job": "BYTES",
        "guarantor": "BOOL",
        "branches": "INT64",
    }
    inputs = [{"name": n, "datatype": kind, "shape": [1], "data": [row[n]]} for n, kind in kinds.items()]
    infer = served.post("/v2/models/loans/infer", {"inputs": inputs})
    assert infer.status_code == 200, infer.text
    assert infer.json()["outputs"][0]["data"] == [pytest.approx(alone)]
    predicted = served.post("/v1/models/loans:predict", {"instances": [row]}).json()["predictions"]
    assert predicted[0]["probability"] == pytest.approx(alone)


def test_a_row_that_one_member_refuses_is_refused(served: Gateway) -> None:
    refused = served.post("/loans", rows(1)[0] | {"income": 5.0})  # the second member's minimum is 10
    assert refused.status_code == 422
    assert "'income'" in refused.json()["detail"]


def test_many_callers_at_once_get_their_own(served: Gateway) -> None:
    plain = rows(60, seed=5)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda row: served.post("/loans", row).json()["probability"], plain))
    together = [one["probability"] for one in served.post("/loans?reasons=none", plain).json()["predictions"]]
    np.testing.assert_allclose(got, together, atol=1e-6)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return WHOLE.assign(status=BAD)


def test_a_member_that_needs_a_model_worker_takes_the_whole_there(tmp_path: Path, frame: pd.DataFrame) -> None:
    shelf = Shelf(Home(tmp_path).shelf)
    forest = fitted(LogisticRegression(max_iter=500))
    native = shelf.put(*package_model(forest, frame, "native", "status", runtime="native"))
    graph = shelf.put(*package_model(forest, frame, "graph", "status"))
    made = package_ensemble("loans", [part(shelf, native), part(shelf, graph)])
    assert made.manifest.in_worker
    digest = shelf.put(made.manifest, made.files)
    plain = WHOLE.head(20).to_dict("records")
    with load(shelf.folder / digest, trust=made.manifest.trusted) as model:
        wanted = [one.probability for one in model.predict(plain)]
    with gateway(tmp_path, plan(1, {1: digest}), model_workers=1, workers=1) as running:
        answer = running.post("/loans", plain)
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose([one["probability"] for one in answer.json()["predictions"]], wanted, atol=1e-6)
        state = running.state()
        assert state is not None
        assert [model.digest for model in state.models] == [digest]
