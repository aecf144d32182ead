"""Registered versions become an ensemble: what it takes, what it says, what it refuses to become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.ensembles import FEWER, OTHER, linear, part, rows, three
from kit.tensor_versions import store_identity
from kit.versions import CONTRACT, store
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.names import publish_names
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelFailed, NotFound
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.infer import Prediction
from modelyard.optimise import outcomes
from modelyard.optimise.compose import package_ensemble
from modelyard.optimise.joint_contract import joint_contract
from modelyard.optimise.parts import Part, part_named
from modelyard.runtimes.ensemble_joins import squashed
from modelyard.runtimes.load import LoadedModel, load
from modelyard.runtimes.version import LoadedVersion
from modelyard.secure.signing import signer


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


def put(shelf: Shelf, parts: list[Part], *options: Any, **more: Any) -> Path:
    """The ensemble's folder on the shelf."""
    made = package_ensemble("all", parts, *options, **more)
    for before in made.before:
        shelf.put(*before)
    return shelf.folder / shelf.put(made.manifest, made.files)


def alone(parts: list[Part], plain: list[dict[str, Any]]) -> list[list[Prediction]]:
    """What each member answers to the columns that it knows, asked by itself."""
    said = []
    for one in parts:
        with load(one.artifact.folder) as member:
            names = [column.name for column in member.contract.columns]
            said.append(member.predict([{n: row[n] for n in names if n in row} for row in plain]))
    return said


def probabilities(said: list[list[Prediction]]) -> np.ndarray:
    return np.array([[row.probability for row in member] for member in said])


def odds(parts: list[Part], plain: list[dict[str, Any]]) -> np.ndarray:
    """Each member's log-odds, which its own explanation adds up to."""
    said = []
    for one in parts:
        with load(one.artifact.folder) as member:
            names = [column.name for column in member.contract.columns]
            explained = member.explain([{n: row[n] for n in names if n in row} for row in plain])
            said.append([each.base + sum(each.contributions.values()) for each in explained])
    return np.array(said)


PLAIN = rows(60)


def test_a_mean_says_the_mean_of_what_its_members_say_alone(shelf: Shelf) -> None:
    parts = three(shelf)
    with load(put(shelf, parts, "mean", weights=(1.0, 2.0, 5.0))) as model:
        got = [answer.probability for answer in model.predict(PLAIN)]
        assert model.predict(PLAIN[0]).probability == pytest.approx(got[0], abs=1e-7)  # one row as among many
    wanted = np.average(probabilities(alone(parts, PLAIN)), axis=0, weights=(1, 2, 5))
    np.testing.assert_allclose(got, wanted, atol=1e-7)
    assert np.ptp(got) > 0.1


def test_equal_weights_are_numpys_mean_to_the_last_bit_of_float32(shelf: Shelf) -> None:
    parts = three(shelf)[:2]
    plain = [{name: row[name] for name in CONTRACT.example} for row in PLAIN]
    with load(put(shelf, parts)) as model:
        got = np.array([answer.probability for answer in model.predict(plain)])
    wanted = probabilities(alone(parts, plain)).mean(axis=0).astype(np.float32)
    assert got.astype(np.float32).tobytes() == wanted.tobytes()


def test_a_mean_of_log_odds_is_explained_by_its_members(shelf: Shelf) -> None:
    parts = three(shelf)
    with load(put(shelf, parts, "mean", log_odds=True)) as model:
        answers, explained = model.predict(PLAIN), model.explain(PLAIN)
        assert any(answer.reasons for answer in answers)
    wanted = odds(parts, PLAIN).mean(axis=0)
    np.testing.assert_allclose([answer.probability for answer in answers], squashed(wanted), atol=2e-5)
    total = [one.base + sum(one.contributions.values()) for one in explained]
    np.testing.assert_allclose(total, wanted, atol=1e-4)
    assert set(explained[0].contributions) == {"age", "income", "home", "job", "guarantor", "branches"}
    with load(parts[2].artifact.folder) as third:  # only the third knows this column
        own = third.explain([{n: row[n] for n in FEWER.example} for row in PLAIN])
    np.testing.assert_allclose(
        [one.contributions["branches"] for one in explained],
        [one.contributions["branches"] / 3 for one in own],
        atol=1e-6,
    )


