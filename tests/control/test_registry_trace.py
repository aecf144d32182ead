"""From a request id to version, plan revision, approver and training; and what an id proves when its record is gone."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.features import Column, Contract
from modelyard.contract.home import Home
from modelyard.contract.plan import TrafficSplit
from modelyard.contract.telemetry import Feedback, Prediction, Record, frame
from modelyard.control.deployments.reading import read_plan
from modelyard.secure.request_ids import RequestIds, request_ids

COLUMNS = (
    Column("age", "integer"),
    Column("home", "category", categories=("owner", "rent"), nullable=True),
    Column("guarantor", "boolean", default=False),
    Column("phone", "number", pii="personal"),
)


class Desk:
    """A home with a deployed model, and a pen for records as gateways write them."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ids = request_ids(home.keys)
        self.now = time.time_ns()

    def answered(
        self, principal: str = "anna", endpoint: str = "scores", version: int = 1, **more: object
    ) -> Prediction:
        plan = read_plan(self.home)
        known = {
            "request_id": self.ids.new(principal, endpoint),
            "time_ns": self.now,
            "endpoint": endpoint,
            "version": version,
            "revision": plan.revision if plan else 0,
            "principal": principal,
            "rows": 1,
            "inputs": np.array([[35.0, 1.0, 1.0, np.nan]], "<f4").tobytes(),
            "outputs": np.array([0.25], "<f4").tobytes(),
            "duration_ns": 1_500_000,
        }
        return Prediction(**(known | more))  # type: ignore[arg-type]

    def write(self, *batches: Record, worker: int = 0, began: int | None = None) -> Path:
        path = self.home.records / f"worker-{worker}-{began or self.now:020d}.records"
        with open(path, "ab") as file:
            file.write(b"".join(frame(one) for one in batches))
        return path


@pytest.fixture
def desk(home: Home, register) -> Desk:
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.services import deploy

    for seed in (1, 2):
        register(seed, columns=COLUMNS)
    create_key("anna", ["infer"], by="test")
    deploy("scores", 1, by="li")
    return Desk(home)


def test_an_answer_leads_to_version_revision_and_whoever_put_it_there(desk: Desk) -> None:
    from modelyard.control.deployments.services import set_traffic
    from modelyard.control.registry.services import find_version
    from modelyard.control.registry.tracing import trace

    early = desk.answered()
    set_traffic("scores", TrafficSplit({1: 60, 2: 40}), by="wu")
    late = desk.answered(version=2, caller_id="their-own")
    set_traffic("scores", TrafficSplit({2: 100}), by="zhao")
    desk.write(early, late)

    found = trace(early.request_id)
    (one,) = found.requests
    assert (found.kind, found.genuine, found.endpoint, found.principal) == ("request", True, "scores", "anna")
    assert (one.model, one.version, one.revision, one.percent) == ("scores", 1, early.revision, 100)
    assert (one.put_there.by, one.put_there.verb, one.last_change) == ("li", "deploy", one.put_there)
    assert (one.duration_ms, one.rows, one.seen) == (1.5, 1, None)
    assert (one.origin.digest, one.origin.run) == (find_version("scores", 1).digest, None)

    (one,) = trace(late.request_id).requests
    assert (one.version, one.percent, one.put_there.by, one.put_there.weights) == (2, 40, "wu", {1: 60, 2: 40})


def test_who_raised_a_share_is_not_who_put_it_there(desk: Desk) -> None:
    from modelyard.control.deployments.services import set_traffic
    from modelyard.control.registry.tracing import trace

    set_traffic("scores", TrafficSplit({1: 99, 2: 1}), by="wu")
    set_traffic("scores", TrafficSplit({1: 50, 2: 50}), by="rollout:1")
    record = desk.answered(version=2)
    desk.write(record)
    (one,) = trace(record.request_id).requests
    assert (one.put_there.by, one.put_there.weights[2]) == ("wu", 1)
    assert (one.last_change.by, one.last_change.weights[2]) == ("rollout:1", 50)


def test_a_pinned_call_was_put_there_by_nobody(desk: Desk) -> None:
    from modelyard.control.registry.tracing import trace

    record = desk.answered(version=2)
    desk.write(record)
    (one,) = trace(record.request_id).requests
    assert (one.percent, one.put_there, one.last_change.by) == (0, None, "li")


def test_a_training_is_found(desk: Desk) -> None:
    from modelyard.control.registry.services import find_version
    from modelyard.control.registry.tracing import trace
    from modelyard.control.training.services import begin_run, end_run

    run = begin_run(by="li", model="scores", source="table.csv", data_digest="d" * 64)
    end_run(run, "", version=find_version("scores", 1))
    record = desk.answered()
    desk.write(record)
    assert trace(record.request_id).requests[0].origin.run == run.pk


def test_a_callers_own_id_may_name_several_requests(desk: Desk) -> None:
    from modelyard.control.registry.tracing import MAX_CALLS, trace

    mine = [desk.answered(caller_id="order-7", time_ns=desk.now + number) for number in range(MAX_CALLS + 2)]
    desk.write(*mine[:5], desk.answered(caller_id="order-77"), worker=0)
    desk.write(*mine[5:], worker=1)
    desk.write(Feedback(mine[-1].request_id, desk.now + 9, "scores", "anna", "bad"))
    found = trace("order-7")
    assert (found.kind, found.genuine) == ("caller", None)
    newest = [one.request_id for one in reversed(mine)][:MAX_CALLS]
    assert [one.request_id for one in found.requests] == newest
    assert [truth.truth for truth in found.requests[0].feedback] == ["bad"]
    assert trace("order-77").requests[0].caller_id == "order-77"


