"""A forest's tables answer as LightGBM and XGBoost do, to the last bit in whatever batch, and only where they pay."""

import json
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.contract.features import Column, Contract
from modelyard.optimise import masks, parity
from modelyard.optimise.forest_files import forest_files
from modelyard.optimise.masks import forest_tables
from modelyard.optimise.parity import ParityFailed
from modelyard.optimise.register import package_model
from modelyard.optimise.trees import Forest, Leaf, Split, read_lightgbm, read_xgboost, thresholds
from modelyard.runtimes.forest import ForestRuntime, ForestTables
from modelyard.runtimes.onnx import OnnxRuntime

LEVELS = 40


def rows_of(seed: int, count: int = 1500, wide: int = 0) -> np.ndarray:
    """Two numbers, one of them often missing; a category of forty levels; further numbers that nobody asks."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 2, (count, 3 + wide)).astype(np.float32)
    rows[random.random(count) < 0.3, 1] = np.nan
    rows[:, 2] = random.integers(0, LEVELS, count)
    rows[:, 3:] = 1.0
    return rows


def outcome_of(rows: np.ndarray) -> np.ndarray:
    z = rows[:, 0] + np.isnan(rows[:, 1]) + (rows[:, 2] % 3 == 1) + np.nan_to_num(rows[:, 1]) * (rows[:, 2] > 20)
    return (np.random.default_rng(9).random(len(rows)) < 1 / (1 + np.exp(-z))).astype(float)


def boosted(leaves: int, objective: str = "binary", rounds: int = 120, wide: int = 0) -> lgb.Booster:
    rows = rows_of(0, wide=wide)
    parameters = {
        "objective": objective,
        "num_leaves": leaves,
        "min_data_in_leaf": 3,
        "verbosity": -1,
        "num_threads": 1,
    }
    return lgb.train(parameters, lgb.Dataset(rows, outcome_of(rows), categorical_feature=[2]), rounds)


def probing(forest: Forest, wide: int = 0) -> np.ndarray:
    """Other rows, codes that no tree knows, missing ones, and every threshold with both its neighbours.

    Not those next to nothing, which LightGBM takes for zero.
    """
    rows = rows_of(1, 300, wide)
    rows[:20, 2], rows[20:40, 2], rows[40:50, 2] = np.nan, LEVELS + 3, -1
    rows[50:60, 0], rows[60:70, 0] = np.inf, -np.inf
    edges = []
    for feature, cuts in thresholds(forest).items():
        for cut in np.array([cut for cut in cuts if feature < 2 and abs(cut) > 1e-30], dtype=np.float32):
            for value in (np.nextafter(cut, np.float32(-1e9)), cut, np.nextafter(cut, np.float32(1e9))):
                edges.append(rows[100].copy())
                edges[-1][feature] = value
    return np.concatenate([rows, np.array(edges, dtype=np.float32)])


def sums_by_walking(forest: Forest, rows: np.ndarray) -> np.ndarray:
    """What each row's leaves add up to, tree by tree."""

    def leaf(node: Split | Leaf, row: np.ndarray) -> float:
        while isinstance(node, Split):
            value = row[node.feature]
            if np.isnan(value):
                left = node.missing_left
            else:
                left = value <= node.threshold if node.codes is None else value in node.codes
            node = node.left if left else node.right
        return node.value

    return np.array([forest.base + sum(leaf(tree, row) for tree in forest.trees) for row in rows])


@pytest.mark.parametrize("leaves", [2, 8, 9, 16, 31, 64])
def test_the_tables_answer_as_lightgbm(leaves: int) -> None:
    booster = boosted(leaves)
    forest = read_lightgbm(booster.dump_model())
    tables = forest_tables(forest)
    assert tables is not None
    rows = probing(forest)
    found = ForestTables.load(tables.dump()).of(rows)
    np.testing.assert_allclose(found, booster.predict(rows, raw_score=True), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[:80], sums_by_walking(forest, rows[:80]), rtol=0, atol=1e-12)