def test_a_mean_of_probabilities_and_a_vote_explain_nothing(shelf: Shelf) -> None:
    parts = three(shelf)
    for by in ("mean", "vote"):
        with load(put(shelf, parts, by)) as model, pytest.raises(InvalidInput, match="cannot explain"):
            model.explain(PLAIN[0])


def test_a_vote_counts_who_is_at_its_own_cut_off_or_above(shelf: Shelf) -> None:
    parts = three(shelf)
    with load(put(shelf, parts, "vote", weights=(1.0, 1.0, 3.0))) as model:
        answers = model.predict(PLAIN)
        assert model.manifest.decision is not None
        assert model.manifest.decision.cutoff == 0.5
    votes = probabilities(alone(parts, PLAIN)) >= 0.3
    np.testing.assert_allclose([one.probability for one in answers], votes.T @ [0.2, 0.2, 0.6], atol=1e-7)
    assert {one.decision for one in answers} == {"decline", "approve"}


def test_a_tie_of_two_classes_says_yes(shelf: Shelf) -> None:
    parts = [part(shelf, store(shelf, base, name=f"m{base:g}")) for base in (60.0, -60.0)]
    with load(put(shelf, parts, "vote")) as model:
        answer = model.predict(CONTRACT.example)
    assert (answer.probability, answer.decision) == (0.5, "decline")


def test_more_classes_are_averaged_and_voted_on_and_the_first_of_equals_wins(shelf: Shelf) -> None:
    classes = ("a", "b", "c")
    parts = [
        linear(shelf, f"kind{at}", [[0, 0, 0], [0, 0, 0]], bias, "multiclass", classes)
        for at, bias in enumerate(([0, 0, 9], [0, 9, 0]))
    ]
    with load(put(shelf, parts, "vote")) as model:
        tie = model.predict({"x": 0.0, "z": 0.0}).outputs
    assert tie == {"label": "b", "probabilities": [0.0, 0.5, 0.5]}
    with load(put(shelf, parts, "mean", weights=(3, 1))) as model:
        mean = model.predict({"x": 0.0, "z": 0.0}).outputs
    assert mean["label"] == "c"
    high = np.exp(9) / (np.exp(9) + 2)
    low = (1 - high) / 2
    np.testing.assert_allclose(mean["probabilities"], [low, (3 * low + high) / 4, (3 * high + low) / 4], atol=1e-6)


def test_numbers_have_a_mean_and_no_vote(shelf: Shelf) -> None:
    parts = [linear(shelf, f"price{at}", [[at], [1]], [10 * at], "regression") for at in range(3)]
    with load(put(shelf, parts, "mean")) as model:
        assert model.predict({"x": 6.0, "z": 1.0}).outputs["prediction"] == pytest.approx((1 + 17 + 33) / 3)
    with pytest.raises(InvalidInput, match="on classes"):
        package_ensemble("all", parts, "vote")


def test_tensors_have_a_mean_where_the_signatures_are_the_same(shelf: Shelf) -> None:
    one, two = store_identity(shelf, name="one"), store_identity(shelf, name="two")
    with load(put(shelf, [part(shelf, one), part(shelf, two)], "mean", weights=(1, 3))) as model:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        np.testing.assert_array_equal(model.predict_tensors({"in_FP32": x})["out_FP32"], x)
        assert model.manifest.task == "tensor"
    whole = store_identity(shelf, ("INT64",), name="whole")
    with pytest.raises(InvalidInput, match="other tensors than one:1"):
        package_ensemble("all", [part(shelf, one), part(shelf, whole)])
    more = store_identity(shelf, ("INT64",), name="more")
    with pytest.raises(InvalidInput, match="no mean"):
        package_ensemble("all", [part(shelf, more), part(shelf, whole)])


# --- stacking


