"""A shadow is compared with every answer that it may see; and no answer waits for it, changes or fails by it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kit.shadowed import Shadowed
from kit.versions import CONTRACT, expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.counters import width_of
from modelyard.contract.errors import Overloaded
from modelyard.contract.features import Column, Contract
from modelyard.contract.plan import Shadow, TrafficSplit
from modelyard.contract.telemetry import Disagreement, Prediction
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve import dialects, shadow
from modelyard.serve.admission import Principal
from modelyard.serve.copies import reads_alike
from modelyard.serve.shadow import SAMPLES, step_of

OTHER = 1.5  # the shadow's base: its probabilities lie higher
ROWS = [CONTRACT.example | {"age": age, "income": income} for age in range(20, 90, 3) for income in (None, 50.0, 900.0)]
Make = Callable[..., Shadowed]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Shadowed] = []

    def shadowed(
        bases: tuple[float, ...] = (0.0, OTHER), contracts: dict[int, Contract] | None = None, **options: Any
    ) -> Shadowed:
        shelf = Shelf(tmp_path / "shelf")
        held = {
            number: store(shelf, base, (contracts or {}).get(number, CONTRACT)) for number, base in enumerate(bases, 1)
        }
        made.append(Shadowed(tmp_path / str(len(made)), shelf, held, **options))
        return made[-1]

    yield shadowed
    for one in made:
        one.close()


def ask_all(one: Shadowed, rows: list[dict[str, Any]]) -> list[Any]:
    """Ask them all at once; their answers."""
    said = [one.ask(row) for row in rows]
    one.turn_until(lambda: all(each.status or each.error for each in said), "every call is answered")
    assert [each.error for each in said] == [None] * len(said)
    return [each.json() for each in said]


def changed(name: str, **rules: Any) -> Contract:
    """The contract with one column changed."""
    columns = [msgspec.structs.replace(one, **rules) if one.name == name else one for one in CONTRACT.columns]
    return msgspec.structs.replace(CONTRACT, columns=tuple(columns))


def test_every_answer_is_compared_and_none_is_the_shadows(make: Make) -> None:
    one = make()
    answers = ask_all(one, ROWS)
    for row, answer in zip(ROWS, answers, strict=True):
        assert answer["version"] == 1
        assert answer["probability"] == pytest.approx(expected(row), abs=1e-6)
    one.turn_until(lambda: one.done == len(ROWS), "every copy is compared")
    apart = [(expected(row), expected(row, OTHER)) for row in ROWS]
    assert one.count("modelyard_shadow_compared") == len(ROWS)
    assert one.count("modelyard_shadow_differing") == sum((ours >= 0.3) != (its >= 0.3) for ours, its in apart) > 0
    difference = one.counters.gauge("modelyard_shadow_difference", endpoint="loans", version="2")
    assert one.counters.cells[difference] / 1e6 == pytest.approx(max(its - ours for ours, its in apart), abs=1e-5)
    assert sum(one.spies[2].asked) == len(ROWS)


def test_copies_are_in_no_other_metric(make: Make) -> None:
    one = make()
    ask_all(one, ROWS)
    one.turn_until(lambda: one.done == len(ROWS), "every copy is compared")
    assert one.count("modelyard_requests", 1, code="200") == one.count("modelyard_rows", 1) == len(ROWS)
    for name in ("modelyard_rows", "modelyard_failures", "modelyard_executions"):
        assert one.count(name, 2) == 0
    assert one.count("modelyard_requests", 2, code="200") == 0
    batches = one.counters.histogram("modelyard_batch_rows", model="loans")
    width = width_of("histogram", "modelyard_batch_rows")
    assert one.counters.cells[batches + width - 1] == len(ROWS), "rows of all batches"


def test_disagreements_are_recorded_under_the_answers_id_and_only_a_sample_of_them(make: Make) -> None:
    one = make()
    row = next(row for row in ROWS if expected(row) < 0.3 <= expected(row, OTHER))
    ask_all(one, [row] * 40)
    one.turn_until(lambda: one.done == 40, "every copy is compared")
    records = one.records()
    answered = {record.request_id: record for record in records if isinstance(record, Prediction)}
    disagreements = [record for record in records if isinstance(record, Disagreement)]
    assert len(answered) == 40
    assert 1 <= len(disagreements) <= 2 * SAMPLES, "ten a second, and the second may have ended meanwhile"
    for record in disagreements:
        assert record.request_id in answered
        assert (record.endpoint, record.version, record.shadow, record.revision) == ("loans", 1, 2, 1)
        assert record.answered == pytest.approx(expected(row), abs=1e-6)
        assert record.shadowed == pytest.approx(expected(row, OTHER), abs=1e-6)
    assert one.count("modelyard_shadow_differing") == 40


def test_the_same_version_never_differs(make: Make) -> None:
    one = make(bases=(0.0, 0.0))
    ask_all(one, ROWS)
    one.turn_until(lambda: one.done == len(ROWS), "every copy is compared")
    assert one.count("modelyard_shadow_compared") == len(ROWS)
    assert one.count("modelyard_shadow_differing") == 0


@pytest.mark.parametrize("body", [b'{"instances": %b}', b'{"dataframe_records": %b}', b"%b"])
@pytest.mark.parametrize("is_alike", [True, False])
def test_every_dialects_calls_are_copied(make: Make, body: bytes, is_alike: bool) -> None:
    """Where the contracts differ, the shadow reads the body again by its own."""
    narrower = changed("income", maximum=5_000.0)
    one = make(contracts={} if is_alike else {2: narrower})
    dialect = dialects.V1 if b"instances" in body else dialects.MLFLOW if body != b"%b" else dialects.NATIVE
    said = [one.ask(body % msgspec.json.encode([row]), dialect) for row in ROWS]
    one.turn_until(lambda: one.done == len(ROWS), "every copy is compared")
    assert [each.status for each in said] == [200] * len(ROWS)
    assert one.count("modelyard_shadow_compared") == len(ROWS)
    assert one.count("modelyard_shadow_differing") == sum(
        (expected(row) >= 0.3) != (expected(row, OTHER) >= 0.3) for row in ROWS
    )


def test_what_the_shadows_contract_refuses_is_counted_and_the_answer_stands(make: Make) -> None:
    one = make(contracts={2: changed("income", maximum=100.0)})
    answers = ask_all(one, ROWS)
    refused = sum(row["income"] == 900.0 for row in ROWS)
    one.turn_until(lambda: one.done == len(ROWS), "every copy is done with")
    assert {answer["version"] for answer in answers} == {1}
    assert one.count("modelyard_shadow_failed", reason="violation") == refused
    assert one.count("modelyard_shadow_compared") == len(ROWS) - refused


def test_a_share_of_the_calls_is_copied(make: Make) -> None:
    random.seed(4)
    one = make()
    one.follow(Shadow(2, percent=30))
    for _ in range(10):
        ask_all(one, ROWS)
    count = 10 * len(ROWS)
    one.turn_until(lambda: one.route.shadow is not None and not one.route.shadow._waiting, "all copies are taken")
    expected_copies, deviation = 0.3 * count, (0.21 * count) ** 0.5
    assert abs(one.done - expected_copies) <= 5 * deviation + shadow.COPIES


def test_a_shadow_that_hangs_holds_nobody_up_and_its_backlog_is_bounded(make: Make) -> None:
    one = make(max_rows=50)
    hangs, entered = threading.Event(), threading.Event()

    def hang(inputs: Any) -> None:
        entered.set()
        hangs.wait(20)

    one.spies[2].first = hang
    one.replicas[2].inline = 0  # as of a version that takes more than a millisecond
    ask_all(one, ROWS[:1])
    one.turn_until(entered.is_set, "the shadow hangs")
    ask_all(one, [ROWS[at % len(ROWS)] for at in range(200)])
    one.turn_until(lambda: one.count("modelyard_shadow_dropped") == 150, "what finds no room is dropped")
    assert not one.replicas[2].is_idle, "a version is not freed while its shadow computes"
    assert one.replicas[2].is_quiet
    hangs.set()
    one.turn_until(lambda: one.count("modelyard_shadow_compared") == 51, "the rest is compared")
    assert one.replicas[2].is_idle


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_quick_table_is_asked_on_the_loop_and_all_else_on_a_thread(make: Make, is_quick: bool) -> None:
    one = make()
    threads = set()
    one.spies[2].first = lambda inputs: threads.add(threading.current_thread())
    if not is_quick:
        one.replicas[2].inline = 0
    ask_all(one, ROWS)
    one.turn_until(lambda: one.done == len(ROWS), "every copy is compared")
    assert (threads == {threading.main_thread()}) is is_quick
    assert len(threads) == 1


def test_a_shadow_that_proves_slower_than_measured_leaves_the_loop(make: Make) -> None:
    one = make()
    threads = []

    def work(inputs: Any) -> None:
        threads.append(threading.current_thread())
        began = time.thread_time_ns()
        while time.thread_time_ns() < began + 2 * shadow.SLOW_NS:
            pass

    one.spies[2].first = work
    for turn in range(1, 4):
        ask_all(one, ROWS[:3])
        one.turn_until(lambda turn=turn: one.done == 3 * turn, "every copy is compared")
    assert threads[0] is threading.main_thread()
    assert threading.main_thread() not in threads[1:]


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_shadow_that_raises_fails_alone(make: Make, is_quick: bool) -> None:
    one = make()
    one.replicas[2].inline *= is_quick

    def raise_on_old(inputs: Any) -> None:
        if (inputs[:, 0] > 80).any():
            raise RuntimeError("a fault of the model")

    one.spies[2].first = raise_on_old
    answers = ask_all(one, ROWS)
    assert [answer["version"] for answer in answers] == [1] * len(ROWS)
    old = sum(row["age"] > 80 for row in ROWS)
    one.turn_until(lambda: one.done == len(ROWS), "every copy is done with")
    assert one.count("modelyard_shadow_failed", reason="model_failed") == old
    assert one.count("modelyard_shadow_compared") == len(ROWS) - old


def test_a_shadow_of_other_outputs_cannot_be_compared(make: Make) -> None:
    one = make()
    predict = one.spies[2]._loaded.predict
    one.spies[2]._loaded.predict = lambda inputs: {"prediction": predict(inputs)["probability"]}  # type: ignore[method-assign]
    ask_all(one, ROWS[:3])
    one.turn_until(lambda: one.done == 3, "every copy is done with")
    assert one.count("modelyard_shadow_failed", reason="incomparable") == 3


def test_answers_go_first(make: Make) -> None:
    """While a call of the endpoint waits or computes, no copy is begun."""
    one = make()
    release, entered = threading.Event(), threading.Event()

    def hold(inputs: Any) -> None:
        entered.set()
        release.wait(20)

    ask_all(one, ROWS[:5])
    one.spies[1].first = hold
    one.replicas[1].inline = 100
    large = one.ask([CONTRACT.example] * 900)  # to the lane
    one.turn_until(entered.is_set, "a call computes")
    before = len(one.spies[2].asked)
    looks = count_looks(one)
    one.turn_until(lambda: looks() >= 5, "the shadow has looked five times")
    assert len(one.spies[2].asked) == before
    release.set()
    one.turn_until(lambda: one.done == 6, "then it is compared")
    assert large.status == 200


def count_looks(one: Shadowed) -> Callable[[], int]:
    """How often the shadow has looked whether it may begin, from now on."""
    held = one.route.shadow
    assert held is not None
    seen = [0]
    is_behind = held._is_behind

    def look() -> bool:
        seen[0] += 1
        return is_behind()

    held._is_behind = look  # type: ignore[method-assign]
    held._look_in(0.0)
    return lambda: seen[0]


def test_all_answers_of_a_batch_leave_before_any_is_copied(make: Make) -> None:
    one = make()
    held = one.route.shadow
    assert held is not None
    kept: list[int] = []
    keep = held._keep
    said = [one.ask(row) for row in ROWS]

    def look() -> None:
        kept.append(sum(bool(each.status) for each in said))
        keep()

    held._keep = look  # type: ignore[method-assign]
    one.turn_until(lambda: one.done == len(ROWS), "every copy is compared")
    assert kept[0] == len(ROWS)


def test_a_call_of_many_rows_is_compared_in_parts(make: Make) -> None:
    one = make()
    one.replicas[2].inline = 7
    rows = [ROWS[at % len(ROWS)] for at in range(100)]
    said = one.ask(rows)
    one.turn_until(lambda: one.done == 1, "it is compared")
    assert said.status == 200
    assert max(one.spies[2].asked) == 7 == step_of(one.replicas[2])
    difference = one.counters.gauge("modelyard_shadow_difference", endpoint="loans", version="2")
    largest = max(expected(row, OTHER) - expected(row) for row in rows)
    assert one.counters.cells[difference] / 1e6 == pytest.approx(largest, abs=1e-5)


def test_between_two_parts_answered_calls_go_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "WAIT_S", 0.0)
    one = make()
    held = one.route.shadow
    assert held is not None
    monkeypatch.setattr(held, "_is_behind", lambda: True)
    wide = type("Wide", (), {"rows": 100, "inputs": np.zeros((100, 5), np.float32)})()
    one.replicas[2].inline = 7
    with pytest.raises(Overloaded):
        held._predict(one.replicas[2], [wide])


def test_copies_that_wait_for_long_are_dropped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "WAIT_S", -1.0)
    one = make()
    ask_all(one, ROWS)
    one.turn_until(lambda: one.count("modelyard_shadow_dropped") == len(ROWS), "they are dropped")
    assert one.spies[2].asked == []


def test_bytes_are_bounded_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "WAITING_BYTES", 60)
    one = make()
    ask_all(one, ROWS)
    one.turn_until(lambda: one.done == len(ROWS), "every copy is done with")
    assert one.count("modelyard_shadow_dropped") >= len(ROWS) - 5


def test_pinned_and_refused_calls_are_not_copied(make: Make) -> None:
    one = make()
    pinned = one.ask(ROWS[0], pin="2")
    refused = one.ask({"age": 3})
    one.turn_until(lambda: pinned.status, "the pinned call is answered")
    assert pinned.json()["version"] == 2
    assert refused.error is not None
    ask_all(one, ROWS[:1])
    one.turn_until(lambda: one.done == 1, "only the call of the split is compared")
    assert one.count("modelyard_shadow_compared") == 1


def test_nobodys_quota_pays_for_a_copy(make: Make) -> None:
    charged: list[int] = []

    class Quota:
        def charge_rest(self, rows: int) -> None:
            charged.append(rows)

    one = make()
    caller = Principal("one", ("infer",), Quota(), None)  # type: ignore[arg-type]
    said = one.ask(ROWS[:3], principal=caller)
    one.turn_until(lambda: one.done == 1, "it is compared")
    assert said.status == 200
    assert charged == [3]


def test_a_shadow_lives_on_from_plan_to_plan(make: Make) -> None:
    one = make()
    hangs = threading.Event()

    def hang(inputs: Any) -> None:
        hangs.wait(20)

    one.spies[2].first = hang
    one.replicas[2].inline = 0
    ask_all(one, ROWS[:40])
    before = one.route.shadow
    one.follow(Shadow(2, percent=50), cutoff=0.9)
    assert one.route.shadow is before
    hangs.set()
    one.turn_until(lambda: one.done == 40, "what waited is compared")
    assert one.count("modelyard_shadow_dropped") == 0


def test_a_shadow_that_the_plan_wants_no_more_drops_what_waits(make: Make) -> None:
    one = make()
    hangs, entered = threading.Event(), threading.Event()

    def hang(inputs: Any) -> None:
        entered.set()
        hangs.wait(20)

    one.spies[2].first = hang
    one.replicas[2].inline = 0
    ask_all(one, ROWS[:1])
    one.turn_until(entered.is_set, "the shadow hangs")
    ask_all(one, ROWS[:40])
    one.turn_until(lambda: one.route.shadow and len(one.route.shadow._waiting) == 40, "copies wait")
    one.follow(None)
    assert one.route.shadow is None
    assert one.count("modelyard_shadow_dropped") == 40
    hangs.set()
    one.turn_until(lambda: one.replicas[2].is_idle, "the last batch ends")
    assert one.count("modelyard_shadow_compared") == 1
    ask_all(one, ROWS[:5])
    assert one.done == 41


def test_another_version_is_another_shadow(make: Make) -> None:
    one = make(bases=(0.0, OTHER, -1.0))
    one.follow(Shadow(2))
    ask_all(one, ROWS)
    one.turn_until(lambda: one.count("modelyard_shadow_compared", 2) == len(ROWS), "version 2 is compared")
    one.follow(Shadow(3))
    ask_all(one, ROWS)
    one.turn_until(lambda: one.count("modelyard_shadow_compared", 3) == len(ROWS), "version 3 is compared")
    assert one.count("modelyard_shadow_compared", 2) == len(ROWS)


def test_a_canary_may_be_shadowed_by_the_champion(make: Make) -> None:
    one = make()
    one.follow(Shadow(1), split=TrafficSplit({1: 50, 2: 50}, "column:income"))
    answers = ask_all(one, ROWS)
    one.turn_until(lambda: one.count("modelyard_shadow_compared", 1) == len(ROWS), "every copy is compared")
    other = [row for row, answer in zip(ROWS, answers, strict=True) if answer["version"] == 2]
    differing = sum((expected(row) >= 0.3) != (expected(row, OTHER) >= 0.3) for row in other)
    assert one.count("modelyard_shadow_differing", 1) == differing


def test_a_fault_of_ours_does_not_end_the_shadow(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make()
    with monkeypatch.context() as patch:
        patch.setattr(shadow, "compare", lambda *_: 1 / 0)
        ask_all(one, ROWS[:4])
        one.turn_until(lambda: one.done == 4, "they have failed")
    assert one.count("modelyard_shadow_failed", reason="internal") == 4
    ask_all(one, ROWS[:4])
    one.turn_until(lambda: one.count("modelyard_shadow_compared") == 4, "the next ones are compared")


@pytest.mark.parametrize(
    ("contract", "is_alike"),
    [
        (CONTRACT, True),
        (changed("income", clip=(0.0, 10.0), fill=3.0, typical=4.0, bins=(1.0,)), True),  # fitted anew
        (changed("income", maximum=10.0), False),
        (changed("home", categories=("rent", "owner", "other")), False),
        (changed("guarantor", default=None), False),
        (msgspec.structs.replace(CONTRACT, columns=(*CONTRACT.columns, Column("id", "number", role="unused"))), False),
    ],
)
def test_a_body_is_read_again_only_where_the_rules_differ(tmp_path: Path, contract: Contract, is_alike: bool) -> None:
    shelf = Shelf(tmp_path)
    one, other = (LoadedVersion(shelf.open(store(shelf, 0.0, each))) for each in (CONTRACT, contract))
    assert reads_alike(one, other) is is_alike
    if is_alike:
        rows = [CONTRACT.example, CONTRACT.example | {"income": None}]
        assert np.array_equal(one.encoder.encode_rows(rows), other.encoder.encode_rows(rows), equal_nan=True)