def test_the_tables_answer_as_xgboost() -> None:
    rows = rows_of(0)
    model = xgb.XGBClassifier(n_estimators=110, max_depth=5, n_jobs=1).fit(rows, outcome_of(rows))
    forest = read_xgboost(json.loads(model.get_booster().save_raw("json")))
    tables = forest_tables(forest)
    assert tables is not None
    asked = probing(forest)
    asked = asked[np.isfinite(asked[:, 0])]  # XGBoost refuses to be asked for infinity
    margins = model.get_booster().predict(xgb.DMatrix(asked), output_margin=True)
    np.testing.assert_allclose(tables.of(asked), margins, rtol=1e-5, atol=1e-5)  # XGBoost adds up float32


def test_features_that_no_tree_asks_cost_nothing() -> None:
    forest = read_lightgbm(boosted(8, wide=400).dump_model())
    tables = forest_tables(forest)
    assert tables is not None
    rows = probing(forest, wide=400)
    rows[:, 3:] = np.nan
    np.testing.assert_allclose(tables.of(rows), sums_by_walking(forest, rows), rtol=0, atol=1e-12)


_tables = forest_tables(read_lightgbm(boosted(31).dump_model()))


@settings(max_examples=60)
@given(start=st.integers(0, 200), count=st.integers(1, 130))
def test_a_row_gets_the_same_answer_in_whatever_batch(start: int, count: int) -> None:
    assert _tables is not None
    rows = rows_of(5, 330)
    together = _tables.of(rows[start : start + count])
    alone = np.concatenate([_tables.of(row[None]) for row in rows[start : start + count]])
    assert together.tobytes() == alone.tobytes()


def test_leaves_that_stand_alone_are_part_of_the_base() -> None:
    forest = read_lightgbm(boosted(8).dump_model())
    more = Forest((*forest.trees, Leaf(0.25, 1.0)), forest.features, 2.0, forest.link)
    rows = probing(forest)
    plain, moved = forest_tables(forest), forest_tables(more)
    assert plain is not None
    assert moved is not None
    np.testing.assert_allclose(moved.of(rows), plain.of(rows) + 2.25, rtol=0, atol=1e-12)


def tree(leaves: int, feature: int = 0) -> Split | Leaf:
    """A chain with so many leaves, on features that follow each other."""
    node: Split | Leaf = Leaf(1.0, 1.0)
    for at in range(leaves - 1):
        node = Split(feature + at, Leaf(0.5, 1.0), node, 1.0, float(at))
    return node


@pytest.mark.parametrize(
    ("forest", "pays"),
    [
        (Forest((tree(4),) * masks.MIN_TREES, 3), True),
        (Forest((tree(4),) * (masks.MIN_TREES - 1), 3), False),  # a walk is short
        (Forest((tree(64),) * masks.MIN_TREES, 63), False),  # 63 features of eight bytes each
        (Forest((tree(16, 0), tree(16, 15), tree(16, 30)) * masks.MIN_TREES, 45), True),  # 45 of two
        (Forest(tuple(tree(16, at) for at in range(0, 90, 15)) * masks.MIN_TREES, 90), False),
        (Forest((Leaf(1.0, 1.0),) * 500, 3), False),  # nothing is asked
    ],
)  # fmt: skip
def test_tables_are_made_where_they_pay(forest: Forest, pays: bool) -> None:
    assert (forest_tables(forest) is not None) is pays


def test_trees_of_too_many_leaves_are_walked() -> None:
    wide = Split(0, tree(33), tree(33), 1.0, 0.0)
    assert forest_tables(Forest((wide,) * masks.MIN_TREES, 33)) is None