def labelled(tmp_path: Path, count: int, seed: int = 3) -> Path:
    """A table whose outcome the first member knows best."""
    plain = rows(count, seed)
    random = np.random.default_rng(seed)
    chance = [1 / (1 + np.exp(0.02 * row["income"] - 5)) if row["income"] else 0.7 for row in plain]
    frame = pl.DataFrame(plain).with_columns(
        status=pl.Series(["bad" if random.random() < p else "good" for p in chance])
    )
    path = tmp_path / "table.csv"
    frame.write_csv(path)
    return path


def test_a_stacking_learns_weights_and_is_explained_exactly(shelf: Shelf, tmp_path: Path) -> None:
    parts, table = three(shelf), labelled(tmp_path, 400)
    made = package_ensemble("all", parts, "stacking", table=table, target="status")
    ((meta, _),) = made.before
    assert (meta.model, meta.framework, meta.lineage.rows) == ("all.meta", "logistic", 400)
    assert [column.name for column in meta.contract.columns] == ["first:1", "second:1", "third:1"]
    assert 0.5 < made.manifest.metrics["auc"] < 1
    assert made.manifest.metrics["test_rows"] == 400
    with load(put(shelf, parts, "stacking", table=table, target="status")) as model:
        answers, explained = model.predict(PLAIN), model.explain(PLAIN)
        assert [member.role for member in model.manifest.members] == ["member", "member", "member", "meta"]
        with load(shelf.folder / model.manifest.members[-1].digest) as small:
            columns = odds(parts, PLAIN)
            names = [column.name for column in small.contract.columns]
            by_hand = small.predict([dict(zip(names, column, strict=True)) for column in columns.T.tolist()])
    got = np.array([one.probability for one in answers])
    np.testing.assert_allclose(got, [one.probability for one in by_hand], atol=2e-5)
    total = np.array([one.base + sum(one.contributions.values()) for one in explained])
    np.testing.assert_allclose(squashed(total), got, atol=1e-5)


def test_rows_that_a_member_learned_from_are_not_learned_from_again(shelf: Shelf, tmp_path: Path) -> None:
    table = labelled(tmp_path, 300)
    digest = outcomes.read_source(table).digest
    first, second = three(shelf)[:2]
    kept = [*range(0, 100), *range(250, 300)]
    trained = _trained_on(shelf, first, digest, kept)
    made = package_ensemble("all", [trained, second], "stacking", table=table, target="status")
    assert made.before[0][0].lineage.rows == 150
    also = _trained_on(shelf, second, digest, [*range(0, 40)])
    with pytest.raises(InvalidInput, match="40 of the table's 300 rows are new to every member"):
        package_ensemble("all", [trained, also], "stacking", table=table, target="status")
    silent = _trained_on(shelf, second, digest, None)
    with pytest.raises(InvalidInput, match="0 of the table's 300 rows"):
        package_ensemble("all", [trained, silent], "mean", table=table, target="status")
    # An ensemble of ensembles: what the inner one's model learned from is used up too.
    inner = [shelf.put(*one) for one in (*made.before, (made.manifest, made.files))][-1]
    with pytest.raises(InvalidInput, match="0 of the table's 300 rows"):
        package_ensemble("more", [part(shelf, inner), three(shelf)[2]], "stacking", table=table, target="status")


def _trained_on(shelf: Shelf, one: Part, digest: str, held_out: list[int] | None) -> Part:
    """The same version, saying that it was trained on this table but for those rows."""
    manifest = one.manifest
    lineage = msgspec.structs.replace(manifest.lineage, data_digest=digest)
    files = {"model.onnx": one.artifact.read("model.onnx")}
    if held_out is not None:
        told = {"total": len(held_out), "rows": [{"index": at, "row": {}, "probability": 0.5} for at in held_out]}
        files["holdout.json"] = msgspec.json.encode(told)
    manifest = msgspec.structs.replace(manifest, lineage=lineage, files={})
    return part(shelf, shelf.put(manifest, files))


