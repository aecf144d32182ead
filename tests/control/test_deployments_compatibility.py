"""What callers rely on, as a table: each change of a contract, and whether it breaks them."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.decision import Decision, Scale
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Column, Contract, Target
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.control.deployments.compatibility import broken_inputs, broken_promises

AGE = Column("age", "integer", minimum=18, maximum=120, clip=(19.0, 71.0))
HOME = Column("home", "category", categories=("own", "rent"))


def version(*columns: Column, **other: Any) -> Manifest:
    """A version that takes these columns."""
    given: dict[str, Any] = {
        "model": "scores",
        "task": "binary",
        "framework": "logistic",
        "runtime": "onnx",
        "created_at": "2026-01-01T00:00:00+00:00",
        "files": {},
        "signature": Signature((), (TensorSpec("probability", "FP32", (-1,)),)),
        "contract": Contract(columns, Target("status", ("good", "bad"), "bad")),
        "decision": Decision(0.5, "decline", "approve"),
    }
    return Manifest(**{**given, **other})


def but(column: Column, **other: Any) -> Column:
    """The same column, changed."""
    return msgspec.structs.replace(column, **other)


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        # columns come and go
        ((AGE,), (AGE, HOME), "requires column 'home'"),
        ((AGE,), (AGE, but(HOME, default="own")), ""),
        ((AGE,), (AGE, but(HOME, role="unused")), ""),
        ((AGE, HOME), (AGE,), "column 'home' is not known to it"),
        ((AGE, HOME), (AGE, but(HOME, role="sensitive")), ""),  # taken and dropped
        ((AGE, but(HOME, role="unused")), (AGE,), "column 'home' is not known to it"),
        ((AGE, but(HOME, role="unused")), (AGE, HOME), "reads column 'home'"),
        ((AGE, but(HOME, role="unused")), (AGE, but(HOME, default="own")), "reads column 'home'"),
        ((AGE,), (but(AGE, default=30),), ""),
        ((but(AGE, default=30),), (AGE,), "requires column 'age', which callers may leave out"),
        ((AGE,), (but(AGE, name="years"),), "column 'age' is not known"),
        # kinds
        ((AGE,), (but(AGE, kind="number"),), ""),
        ((but(AGE, kind="number"),), (AGE,), "is integer, not number"),
        ((HOME,), (Column("home", "boolean"),), "is boolean, not category"),
        ((Column("home", "boolean"),), (Column("home", "number"),), "is number, not boolean"),
        # missing values
        ((AGE,), (but(AGE, nullable=True),), ""),
        ((but(AGE, nullable=True),), (AGE,), "must not be missing"),
        ((but(HOME, nullable=True),), (but(HOME, unseen="missing"),), "must not be missing"),
        # ranges that are rules
        ((AGE,), (but(AGE, minimum=0, maximum=200),), ""),
        ((AGE,), (but(AGE, minimum=None, maximum=None),), ""),
        ((AGE,), (but(AGE, minimum=21),), "refuses values below 21 (callers' version took them to 18)"),
        ((AGE,), (but(AGE, maximum=100),), "refuses values above 100"),
        ((but(AGE, maximum=None),), (AGE,), "took any"),
        (
            (but(AGE, clip=None, maximum=10_000),),
            (but(AGE, maximum=9_999),),
            "above 9999",
        ),  # nothing says it is a guard
        # ranges that are guards, ten times as far out as anything that was learned from
        ((but(AGE, maximum=1000),), (but(AGE, maximum=500),), ""),
        ((but(AGE, maximum=1000),), (but(AGE, maximum=142),), ""),
        ((but(AGE, maximum=1000),), (but(AGE, maximum=141),), "above 141"),  # and yet too near to it
        ((but(AGE, maximum=None),), (but(AGE, maximum=1000),), ""),
        ((but(AGE, minimum=-1000, maximum=1000),), (but(AGE, minimum=0, maximum=1000),), "below 0"),
        # what was only seen
        ((AGE,), (but(AGE, clip=(30.0, 40.0), typical=35.0, bins=(30.0, 35.0), fill=33.0),), ""),
        ((AGE,), (but(AGE, unit="years", label={"en": "Age"}, note="new", pii="personal", sensitive=True),), ""),
        # categories
        ((HOME,), (but(HOME, categories=("rent", "parents", "own")),), ""),
        ((HOME,), (but(HOME, categories=("own",)),), "refuses 'rent'"),
        ((HOME,), (but(HOME, categories=("own",), unseen="missing"),), ""),
        ((but(HOME, unseen="missing"),), (HOME,), "refuses categories that it does not list"),
        ((HOME,), (but(HOME, categories=("a",)),), "refuses 'own', 'rent'"),
    ],
)
def test_what_a_caller_may_send(ours: tuple[Column, ...], theirs: tuple[Column, ...], word: str) -> None:
    broken = broken_promises(version(*ours), version(*theirs))
    assert bool(broken) == bool(word), broken
    assert word in "; ".join(broken)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"task": "regression"}, "its task is regression, not binary"),
        ({"signature": Signature((), ())}, "gives no output 'probability'"),
        ({"signature": Signature((), (TensorSpec("probability", "FP64", (-1,)),))}, "FP64[-1], not FP32[-1]"),
        (
            {"signature": Signature((), (TensorSpec("more", "FP32", (-1,)), TensorSpec("probability", "FP32", (-1,))))},
            "",
        ),
        ({"signature": Signature((), (TensorSpec("probability", "FP32", (-1,)),), "matrix")}, "over V2 it takes one"),
        ({"contract": Contract((AGE,), Target("status", ("bad", "good"), "good"))}, "that of 'good', not of 'bad'"),
        ({"contract": Contract((AGE,), Target("status", ("fine", "bad"), "bad"))}, "feedback of class 'good'"),
        ({"decision": None}, "it has no decision"),
        ({"decision": Decision(0.5, "bad", "good")}, "it decides 'bad' or 'good', not 'decline' or 'approve'"),
        ({"decision": Decision(0.5, "decline", "approve", scale=Scale(500.0))}, "score has another scale"),
        ({"decision": Decision(0.3, "decline", "approve", "another meaning")}, ""),  # a cut-off is each version's own
        ({"framework": "lightgbm", "runtime": "lightgbm", "metrics": {"auc": 0.1}}, ""),
    ],
)
def test_what_a_caller_is_answered(change: dict[str, Any], word: str) -> None:
    broken = broken_promises(version(AGE), version(AGE, **change))
    assert bool(broken) == bool(word), broken
    assert word in "; ".join(broken)
    assert broken_promises(version(AGE, decision=None), version(AGE))


def tensors(*inputs: TensorSpec) -> Manifest:
    """A version of tensors."""
    out = (TensorSpec("y", "FP32", (-1, 2)),)
    return version(signature=Signature(inputs, out, "tensors"), contract=Contract(()), decision=None, task="tensor")


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        ([TensorSpec("x", "FP32", (-1, 4))], ""),
        ([TensorSpec("x", "FP32", (-1, -1))], ""),
        ([TensorSpec("x", "FP32", (-1, 5))], "input 'x' is FP32[-1, 5], not FP32[-1, 4]"),
        ([TensorSpec("x", "INT64", (-1, 4))], "input 'x' is INT64"),
        ([TensorSpec("z", "FP32", (-1, 4))], "takes no input 'x'; it requires input 'z'"),
    ],
)
def test_what_a_caller_of_tensors_may_send(theirs: list[TensorSpec], word: str) -> None:
    broken = broken_inputs(tensors(TensorSpec("x", "FP32", (-1, 4))), tensors(*theirs))
    assert bool(broken) == bool(word), broken
    assert word in "; ".join(broken)


def test_tensors_and_columns_are_not_one_another() -> None:
    assert broken_inputs(version(AGE), tensors()) == ["it takes tensors as they are, not a tensor for each column"]


# --- the verdict is the encoder's -------------------------------------------------------------------------------


numbers = st.builds(
    lambda low, high, nullable, default: Column(
        "x", "number", nullable=nullable, minimum=low, maximum=high, default=0.5 if default else None
    ),
    st.none() | st.integers(-3, 0),
    st.none() | st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
categories = st.builds(
    lambda listed, nullable, unseen: Column("x", "category", nullable=nullable, categories=listed, unseen=unseen),
    st.sampled_from([("a",), ("a", "b"), ("b", "c"), ("a", "b", "c")]),
    st.booleans(),
    st.sampled_from(["refuse", "missing"]),
)
booleans = st.builds(lambda nullable: Column("x", "boolean", nullable=nullable), st.booleans())
columns = numbers | numbers.map(lambda column: but(column, kind="integer", default=None)) | categories | booleans

ROWS: list[dict[str, Any]] = [{}] + [
    {"x": value} for value in (None, True, False, -9, *range(-4, 6), 0.5, 9, "a", "b", "c", "d")
]


def takes(column: Column, row: dict[str, Any]) -> bool:
    """What the gateway itself says of a row."""
    try:
        Encoder(Contract((column,))).encode_rows([row])
    except InvalidInput:
        return False
    return True


@given(columns, columns)
def test_no_call_is_refused_unless_something_was_said_to_break(ours: Column, theirs: Column) -> None:
    lost = [row for row in ROWS if takes(ours, row) and not takes(theirs, row)]
    broken = broken_inputs(version(ours), version(theirs))
    assert broken or not lost, lost
    if ours.kind == theirs.kind and broken:
        assert lost, broken  # nothing is said to break that does not


# --- training again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_training_again_on_another_sample_breaks_nothing(seed: int) -> None:
    import polars as pl

    from modelyard.data.cleaning import encode_table, fit_cleaning
    from modelyard.data.contracts import infer_contract

    rng = np.random.default_rng(seed)

    def trained() -> Manifest:
        table = pl.DataFrame(
            {
                "income": np.exp(rng.normal(4, 1, 800)),  # its largest value moves a lot from sample to sample
                "debt": np.where(rng.random(800) < 0.4, 0.0, rng.exponential(500, 800)),
                "age": rng.integers(18, 80, 800),
                "balance": rng.normal(0, 100, 800),
                "home": rng.choice(["own", "rent", "parents"], 800, p=[0.5, 0.4, 0.1]),
            }
        )
        contract = infer_contract(table)
        return version(contract=fit_cleaning(contract, encode_table(contract, table)))

    assert broken_inputs(trained(), trained()) == []