def test_tables_that_would_be_too_large_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = Forest((tree(4),) * masks.MIN_TREES, 3)
    monkeypatch.setattr(masks, "MAX_BYTES", 9 * masks.MIN_TREES - 1)  # three features of a threshold: nine bins
    assert forest_tables(forest) is None
    monkeypatch.setattr(masks, "MAX_BYTES", 9 * masks.MIN_TREES)
    assert forest_tables(forest) is not None


# --- as a version -----------------------------------------------------------------------------------------------


def packaged(rounds: int = 120, objective: str = "binary") -> tuple[Any, lgb.Booster, np.ndarray]:
    import pandas

    rows = rows_of(0)[:, :2]
    parameters = {"objective": objective, "num_leaves": 15, "verbosity": -1, "num_threads": 1}
    booster = lgb.train(parameters, lgb.Dataset(rows, outcome_of(rows_of(0))), rounds)
    frame = pandas.DataFrame(rows, columns=["a", "b"])
    return package_model(booster, frame.head(300), "small"), booster, rows


def opened(made: Any, folder: Path, without: str = "") -> Any:
    from modelyard.artifacts.store import Shelf
    from modelyard.runtimes.catalogue import open_runtime

    manifest, files = made
    shelf = Shelf(folder / (without or "whole"))
    return open_runtime(
        shelf.open(shelf.put(manifest, {name: data for name, data in files.items() if name != without}))
    )


@pytest.mark.parametrize(("objective", "output"), [("binary", "probability"), ("regression", "prediction")])
def test_a_version_answers_by_its_tables_and_its_graph_says_the_same(
    objective: str, output: str, tmp_path: Path
) -> None:
    made, booster, rows = packaged(objective=objective)
    by_tables, by_graph = opened(made, tmp_path), opened(made, tmp_path, "forest.npz")
    assert (type(by_tables), type(by_graph)) == (ForestRuntime, OnnxRuntime)
    found = by_tables.predict({"rows": rows})
    assert list(found) == [output]
    assert found[output].dtype == np.float32
    np.testing.assert_allclose(found[output], booster.predict(rows), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(by_graph.predict({"rows": rows})[output], found[output], rtol=0, atol=1e-5)
    explained = [runtime.contributions({"rows": rows[:9]}) for runtime in (by_tables, by_graph)]
    assert (explained[0] is None) == (objective == "regression")
    np.testing.assert_array_equal(*explained)


def test_small_forests_are_served_by_their_graph(tmp_path: Path) -> None:
    made, _, _ = packaged(rounds=20)
    assert "forest.npz" not in made[1]
    assert type(opened(made, tmp_path)) is OnnxRuntime


def test_sums_beyond_all_bounds_are_probabilities_still(tmp_path: Path) -> None:
    made, _, rows = packaged()
    runtime = opened(made, tmp_path)
    for sum_, probability in ((-1e6, 0.0), (1e6, 1.0), (0.0, 0.5)):
        runtime._tables.of = lambda rows, value=sum_: np.full(len(rows), value)
        np.testing.assert_array_equal(runtime.predict({"rows": rows[:2]})["probability"], [probability] * 2)


def test_a_graph_that_answers_otherwise_than_the_tables_fails_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is proven too, though it does not serve: it is what other places get."""

    def other(forest: Forest) -> dict[str, bytes]:
        files = forest_files(forest)
        moved = Forest(forest.trees, forest.features, forest.base + 0.01, forest.link)
        return files | {"model.onnx": forest_files(moved)["model.onnx"]}

    monkeypatch.setattr("modelyard.optimise.estimator_graph.forest_files", other)
    with pytest.raises(ParityFailed, match="differs from the original"):
        packaged()
    monkeypatch.setattr(parity, "FILE", "nothing.npz")  # the switch: without the second proof nobody would notice
    packaged()


def test_the_contract_of_a_version_with_tables_is_any_other(tmp_path: Path) -> None:
    (manifest, _), _, _ = packaged()
    assert isinstance(manifest.contract, Contract)
    assert [type(column) for column in manifest.contract.features] == [Column, Column]
    assert manifest.parity.max_error < 1e-6
