"""MLflow's scoring protocol through a real gateway: every form of the same rows, the same right answers, and errors in
its own shape that never repeat what was sent."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.forms import NAMES, a_plan, a_row, as_csv, mlflow_forms, store_all, v1_forms
from kit.gateway import Gateway, gateway
from kit.lines import Line, Reply, request
from kit.versions import CONTRACT, expected
from modelyard import __version__
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

pytestmark = pytest.mark.xdist_group("mlflow")

FORMS = sorted(mlflow_forms([CONTRACT.example]))
EXAMPLE = CONTRACT.example
HEAD = ",".join(NAMES)
GOOD = "35,120.5,rent,fixed,False"


class House:
    """The running gateway, and how to ask for another default endpoint."""

    def __init__(self, running: Gateway, digests: dict[str, str]) -> None:
        self.running, self.digests, self.revision, self.default = running, digests, 1, "loans"

    def serve(self, default: str | None) -> None:
        """Publish the same plan with this default endpoint, unless it is there already."""
        if default != self.default:
            self.revision, self.default = self.revision + 1, default  # type: ignore[assignment]
            self.running.publish(a_plan(self.revision, self.digests, default))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("mlflow") / "home"
    digests = store_all(Shelf(Home(root).prepare().shelf))
    with gateway(root, a_plan(1, digests), max_rows=300, bulk_bytes=2_000) as running:  # larger ones go another way
        yield House(running, digests)


@pytest.fixture
def line(house: House) -> Iterator[Line]:
    house.serve("loans")
    with Line(house.running.port) as one:
        yield one


def ask(line: Line, body: object, content_type: str = "application/json", **headers: str) -> Reply:
    (reply,) = line.ask(request("/invocations", body, Content_Type=content_type, **headers))
    return reply


def ask_csv(line: Line, text: str | bytes) -> Reply:
    return ask(line, text if isinstance(text, bytes) else text.encode(), "text/csv")


def predictions(reply: Reply) -> list[Any]:
    assert reply.status == 200, reply.body
    return reply.json()["predictions"]


# --- right answers


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("count", [1, 2, 40])
def test_every_form_of_the_same_rows_is_answered_alike(line: Line, name: str, count: int) -> None:
    chance = random.Random(count)
    rows = [a_row(chance) for _ in range(count)]
    form = mlflow_forms(rows)[name]
    (reply,) = line.ask(request(form.path, form.body, **form.headers))
    said = predictions(reply)
    assert [one["probability"] for one in said] == pytest.approx([expected(row) for row in rows], abs=1e-6)
    (native,) = line.ask(request("/loans", rows))
    assert [(one["decision"], one["score"]) for one in said] == [
        (one["decision"], one["score"]) for one in native.json()["predictions"]
    ]


@pytest.fixture(scope="module")
def one_line(house: House) -> Iterator[Line]:
    house.serve("loans")
    with Line(house.running.port) as one:
        yield one


@given(chance=st.randoms(use_true_random=False), picks=st.lists(st.integers(0, 999), min_size=1, max_size=6))
def test_its_forms_and_v1s_may_be_mixed_on_one_connection(
    one_line: Line, chance: random.Random, picks: list[int]
) -> None:
    asked = [[a_row(chance) for _ in range(chance.randint(1, 5))] for _ in picks]
    forms = []
    for rows, pick in zip(asked, picks, strict=True):
        known = [*mlflow_forms(rows).values(), *v1_forms(rows).values()]
        forms.append(known[pick % len(known)])
    replies = one_line.ask(*(request(form.path, form.body, **form.headers) for form in forms))
    for rows, reply in zip(asked, replies, strict=True):
        assert reply.status == 200, reply.body
        body = reply.json()
        said = [one["probability"] for one in body.get("data", body)["predictions"]]
        assert said == pytest.approx([expected(row) for row in rows], abs=1e-6)


def test_one_output_is_a_bare_value(house: House) -> None:
    house.serve("sums")
    with Line(house.running.port) as line:
        reply = ask(line, {"dataframe_split": {"columns": ["y", "x"], "data": [[1, 2], [3, 4.5]]}})
        assert predictions(reply) == [3.0, 7.5]
        assert (reply.json()["model_name"], reply.json()["model_version"]) == ("sums", "1")
        assert predictions(ask_csv(line, "x,y\n1,\n1,2\n")) == [None, 3.0]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["name", "a"], "data": [["é", [1, 2, 3]], ["b", [4, 5, 6.5]]]}},
        {"dataframe_records": [{"a": [1, 2, 3], "name": "é"}, {"name": "b", "a": [4, 5, 6.5]}]},
        {"instances": [{"a": [1, 2, 3], "name": "é"}, {"name": "b", "a": [4, 5, 6.5]}]},
        {"inputs": {"a": [[1, 2, 3], [4, 5, 6.5]], "name": ["é", "b"]}},
    ],
)
def test_a_version_of_tensors_takes_each_column_as_one(house: House, body: object) -> None:
    house.serve("pair")
    with Line(house.running.port) as line:
        assert predictions(ask(line, body)) == [{"total": 6.0, "echo": "é"}, {"total": 15.5, "echo": "b"}]
        refused = ask_csv(line, "a,name\n1,x\n")
        assert (refused.status, refused.json()["error_code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", " true "])
def test_csv_knows_the_usual_words_for_true(line: Line, text: str) -> None:
    (said,) = predictions(ask_csv(line, f"{HEAD}\n35,120.5,rent,fixed,{text}\n"))
    assert said["probability"] == pytest.approx(expected(EXAMPLE | {"guarantor": True}), abs=1e-6)


def test_csv_fields_may_be_quoted_and_columns_left_out_or_not_used(line: Line) -> None:
    text = 'sex,home,"age",job,income\r\nf,,"35","fixed, and\nsecret","1.205e2"\r\n'
    (said,) = predictions(ask_csv(line, text))
    row = EXAMPLE | {"home": None, "job": "fixed, and\nsecret"}
    assert said["probability"] == pytest.approx(expected(row), abs=1e-6)


# --- health


def test_ping_and_health_say_ready_and_version_says_which(house: House) -> None:
    for path in ("/ping", "/health"):
        assert house.running.get(path).status_code == 200
    version = house.running.get("/version")
    assert (version.status_code, version.text) == (200, __version__)
    assert house.running.get("/invocations").status_code == 405


def test_without_a_default_endpoint_the_setting_is_named(house: House) -> None:
    house.serve(None)
    reply = house.running.post("/invocations", {"instances": [EXAMPLE]})
    assert reply.status_code == 404
    assert reply.json()["error_code"] == "ENDPOINT_NOT_FOUND"
    assert "default_endpoint" in reply.json()["message"]
    house.serve("loans")
    assert house.running.post("/invocations", {"instances": [EXAMPLE]}).status_code == 200


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [("all", 200, ""), ("sums", 403, "PERMISSION_DENIED"), ("nobody", 401, "UNAUTHENTICATED")],
)
def test_the_key_needs_the_scope_of_the_default_endpoint(line: Line, key: str, status: int, code: str) -> None:
    reply = ask(line, {"instances": [EXAMPLE]}, X_API_Key=f"my_{key}")
    assert reply.status == status
    assert reply.json().get("error_code", "") == code


def test_a_stopped_wait_keeps_its_status(line: Line) -> None:
    reply = ask(line, {"instances": [EXAMPLE]}, X_Timeout_Ms="0")
    assert reply.status == 400  # a timeout is above 0
    assert reply.json()["error_code"] == "BAD_REQUEST"


# --- mistakes


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('Application/JSON ; Charset="UTF-8" ;', 200),
        ("application/json; charset=latin-1", 415),
        ("application/json; profile=x", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/vnd.apache.parquet", 415),
        ("text/plain", 415),
        ("", 415),
    ],
)
def test_the_content_type_decides(line: Line, content_type: str, status: int) -> None:
    reply = ask(line, {"instances": [EXAMPLE]}, content_type)
    assert reply.status == status, reply.body
    assert status == 200 or reply.json()["error_code"] == "BAD_REQUEST"


ROWS = [[EXAMPLE[name] for name in NAMES]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [EXAMPLE],
        "secret",
        {"params": {}},
        {"instances": [EXAMPLE], "inputs": [EXAMPLE]},
        {"dataframe_split": {"columns": NAMES, "data": ROWS}, "dataframe_records": [EXAMPLE]},
        {"instances": [EXAMPLE], "params": {"secret": 1}},
        {"instances": [EXAMPLE], "secret" * 20: 1},
        {"messages": [{"role": "user", "content": "secret"}]},
        {"dataframe_split": [EXAMPLE]},
        {"dataframe_split": {"data": ROWS}},
        {"dataframe_split": {"columns": NAMES}},
        {"dataframe_split": {"columns": NAMES, "data": []}},
        {"dataframe_split": {"columns": [], "data": [[]]}},
        {"dataframe_split": {"columns": NAMES, "data": "secret"}},
        {"dataframe_split": {"columns": NAMES, "data": ROWS, "secret": 1}},
        {"dataframe_split": {"columns": [*NAMES, "age"], "data": [[*ROWS[0], 35]]}},
        {"dataframe_split": {"columns": [*NAMES, 3], "data": [[*ROWS[0], 35]]}},
        {"dataframe_split": {"columns": [*NAMES, "secret" * 20], "data": [[*ROWS[0], 35]]}},
        {"dataframe_split": {"columns": NAMES, "data": [[*ROWS[0], "secret"]]}},
        {"dataframe_split": {"columns": NAMES, "data": [ROWS[0][:-1]]}},
        {"dataframe_split": {"columns": NAMES, "data": [ROWS[0], ROWS[0][:-1]]}},
        {"dataframe_split": {"columns": NAMES, "data": [EXAMPLE]}},
        {"dataframe_records": EXAMPLE},
        {"dataframe_records": ["secret"]},
        {"dataframe_records": []},
        {"instances": "secret"},
        {"inputs": 3},
    ],
)
def test_what_is_not_a_request_is_refused_and_not_repeated(line: Line, body: object) -> None:
    reply = ask(line, body)
    assert reply.status == 400, reply.body
    said = reply.json()
    assert (said["error_code"], said["code"]) == ("BAD_REQUEST", "invalid_input")
    assert said["message"]
    assert "stack_trace" not in said
    assert b"secret" not in reply.body


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        HEAD,
        f"{HEAD}\n",
        GOOD,  # the header is missing ...
        f"{GOOD}\n{GOOD}\n",  # ... and a row is taken for it
        f"{HEAD}\n{GOOD},secret\n",
        f"{HEAD}\n35,120.5,rent,fixed\n",
        f"{HEAD},age\n{GOOD},35\n",
        f"{HEAD},\n{GOOD},\n",
        f'{HEAD}\n35,120.5,"secret,fixed,False\n',
        f'{HEAD}\n35,120.5,"rent"secret,fixed,False\n',
        f"{HEAD}\n35,120.5,re\0nt,fixed,False\n",
        f"{HEAD};\n{GOOD}\n",
        f"{HEAD}\n35,120.5,rent,fixed,secret\n",
        f"{HEAD}\nsecret,120.5,rent,fixed,False\n",
        f"{HEAD}\n3_5,120.5,rent,fixed,False\n",
        f"{HEAD}\n,120.5,rent,fixed,False\n",
        f"{HEAD}\n35,inf,rent,fixed,False\n",
        f"{HEAD}\n35,120.5,secret,fixed,False\n",
        f"{HEAD}\n7,120.5,rent,fixed,False\n",
        f'{HEAD}\n35,120.5,"{"x" * 200_000}",fixed,False\n',
        b"\xff\xfe" + HEAD.encode("utf-16-le"),
        HEAD.encode() + b"\n35,120.5,re\xffnt,fixed,False\n",
    ],
)
def test_csv_that_is_wrong_is_refused_and_not_repeated(line: Line, text: str | bytes) -> None:
    reply = ask_csv(line, text)
    assert reply.status == 400, reply.body
    assert reply.json()["error_code"] == "BAD_REQUEST"
    for word in (b"secret", b"120.5", b"xxxx"):
        assert word not in reply.body


@pytest.mark.parametrize("form", ["split", "records", "inputs", "csv"])
@pytest.mark.parametrize(
    ("wrong", "column", "rule"),
    [
        ({"age": 7}, "age", "minimum"),
        ({"age": 35.5}, "age", "whole"),
        ({"age": "secret"}, "age", "type"),
        ({"age": None}, "age", "missing"),
        ({"income": 1e30}, "income", "maximum"),
        ({"home": "secret"}, "home", "category"),
        ({"guarantor": "secret"}, "guarantor", "type"),
    ],
)
def test_violations_name_row_and_column_as_the_native_dialect_does(
    line: Line, wrong: dict[str, Any], column: str, rule: str, form: str
) -> None:
    rows = [EXAMPLE, EXAMPLE | wrong]
    sent = mlflow_forms(rows)[form]
    (reply,) = line.ask(request(sent.path, sent.body, **sent.headers))
    (native,) = line.ask(request("/loans", rows))
    assert (reply.status, native.status) == (400, 422)
    assert reply.json()["violations"] == native.json()["violations"]
    assert reply.json()["message"] == native.json()["detail"]
    assert [(one["column"], one["row"], one["rule"]) for one in reply.json()["violations"]] == [(column, 1, rule)]
    assert b"secret" not in reply.body


@pytest.mark.parametrize("form", ["split", "records", "inputs", "csv"])
def test_more_rows_than_the_limit_are_refused_by_its_name(line: Line, form: str) -> None:
    sent = mlflow_forms([EXAMPLE] * 301)[form]
    (reply,) = line.ask(request(sent.path, sent.body, **sent.headers))
    assert (reply.status, reply.json()["code"]) == (413, "too_large")
    assert "max_rows=300" in reply.json()["message"]


def test_an_error_is_json_that_mlflow_reads(line: Line) -> None:
    reply = ask(line, {"instances": [EXAMPLE | {"age": 7}]})
    assert reply.headers["content-type"] == "application/json"
    assert set(json.loads(reply.body)) == {"error_code", "message", "code", "request_id", "violations"}


def test_a_csv_of_rows_is_the_same_rows(line: Line) -> None:
    rows = [a_row(random.Random(seed)) for seed in range(50)]
    said = predictions(ask_csv(line, as_csv(rows)))
    assert [one["probability"] for one in said] == pytest.approx([expected(row) for row in rows], abs=1e-6)
