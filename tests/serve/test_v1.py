"""V1 through a real gateway: every form of the same rows, the same right answers; mistakes named, no value said."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.forms import BASES, NAMES, a_plan, a_row, store_all, v1_forms
from kit.gateway import Gateway, gateway
from kit.lines import Line, Reply, request
from kit.versions import CONTRACT, MISSING, WEIGHTS, expected
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

pytestmark = pytest.mark.xdist_group("v1")

FORMS = sorted(v1_forms([CONTRACT.example]))
PREDICT = "/v1/models/loans:predict"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("v1") / "home"
    digests = store_all(Shelf(Home(root).prepare().shelf))
    with gateway(root, a_plan(1, digests), max_rows=300, bulk_bytes=2_000) as one:  # larger bodies go another way
        yield one


@pytest.fixture(scope="module")
def line(running: Gateway) -> Iterator[Line]:
    with Line(running.port) as one:
        yield one


def ask(line: Line, path: str, body: object, **headers: str) -> Reply:
    (reply,) = line.ask(request(path, body, **headers))
    return reply


def predictions(reply: Reply) -> list[Any]:
    assert reply.status == 200, reply.body
    said = reply.json()
    return said.get("data", said)["predictions"]


# --- right answers


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("count", [1, 2, 40])
def test_every_form_of_the_same_rows_is_answered_alike(line: Line, name: str, count: int) -> None:
    chance = random.Random(count)
    rows = [a_row(chance) for _ in range(count)]
    form = v1_forms(rows)[name]
    said = predictions(ask(line, form.path, form.body, **form.headers))
    assert [one["probability"] for one in said] == pytest.approx([expected(row) for row in rows], abs=1e-6)
    native = ask(line, "/loans", rows).json()["predictions"]
    assert [(one["decision"], one["score"]) for one in said] == [(one["decision"], one["score"]) for one in native]


@given(chance=st.randoms(use_true_random=False), names=st.lists(st.sampled_from(FORMS), min_size=1, max_size=6))
def test_forms_may_be_mixed_on_one_connection(line: Line, chance: random.Random, names: list[str]) -> None:
    asked = [[a_row(chance) for _ in range(chance.randint(1, 5))] for _ in names]
    forms = [v1_forms(rows)[name] for rows, name in zip(asked, names, strict=True)]
    replies = line.ask(*(request(form.path, form.body, **form.headers) for form in forms))
    for rows, reply in zip(asked, replies, strict=True):
        said = [one["probability"] for one in predictions(reply)]
        assert said == pytest.approx([expected(row) for row in rows], abs=1e-6)


def test_one_output_is_a_bare_value_and_inputs_are_answered_by_row_and_by_column(line: Line) -> None:
    said = ask(line, "/v1/models/sums:predict", {"instances": [[1, 2], [3, 4.5]]}).json()
    assert said["predictions"] == [3.0, 7.5]
    assert "outputs" not in said
    assert (said["model_name"], said["model_version"]) == ("sums", "1")
    said = ask(line, "/v1/models/sums:predict", {"inputs": {"x": [1, 3], "y": [2, 4.5]}}).json()
    assert (said["predictions"], said["outputs"]) == ([3.0, 7.5], [3.0, 7.5])
    said = ask(line, PREDICT, {"inputs": {name: [CONTRACT.example[name]] for name in NAMES}}).json()
    assert set(said["outputs"]) == {"probability", "score", "decision"}
    assert said["predictions"] == [{name: values[0] for name, values in said["outputs"].items()}]


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"rows": [[1, 2], [3, 4]]}},
        {"inputs": {"x": [1, 3], "y": [2, 4]}},
    ],
)
def test_a_matrix_is_its_rows_its_columns_or_its_one_tensor(line: Line, body: object) -> None:
    assert predictions(ask(line, "/v1/models/matrix:predict", body)) == [3.0, 7.0]


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"a": [1, 2, 3], "name": "é"}, {"name": "b", "a": [4, 5, 6.5]}]},
        {"inputs": {"a": [[1, 2, 3], [4, 5, 6.5]], "name": ["é", "b"]}},
        {"inputs": {"a": [[1, 2, 3], [4, 5, 6.5]], "name": [{"b64": "w6k="}, "b"]}},
        {"inputs": [{"a": [1, 2, 3], "name": "é"}, {"name": "b", "a": [4, 5, 6.5]}]},
    ],
)
def test_tensors_come_by_row_or_by_name(line: Line, body: object) -> None:
    said = predictions(ask(line, "/v1/models/pair:predict", body))
    assert said == [{"total": 6.0, "echo": "é"}, {"total": 15.5, "echo": "b"}]


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("form", ["instances", "inputs", "named", "objects"])
def test_the_only_tensor_of_any_width_needs_no_name(line: Line, form: str, width: int) -> None:
    values = [[float(row * 10 + at) for at in range(width)] for row in range(3)]
    body = {
        "instances": {"instances": values},
        "inputs": {"inputs": values},
        "named": {"inputs": {"x": values}},
        "objects": {"instances": [{"x": row} for row in values]},
    }[form]
    said = predictions(ask(line, "/v1/models/vectors:predict", body))
    assert said == [[2 * value for value in row] for row in values]


def test_a_tensor_takes_bare_infinities_and_a_table_names_its_rule(line: Line) -> None:
    reply = ask(line, "/v1/models/vectors:predict", b'{"instances": [[1, Infinity], [-Infinity, NaN]]}')
    assert predictions(reply) == [[2.0, None], [None, None]]  # JSON has no form for them
    assert predictions(ask(line, "/v1/models/vectors:predict", {"instances": [[1, None]]})) == [[2.0, None]]
    reply = ask(line, "/v1/models/sums:predict", b'{"instances": [[1, 2], [1, Infinity]]}')
    assert reply.status == 400
    assert reply.json()["violations"] == [
        {"rule": "finite", "message": "must be a finite number", "column": "y", "row": 1}
    ]


def test_texts_are_values_of_their_own(line: Line) -> None:
    encoded = base64.b64encode("金额".encode()).decode()
    reply = ask(line, "/v1/models/words:predict", {"instances": ["plain", {"b64": encoded}, ""]})
    assert predictions(reply) == ["plain", "金额", ""]


# --- versions, explanations, events


@pytest.mark.parametrize(
    ("path", "version"),
    [("", 1), ("/versions/1", 1), ("/versions/2", 2), ("/labels/champion", 2), ("/versions/champion", 2)],
)
def test_a_version_or_a_label_in_the_path_is_the_one_that_answers(line: Line, path: str, version: int) -> None:
    reply = ask(line, f"/v1/models/loans{path}:predict", {"instances": [CONTRACT.example]})
    (said,) = predictions(reply)
    assert said["probability"] == pytest.approx(expected(CONTRACT.example, BASES[version]), abs=1e-6)
    assert reply.json()["model_version"] == str(version)


def test_an_explanation_sums_to_the_log_odds_of_each_row(line: Line) -> None:
    rows = [CONTRACT.example, CONTRACT.example | {"income": None, "age": 60}]
    for path, base in (("", BASES[1]), ("/versions/2", BASES[2])):
        said = ask(line, f"/v1/models/loans{path}:explain", {"instances": rows}).json()
        for row, one in zip(rows, said["explanations"], strict=True):
            assert one["probability"] == pytest.approx(expected(row, base), abs=1e-6)
            assert one["base"] == base
            assert list(one["contributions"]) == NAMES
            assert one["contributions"]["age"] == pytest.approx(float(WEIGHTS[0]) * row["age"], abs=1e-5)
    assert said["explanations"][1]["contributions"]["income"] == pytest.approx(float(MISSING[1]), abs=1e-6)
    refused = ask(line, "/v1/models/sums:explain", {"instances": [[1, 2]]})
    assert refused.status == 404
    assert "no explanation" in refused.json()["error"]


def test_an_event_is_answered_by_an_event_of_its_kind(line: Line) -> None:
    forms = v1_forms([CONTRACT.example])
    plain = ask(line, PREDICT, forms["objects"].body)
    binary = ask(line, PREDICT, forms["binary event"].body, **forms["binary event"].headers)
    structured = ask(line, PREDICT, forms["structured event"].body, **forms["structured event"].headers)
    assert "ce-id" not in plain.headers
    assert binary.headers["content-type"] == "application/json"
    assert binary.headers["ce-specversion"] == "1.0"
    assert binary.headers["ce-source"] == "io.kserve.inference.loans"
    assert binary.headers["ce-id"] == binary.json()["request_id"]
    assert structured.headers["content-type"] == "application/cloudevents+json"
    event = structured.json()
    assert (event["specversion"], event["type"]) == ("1.0", "io.kserve.inference.response")
    assert event["id"] == event["data"]["request_id"]
    assert event["data"]["predictions"] == binary.json()["predictions"] == plain.json()["predictions"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t"}, {}, 400),  # without a source
        ({"ce-specversion": "0.1", "ce-id": "1", "ce-type": "t", "ce-source": "s"}, {}, 400),
        ({"Content-Type": "application/cloudevents+json"}, {"specversion": "1.0", "id": "1", "type": "t"}, 400),
        (
            {"Content-Type": "application/cloudevents+json"},
            {"specversion": "1.0", "id": "1", "type": "t", "source": "s"},  # without data
            400,
        ),
        ({"Content-Type": "application/cloudevents-batch+json"}, [], 415),
    ],
)
def test_an_event_that_is_none_is_refused(line: Line, headers: dict[str, str], body: Any, status: int) -> None:
    good = {"instances": [CONTRACT.example]}
    reply = ask(line, PREDICT, body or good, **headers)
    assert reply.status == status, reply.body
    assert reply.json()["code"] == "invalid_input"


# --- what is there


def test_the_list_and_the_status_serve_every_dialect_that_shares_the_path(line: Line) -> None:
    (said,) = (reply.json() for reply in line.ask(request("/v1/models", method="GET")))
    assert said["models"] == sorted(said["models"])
    assert "loans" in said["models"]
    assert said["object"] == "list"
    assert [one["id"] for one in said["data"]] == said["models"]
    assert all(one["object"] == "model" and one["created"] == 1767225600 for one in said["data"])
    (said,) = (reply.json() for reply in line.ask(request("/v1/models/loans", method="GET")))
    assert (said["name"], said["ready"], said["id"]) == ("loans", True, "loans")
    good = {"error_code": "OK", "error_message": ""}
    assert said["model_version_status"] == [
        {"version": version, "state": "AVAILABLE", "status": good} for version in ("1", "2")
    ]
    (said,) = (reply.json() for reply in line.ask(request("/v1/models/loans/labels/champion", method="GET")))
    assert [one["version"] for one in said["model_version_status"]] == ["2"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nobody", 404),
        ("POST", "/v1/models/nobody:predict", 404),
        ("POST", "/v1/models/loans/versions/9:predict", 404),
        ("GET", "/v1/models/loans/labels/nobody", 404),
        ("POST", "/v1/models/loans:classify", 404),
        ("POST", "/v1/models/:predict", 404),
        ("POST", "/v1/models/loans/:predict", 404),
        ("POST", "/v1/models/loans/versions/1:", 404),
        ("GET", "/v1/models/loans:predict", 405),
        ("POST", "/v1/models/loans", 405),
        ("GET", "/v1/nothing", 404),
    ],
)
def test_what_is_not_there_says_so_in_the_protocols_words(line: Line, method: str, path: str, status: int) -> None:
    (reply,) = line.ask(request(path, {"instances": []} if method == "POST" else b"", method))
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error", "code", "request_id"}


def test_a_gateway_without_a_plan_is_not_ready(tmp_path: Any) -> None:
    with gateway(tmp_path / "home") as empty:
        reply = empty.get("/v1/models/loans")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert empty.get("/ping").status_code == empty.get("/health").status_code == 503


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        ("all", "/v1/models/loans:predict", 200),
        ("all", "/v1/models/loans:explain", 200),
        ("sums", "/v1/models/loans:predict", 403),
        ("sums", "/v1/models/sums:explain", 403),
        ("metrics", "/v1/models/loans:predict", 403),
        ("nobody", "/v1/models/loans:predict", 401),
    ],
)
def test_the_key_needs_the_scope_of_the_verb(line: Line, key: str, path: str, status: int) -> None:
    reply = ask(line, path, {"instances": [CONTRACT.example]}, X_API_Key=f"my_{key}")
    assert reply.status == status, reply.body
    assert status == 200 or reply.json()["error"]


# --- mistakes


def test_instances_that_are_no_list_are_refused_in_kserves_words(line: Line) -> None:
    for wrong in ({"age": 35}, "secret", 3, None, True):
        reply = ask(line, PREDICT, {"instances": wrong})
        assert (reply.status, reply.json()["error"]) == (400, 'Expected "instances" to be a list')


def broken(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [CONTRACT.example, CONTRACT.example | row]


@pytest.mark.parametrize(
    ("wrong", "column", "rule"),
    [
        ({"age": 7}, "age", "minimum"),
        ({"age": 35.5}, "age", "whole"),
        ({"age": "secret"}, "age", "type"),
        ({"age": True}, "age", "type"),
        ({"age": None}, "age", "missing"),
        ({"income": 1e30}, "income", "maximum"),
        ({"income": 10**400}, "income", "finite"),
        ({"income": [1]}, "income", "type"),
        ({"home": "secret"}, "home", "category"),
        ({"job": 3}, "job", "type"),
        ({"guarantor": "secret"}, "guarantor", "type"),
    ],
)
@pytest.mark.parametrize("form", ["objects", "lists", "columns"])
def test_violations_name_row_and_column_as_the_native_dialect_does(
    line: Line, wrong: dict[str, Any], column: str, rule: str, form: str
) -> None:
    rows = broken(wrong)
    sent = v1_forms(rows)[form]
    reply = ask(line, sent.path, sent.body)
    assert reply.status == 400, reply.body
    native = ask(line, "/loans", rows)
    assert native.status == 422
    assert reply.json()["violations"] == native.json()["violations"]
    assert reply.json()["error"] == native.json()["detail"]
    assert [(one["column"], one["row"], one["rule"]) for one in reply.json()["violations"]] == [(column, 1, rule)]
    assert b"secret" not in reply.body


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"instances": [], "inputs": []},
        {"instances": []},
        {"inputs": {}},
        {"inputs": {"age": 35}},
        {"inputs": {"age": [35], "income": [1, 2]}},
        {"inputs": "secret"},
        {"instances": ["secret"]},
        {"instances": [[35, 120.5, "rent", "fixed"]]},
        {"instances": [[35, 120.5, "rent", "fixed", False, "secret"]]},
        {"instances": [[35, 120.5, "rent", "fixed", False], {"age": 35}]},
        {"instances": [CONTRACT.example, [35, 120.5, "rent", "fixed", False]]},
        {"instances": [CONTRACT.example], "signature_name": "secret"},
        {"instances": [CONTRACT.example], "parameters": {"top": "secret"}},
        {"instances": [CONTRACT.example], "secret" * 20: 1},
        {"inputs": {"secret" * 20: [1]}},
        [CONTRACT.example],
        "secret",
    ],
)
def test_what_is_not_a_request_is_refused_and_not_repeated(line: Line, body: object) -> None:
    reply = ask(line, PREDICT, body)
    assert reply.status == 400, reply.body
    assert reply.json()["code"] == "invalid_input"
    assert b"secret" not in reply.body


@pytest.mark.parametrize(
    "more", [{"signature_name": "serving_default"}, {"signature_name": ""}, {"parameters": {}}, {"parameters": None}]
)
def test_what_says_nothing_is_accepted(line: Line, more: dict[str, Any]) -> None:
    assert ask(line, PREDICT, {"instances": [CONTRACT.example]} | more).status == 200


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("vectors", {"instances": [[1, 2], [3]]}),
        ("vectors", {"instances": [[1, 2], [3], [4, 5, 6]]}),  # ragged, yet as many values as an even one
        ("vectors", {"instances": [[[1]]]}),
        ("vectors", {"instances": [1, 2]}),
        ("vectors", {"instances": [["secret"]]}),
        ("vectors", {"instances": [[True]]}),
        ("vectors", {"instances": [[1, [2]]]}),
        ("vectors", {"inputs": {"y": [[1]]}}),
        ("pair", {"instances": [[1, 2, 3]]}),
        ("pair", {"instances": [{"a": [1, 2, 3]}]}),
        ("pair", {"instances": [{"a": [1, 2, 3], "name": "x"}, {"a": [1, 2, 3]}]}),
        ("pair", {"inputs": {"a": [[1, 2, 3]], "name": ["x", "y"]}}),
        ("pair", {"inputs": {"a": [[1, 2]], "name": ["x"]}}),
        ("words", {"instances": [{"b64": "secret!"}]}),
        ("words", {"instances": [{"b65": "AAAA"}]}),
        ("words", {"instances": [3]}),
        ("words", {"instances": [None]}),
    ],
)
def test_a_tensor_that_is_not_as_the_signature_says_is_refused(line: Line, model: str, body: object) -> None:
    reply = ask(line, f"/v1/models/{model}:predict", body)
    assert reply.status == 400, reply.body
    assert b"secret" not in reply.body


@pytest.mark.parametrize("form", ["objects", "lists", "columns"])
def test_more_rows_than_the_limit_are_refused_by_its_name(line: Line, form: str) -> None:
    sent = v1_forms([CONTRACT.example] * 301)[form]
    reply = ask(line, sent.path, sent.body)
    assert (reply.status, reply.json()["code"]) == (413, "too_large")
    assert "max_rows=300" in reply.json()["error"]
    assert ask(line, "/v1/models/vectors:predict", {"instances": [[1]] * 301}).status == 413


def test_values_of_columns_that_no_model_sees_are_taken_and_dropped(line: Line) -> None:
    row = CONTRACT.example | {"sex": "f"}
    for body in ({"instances": [row]}, {"inputs": {name: [value] for name, value in row.items()}}):
        (said,) = predictions(ask(line, PREDICT, body))
        assert said["probability"] == pytest.approx(expected(CONTRACT.example), abs=1e-6)


def test_columns_with_a_default_may_be_left_out(line: Line) -> None:
    row = {name: value for name, value in CONTRACT.example.items() if name != "guarantor"}
    for body in ({"instances": [row]}, {"inputs": {name: [value] for name, value in row.items()}}):
        (said,) = predictions(ask(line, PREDICT, body))
        assert said["probability"] == pytest.approx(expected(CONTRACT.example), abs=1e-6)
    reply = ask(line, PREDICT, {"inputs": {"age": [35]}})
    required = [one["column"] for one in reply.json()["violations"] if one["rule"] == "required"]
    assert required == ["income", "home", "job"]
    unknown = ask(line, PREDICT, {"inputs": {"height": [1]}}).json()["violations"][0]
    assert unknown == {"rule": "unknown", "message": "is not a column of this endpoint", "column": "height"}


def test_answers_name_the_request_for_feedback(line: Line) -> None:
    said = ask(line, PREDICT, {"instances": [CONTRACT.example]}).json()
    assert len(said["request_id"]) == 32
    assert json.dumps(said)  # nothing in it that JSON has not
