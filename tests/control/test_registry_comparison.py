"""Two versions side by side: what differs is said, by how much, and what chance may explain."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.artifacts.manifest import Lineage, Manifest, Parity
from modelyard.contract.counters import SECONDS
from modelyard.contract.decision import Decision
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.control.registry.comparison import compare, contract_change, measures
from modelyard.control.registry.observed import below

AGE = Column("age", "integer", minimum=18, maximum=100)
HOME = Column("home", "category", categories=("owner", "rent"))


def manifest(*columns: Column, **more: Any) -> Manifest:
    wanted: dict[str, Any] = {
        "model": "loans",
        "task": "binary",
        "framework": "logistic",
        "runtime": "onnx",
        "created_at": "2026-01-01T00:00:00Z",
        "files": {},
        "signature": Signature((), (TensorSpec("probability", "FP32", (-1,)),)),
        "contract": Contract(columns or (AGE,)),
    }
    return Manifest(**(wanted | more))


@pytest.mark.parametrize(
    ("a", "b", "added", "removed", "changed"),
    [
        ([AGE], [AGE], (), (), {}),
        ([AGE], [AGE, HOME], ("home",), (), {}),
        ([AGE, HOME], [AGE], (), ("home",), {}),
        (
            [AGE],
            [msgspec.structs.replace(AGE, minimum=21, nullable=True)],
            (),
            (),
            {"age": {"minimum": (18, 21), "nullable": (False, True)}},
        ),
        ([AGE], [msgspec.structs.replace(AGE, kind="number")], (), (), {"age": {"kind": ("integer", "number")}}),
        ([AGE], [msgspec.structs.replace(AGE, clip=(20.0, 60.0), fill=3.0)], (), (), {}),  # fitted: callers see nothing
    ],
)  # fmt: skip
def test_what_callers_would_notice(a, b, added, removed, changed) -> None:
    found = contract_change(manifest(*a), manifest(*b))
    assert (found.added, found.removed) == (added, removed)
    assert {one.name: one.fields for one in found.changed} == changed
    assert found.is_same is (not (added or removed or changed))


def test_categories_that_came_and_went_are_named() -> None:
    other = msgspec.structs.replace(HOME, categories=("rent", "parents"))
    (change,) = contract_change(manifest(HOME), manifest(other)).changed
    assert (change.categories_added, change.categories_removed, change.fields) == (("parents",), ("owner",), {})


def test_measures_have_differences_intervals_and_a_better_side() -> None:
    a = {"auc": 0.80, "auc_low": 0.78, "auc_high": 0.82, "log_loss": 0.5, "rows": 10.0}
    b = {"auc": 0.84, "auc_low": 0.81, "auc_high": 0.87, "log_loss": 0.4, "rows": 20.0, "lift": 2.0}
    found = {one.name: one for one in measures(a, b)}
    assert list(found) == ["auc", "log_loss", "rows", "lift"]
    assert found["auc"].difference == pytest.approx(0.04)
    assert (found["auc"].interval_a, found["auc"].interval_b) == ((0.78, 0.82), (0.81, 0.87))
    assert (found["auc"].better, found["auc"].apart) == ("b", False)  # the intervals overlap
    assert (found["log_loss"].better, found["log_loss"].apart) == ("b", None)
    assert found["rows"].better is None  # nobody knows which is better
    assert (found["lift"].a, found["lift"].difference) == (None, None)


numbers = st.dictionaries(
    st.sampled_from(["auc", "log_loss", "ks", "rows", "auc_low", "auc_high"]), st.floats(0, 1, width=16), max_size=6
)


@given(numbers, numbers)
def test_a_comparison_seen_from_the_other_side_is_its_mirror(a: dict[str, float], b: dict[str, float]) -> None:
    there = {one.name: one for one in measures(a, b)}
    back = {one.name: one for one in measures(b, a)}
    assert there.keys() == back.keys()
    mirrored = {"a": "b", "b": "a", None: None}
    for name, one in there.items():
        other = back[name]
        assert (one.a, one.b, one.apart) == (other.b, other.a, other.apart)
        assert mirrored[one.better] == other.better
        if one.difference is not None:
            assert one.difference == -other.difference


def test_the_whole_says_what_stands_on_each_side() -> None:
    first = manifest(lineage=Lineage(data_digest="d1", rows=5, recipe={"seed": 1, "lightgbm": {"leaves": 7}}))
    second = manifest(
        framework="lightgbm",
        lineage=Lineage(data_digest="d2", rows=6, recipe={"seed": 1, "lightgbm": {"leaves": 9}}),
        parity=Parity(10, 2, 1e-5, 1e-7),
        decision=Decision(0.25, "decline", "approve"),
        row_cost_us=12.5,
    )
    found = compare("loans", (1, "a" * 64, first), (2, "b" * 64, second), {2: {"calls": 3}})
    assert (found.a.framework, found.b.framework, found.same_artifact, found.same_data) == (
        "logistic",
        "lightgbm",
        False,
        False,
    )
    assert found.recipe == {"lightgbm.leaves": (7, 9)}
    assert found.decision["positive"] == (None, "decline")
    assert not any(name.startswith("reasons") for name in found.decision)
    assert (found.b.cutoff, found.b.row_cost_us, found.b.parity["max_error"]) == (0.25, 12.5, 1e-7)
    assert (found.a.observed, found.b.observed) == (None, {"calls": 3})
    assert compare("loans", (1, "a" * 64, first), (1, "a" * 64, first)).contract.is_same


def test_a_share_of_the_answers_took_at_most_so_long() -> None:
    latency = [0] * (len(SECONDS) + 1)
    latency[3], latency[10] = 90, 10
    assert below(latency, 0.5) == SECONDS[3] * 1e3
    assert below(latency, 0.95) == SECONDS[10] * 1e3
    assert below([0] * len(latency), 0.5) is None
    assert below([0] * len(SECONDS) + [5], 0.5) is None  # above the last bucket: nobody can say
    assert below((), 0.5) is None


def test_registered_versions_are_compared(home: Home, register) -> None:
    from modelyard.control.registry.reading import compared

    register(1)
    register(2, columns=(Column("age", "number"), Column("income", "number")))
    found = compared("scores", "champion", 2)
    assert (found.a.version, found.b.version, found.contract.added) == (1, 2, ("income",))
    assert [(one.name, one.difference) for one in found.metrics] == [("auc", 0.0)]