def test_a_long_id_of_a_caller_is_found_by_what_the_record_keeps(desk: Desk) -> None:
    from modelyard.control.registry.tracing import trace

    desk.write(desk.answered(caller_id="y" * 64))
    assert len(trace("y" * 200).requests) == 1


def test_truths_that_came_later_are_told(desk: Desk) -> None:
    from modelyard.control.registry.tracing import trace

    record = desk.answered()
    desk.write(record)
    later = desk.now + 86400 * 10**9
    desk.write(Feedback(record.request_id, later, "scores", "anna", "bad", 0), worker=1, began=later)
    (truth,) = trace(record.request_id).requests[0].feedback
    assert (truth.truth, truth.row, truth.principal) == ("bad", 0, "anna")


@pytest.mark.parametrize("made_up", ["0" * 32, "f" * 32, "not-an-id", "A" * 32])
def test_a_made_up_id_says_so(desk: Desk, made_up: str) -> None:
    from modelyard.control.registry.tracing import trace

    desk.write(desk.answered())
    with pytest.raises(NotFound, match="no record bears"):
        trace(made_up)
    with pytest.raises(InvalidInput):
        trace("  ")


def test_an_id_whose_record_is_gone_still_proves_who_asked(desk: Desk) -> None:
    from modelyard.control.registry.tracing import trace

    kept = desk.answered("anna", "scores")
    gone = desk.ids.new("anna", "scores")
    found = trace(gone)
    assert (found.genuine, found.endpoint, found.principal) == (True, "scores", "anna")
    assert (found.requests, found.written_between, found.records_since) == ((), None, None)
    path = desk.write(kept)
    os.utime(path, ns=(desk.now + 10**9, desk.now + 10**9))
    found = trace(gone)
    start, end = found.written_between
    assert (end - start).total_seconds() == pytest.approx(1, abs=1e-3)
    assert found.records_since == start
    assert trace(desk.ids.new("", "")).endpoint == ""  # refused before anybody was known
    assert trace(desk.ids.new("anonymous", "scores")).principal == "anonymous"


def test_an_endpoint_that_was_taken_away_is_still_proven(desk: Desk) -> None:
    from modelyard.control.deployments.services import deploy, undeploy
    from modelyard.control.registry.tracing import trace

    deploy("scores", 1, "door", by="li")
    record = desk.answered(endpoint="door")
    undeploy("door", by="li")
    gone = desk.ids.new("anna", "door")
    assert trace(gone).endpoint == "door"
    desk.write(record)
    (one,) = trace(record.request_id).requests
    assert (one.endpoint, one.model, one.put_there.by) == ("door", "scores", "li")


def test_another_homes_id_is_not_ours(desk: Desk) -> None:
    from modelyard.control.registry.tracing import trace

    with pytest.raises(NotFound, match="did not make this id"):
        trace(RequestIds(b"another key" * 3).new("anna", "scores"))


def test_inputs_are_shown_without_what_is_personal(desk: Desk) -> None:
    from modelyard.control.registry.tracing import trace

    inputs = np.array([[35.0, 1.0, 1.0, 5550100.0], [18.0, np.nan, 0.0, np.nan]], "<f4").tobytes()
    record = desk.answered(rows=2, inputs=inputs, outputs=np.array([0.25, 0.5], "<f4").tobytes())
    desk.write(record)
    seen = trace(record.request_id, inputs=True).requests[0].seen
    assert seen.rows == [
        {"age": 35, "home": "rent", "guarantor": True},
        {"age": 18, "home": None, "guarantor": False},
    ]
    assert (seen.outputs, seen.withheld, seen.reason) == ([0.25, 0.5], ("phone",), "")


def test_what_does_not_fit_is_said_and_not_guessed(desk: Desk) -> None:
    from modelyard.control.registry.tracing import readable, trace

    torn, empty = desk.answered(inputs=b"\0" * 8), desk.answered(inputs=b"")
    desk.write(torn, empty)
    assert "does not fit" in trace(torn.request_id, inputs=True).requests[0].seen.reason
    assert "tensors" in trace(empty.request_id, inputs=True).requests[0].seen.reason
    with pytest.raises(InvalidInput):
        readable(Contract(COLUMNS), b"", 0)


def test_only_segments_that_can_hold_an_id_are_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control.registry import records

    mine = desk.answered()
    desk.write(mine)
    others = [Desk(desk.home) for _ in range(5)]
    for number, other in enumerate(others, start=1):
        other.write(other.answered(), worker=number)
    read: list[Path] = []
    whole = records._bytes

    def noted(segment: records.Segment) -> bytes:
        read.append(segment.path)
        return whole(segment)

    monkeypatch.setattr(records, "_bytes", noted)
    assert records.find_request(desk.home.records, mine.request_id) == mine
    assert len(read) == 1
    read.clear()
    assert records.find_request(desk.home.records, "0" * 32) is None
    assert read == []


def test_a_segment_that_goes_meanwhile_is_no_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control.registry import records

    mine = desk.answered(caller_id="order-7")
    path = desk.write(mine)
    there = records.segments(desk.home.records)
    path.unlink()
    monkeypatch.setattr(records, "segments", lambda folder: there)
    assert records.find_request(desk.home.records, mine.request_id) is None
    assert records.find_truths(desk.home.records, [mine.request_id]) == []
    assert records.find_caller(desk.home.records, "order-7", 5) == []


def test_a_segment_that_begins_with_truths_is_known_by_its_first_prediction(desk: Desk) -> None:
    from modelyard.control.registry import records

    stranger = RequestIds(b"k" * 32).new("anna", "scores")
    truths = [Feedback(stranger, desk.now, "scores", "anna", "good" * 20) for _ in range(1_000)]
    mine = desk.answered()
    desk.write(*truths, mine)
    assert records.find_request(desk.home.records, mine.request_id) == mine