def test_a_stacking_of_numbers_is_a_ridge(shelf: Shelf, tmp_path: Path) -> None:
    parts = [
        linear(shelf, f"price{at}", weights, [0], "regression") for at, weights in enumerate(([[1], [0]], [[0], [1]]))
    ]
    random = np.random.default_rng(0)
    x, z = random.normal(size=200), random.normal(size=200)
    table = tmp_path / "prices.csv"
    pl.DataFrame({"x": x, "z": z, "price": 3 * x - 2 * z + 5}).write_csv(table)
    with load(put(shelf, parts, "stacking", table=table, target="price")) as model:
        assert model.predict({"x": 1.0, "z": 1.0}).outputs["prediction"] == pytest.approx(6.0, abs=0.05)
        assert model.manifest.metrics["r2"] > 0.99
        with pytest.raises(InvalidInput, match="cannot explain"):
            model.explain({"x": 1.0, "z": 1.0})


# --- the joint contract


def test_the_stricter_rule_holds() -> None:
    joint = {column.name: column for column in joint_contract([CONTRACT, OTHER, FEWER]).columns}
    assert list(joint) == ["age", "income", "home", "job", "guarantor", "sex", "branches"]
    assert (joint["age"].minimum, joint["age"].maximum) == (18, 90)
    assert (joint["income"].minimum, joint["income"].maximum, joint["income"].clip) == (10.0, 1e6, None)
    assert joint["home"].categories == ("owner", "rent", "other")
    assert joint["job"].unseen == "missing"
    assert joint["guarantor"].default is False
    assert joint["sex"].role == "sensitive"


def test_what_one_refuses_all_refuse() -> None:
    def of(**rules: Any) -> Contract:
        return Contract((Column("kind", "category", **rules),))

    known = joint_contract([of(categories=("a", "b"), nullable=True), of(categories=("c", "b", "a"), unseen="missing")])
    assert (known.columns[0].categories, known.columns[0].unseen) == (("a", "b"), "refuse")
    assert not known.columns[0].nullable
    either = joint_contract([of(categories=("a",), unseen="missing"), of(categories=("b",), unseen="missing")])
    assert (either.columns[0].categories, either.columns[0].unseen) == (("a", "b"), "missing")
    with pytest.raises(InvalidInput, match="no category is known to every member"):
        joint_contract([of(categories=("a",)), of(categories=("b",))])
    with pytest.raises(InvalidInput, match="category for one member and number for another"):
        joint_contract([of(categories=("a",)), Contract((Column("kind", "number"),))])
    with pytest.raises(InvalidInput, match="no value is in the range"):
        joint_contract([Contract((Column("n", "number", maximum=1),)), Contract((Column("n", "number", minimum=2),))])


@given(st.permutations(range(5)), st.permutations(range(3)), st.integers(0, 2**32 - 1))
def test_order_of_columns_and_categories_changes_no_answer(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], home: list[int], seed: int
) -> None:
    """A member that has its columns and categories in any order says in the ensemble what it says alone."""
    features = [CONTRACT.features[at] for at in order]
    turned = tuple(CONTRACT.features[2].categories[at] for at in home)
    features = [msgspec.structs.replace(c, categories=turned) if c.name == "home" else c for c in features]
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    other = msgspec.structs.replace(CONTRACT, columns=(*features, CONTRACT.columns[-1]))
    parts = [part(shelf, store(shelf, 0.2, name="first")), part(shelf, store(shelf, 0.2, other, "second"))]
    plain = [{name: row[name] for name in CONTRACT.example} for row in rows(5, seed)]
    with load(put(shelf, parts)) as model:
        got = [answer.probability for answer in model.predict(plain)]
    np.testing.assert_allclose(got, probabilities(alone(parts, plain)).mean(axis=0), atol=1e-6)


# --- what is refused, and what is told


def test_parts_that_cannot_answer_as_one_are_refused(shelf: Shelf) -> None:
    first, second, _ = three(shelf)
    number = linear(shelf, "price", [[1], [1]], [0], "regression")
    for parts, options, reason in (
        ([first], {}, "two members or more"),
        ([first, first], {}, "named twice"),
        ([first, number], {}, "first:1 is binary, price:1 is regression"),
        ([first, second], {"weights": (1.0,)}, "2 numbers above 0"),
        ([first, second], {"weights": (1.0, -1.0)}, "2 numbers above 0"),
        ([first, second], {"by": "stacking"}, "learns from a table"),
        ([first, second], {"by": "vote", "log_odds": True}, "log-odds"),
        ([first, second], {"cutoff": 2.0}, "between 0 and 1"),
        ([number, linear(shelf, "other", [[1], [2]], [0], "regression")], {"cutoff": 0.5}, "no member has a decision"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            package_ensemble("all", parts, **options)


def test_the_manifest_names_its_members_and_is_served_where_they_may_be(shelf: Shelf) -> None:
    parts = three(shelf)
    manifest = package_ensemble("all", parts, cutoff=0.4).manifest
    assert [member.digest for member in manifest.members] == [one.artifact.digest for one in parts]
    assert (manifest.in_worker, manifest.trusted, manifest.independent_rows) == (False, False, True)
    assert manifest.decision is not None
    assert manifest.decision.cutoff == 0.4
    assert manifest.parity is not None
    assert manifest.parity.max_error < 1e-6
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def test_its_size_is_that_of_all_that_it_is_made_of(shelf: Shelf) -> None:
    parts = three(shelf)
    inner = put(shelf, parts[:2])
    outer = put(shelf, [part(shelf, inner.name), parts[2]])

    def own(digest: str) -> int:
        return sum(entry.size for entry in shelf.open(digest).manifest.files.values())

    assert shelf.bytes_of(outer.name) == sum(map(own, (outer.name, inner.name, *(p.artifact.digest for p in parts))))


def test_a_member_that_is_gone_is_named(shelf: Shelf, tmp_path: Path) -> None:
    folder = put(shelf, three(shelf))
    gone = three(shelf)[1].artifact
    gone.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(NotFound, match="second:1"):
        load(folder)


def test_the_member_that_fails_is_named_and_its_words_are_not_repeated(shelf: Shelf) -> None:
    folder = put(shelf, three(shelf))
    whole = LoadedVersion(Shelf(folder.parent).open(folder.name))

    class Broken:
        def run(self, *_: object) -> object:
            raise RuntimeError("income 4711.5 is odd")

    whole.runtime._seats[1]._version.runtime._session = Broken()  # type: ignore[attr-defined]
    with pytest.raises(ModelFailed, match=r"^step 'second:1': it failed on this input with RuntimeError$") as caught:
        whole.predict(whole.varied_rows(2))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_how_long_each_member_took_comes_with_the_answer(shelf: Shelf) -> None:
    folder = put(shelf, three(shelf))
    whole = LoadedVersion(Shelf(folder.parent).open(folder.name))
    outputs = whole.predict(whole.varied_rows(2))
    assert whole.runtime.steps == ("first:1", "second:1", "third:1")  # type: ignore[attr-defined]
    assert len(outputs.took_ns) == 3  # type: ignore[attr-defined]
    assert min(outputs.took_ns) > 0  # type: ignore[attr-defined]


def test_a_member_that_is_loaded_already_is_not_loaded_again(shelf: Shelf) -> None:
    parts = three(shelf)
    with load(put(shelf, parts)) as model, load(parts[0].artifact.folder) as first:
        assert _session(model, 0) is first._loaded.runtime._session  # type: ignore[attr-defined]


def _session(model: LoadedModel, at: int) -> object:
    return model._loaded.runtime._seats[at]._version.runtime._session  # type: ignore[attr-defined]


def test_by_name_from_the_signed_list(tmp_path: Path) -> None:
    home = Home(tmp_path)
    shelf = Shelf(home.shelf)
    first, second, _ = three(shelf)
    names = {
        "first:1": first.artifact.digest,
        "first:champion": first.artifact.digest,
        "first:newest": first.artifact.digest,
    }
    publish_names(home, names | {"second:2": second.artifact.digest}, signer(home.keys))
    assert part_named(home, "first").name == "first:1"
    assert part_named(home, "first:newest").name == "first:1"
    assert part_named(home, "second:2").artifact.digest == second.artifact.digest
    with pytest.raises(NotFound, match="third"):
        part_named(home, "third:1")
