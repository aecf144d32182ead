"""The same rows in every form that V1 and MLflow write, and versions to ask: of a table with and without a decision,
of a matrix, of tensors."""

from __future__ import annotations

import csv
import io
import json
import random
import time
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kit.gateway import plan
from kit.graphs import store_graph, total
from kit.versions import CONTRACT, store
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Contract
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.secure.keys import digest_of

BASES = {1: 0.0, 2: 1.0}  # version of `loans` -> what its model adds to the log-odds
NAMES = [column.name for column in CONTRACT.features]
KEYS = {"all": ("infer", "explain"), "sums": ("infer:sums",), "metrics": ("metrics",)}


def store_all(shelf: Shelf) -> dict[str, str]:
    """Every version, by endpoint; those of `loans` by number."""
    return {str(version): store(shelf, base) for version, base in BASES.items()} | {
        "sums": store_graph(shelf, total(), "sums"),
        "matrix": store_graph(shelf, total(), "matrix", "matrix"),
        "pair": _store_tensors(shelf, "pair", _pair(), PAIR),
        "vectors": _store_tensors(shelf, "vectors", _vectors(), VECTORS),
        "words": _store_tensors(shelf, "words", _words(), WORDS),
    }


def a_plan(revision: int, digests: dict[str, str], default: str | None = "loans") -> ServingPlan:
    """All endpoints, one key for each entry of `KEYS` besides callers without one."""
    (loans,) = plan(1, {1: digests["1"], 2: digests["2"]}, split=TrafficSplit({1: 100, 2: 0})).endpoints
    others = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}))
        for name, digest in digests.items()
        if not name.isdigit()
    )
    keys = tuple(PlannedKey(name, digest_of(f"my_{name}"), name, scopes) for name, scopes in KEYS.items())
    return ServingPlan(revision, time.time(), (loans, *others), keys, default_endpoint=default)


# --- rows


def a_row(chance: random.Random) -> dict[str, Any]:
    """An applicant that differs from every other."""
    return {
        "age": chance.randint(18, 100),
        "income": chance.choice([None, round(chance.uniform(0, 900), 4)]),
        "home": chance.choice([None, "owner", "rent", "other"]),
        "job": chance.choice(["fixed", "freelance", 'unheard "of", twice']),
        "guarantor": chance.random() < 0.5,
    }


class Form(NamedTuple):
    """One way to send rows."""

    path: str
    body: bytes
    headers: dict[str, str]


def v1_forms(rows: list[dict[str, Any]], model: str = "loans") -> dict[str, Form]:
    """Rows as V1 writes them."""
    path = f"/v1/models/{model}:predict"
    bodies = {name: {"instances": listed} for name, listed in _listed(rows).items()}
    bodies |= {f"inputs: {name}": {"inputs": listed} for name, listed in _listed(rows).items()}
    bodies["columns"] = {"inputs": _columns(rows)}
    bodies["columns of [rows, 1]"] = {"inputs": {key: [[one] for one in held] for key, held in _columns(rows).items()}}
    forms = {name: Form(path, _json(body), {}) for name, body in bodies.items()}
    nan = [
        {key: float("nan") if value is None and key == "income" else value for key, value in row.items()}
        for row in rows
    ]
    forms["bare NaN"] = Form(path, _json({"instances": nan}), {})
    forms["bare NaN in columns"] = Form(path, _json({"inputs": _columns(nan)}), {})
    event = {"specversion": "1.0", "id": "7", "source": "test", "type": "asked"}
    data = bodies["objects"]
    forms["structured event"] = Form(
        path, _json(event | {"data": data}), {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    )
    forms["structured event with bare NaN"] = Form(
        path, _json(event | {"data": {"instances": nan}}), {"Content-Type": "application/cloudevents+json"}
    )
    forms["binary event"] = Form(path, _json(data), {f"ce-{key}": value for key, value in event.items()})
    return forms


def mlflow_forms(rows: list[dict[str, Any]]) -> dict[str, Form]:
    """Rows as MLflow's clients write them."""
    split = {"columns": NAMES, "data": _listed(rows)["lists"]}
    bodies: dict[str, Any] = {
        "split": {"dataframe_split": split},
        "split with an index": {"dataframe_split": {"index": list(range(len(rows))), **split}, "params": {}},
        "records": {"dataframe_records": rows},
        "instances": {"instances": rows},
        "instances as lists": {"instances": _listed(rows)["lists"]},
        "inputs": {"inputs": _columns(rows)},
        "inputs as lists": {"inputs": _listed(rows)["lists"], "params": None},
    }
    forms = {
        name: Form("/invocations", _json(body), {"Content-Type": "application/json"}) for name, body in bodies.items()
    }
    forms["no content type"] = Form("/invocations", _json(bodies["records"]), {})
    text = as_csv(rows)
    forms["csv"] = Form("/invocations", text, {"Content-Type": "text/csv"})
    forms["csv with a byte order mark"] = Form(
        "/invocations", b"\xef\xbb\xbf" + text, {"Content-Type": "text/csv; charset=UTF-8"}
    )
    forms["csv of another order and empty lines"] = Form(
        "/invocations", as_csv(rows, NAMES[::-1]).replace(b"\r\n", b"\n\n"), {"Content-Type": "Text/CSV"}
    )
    return forms


def as_csv(rows: list[dict[str, Any]], names: list[str] = NAMES) -> bytes:
    """Rows as a data frame writes them: missing is empty, True and False are words."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([[row[name] for name in names] for row in rows])
    return text.getvalue().encode()


def _listed(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {"objects": rows, "lists": [[row[name] for name in NAMES] for row in rows]}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in NAMES}


def _json(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


# --- versions of tensors

PAIR = Signature(
    (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("name", "BYTES", (-1,))),
    (TensorSpec("total", "FP32", (-1,)), TensorSpec("echo", "BYTES", (-1,))),
    "tensors",
)
VECTORS = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("twice", "FP32", (-1, -1)),), "tensors")
WORDS = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("echo", "BYTES", (-1,)),), "tensors")


def _store_tensors(shelf: Shelf, name: str, graph: onnx.GraphProto, signature: Signature) -> str:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    manifest = Manifest(name, "tensor", "onnx", "onnx", "2026-01-01T00:00:00Z", {}, signature, Contract(()))
    return shelf.put(manifest, {"model.onnx": model.SerializeToString()})


def _info(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _pair() -> onnx.GraphProto:
    """`total` = the sum of `a`, `echo` = `name`."""
    axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    nodes = [
        helper.make_node("ReduceSum", ["a", "axis"], ["total"], keepdims=0),
        helper.make_node("Identity", ["name"], ["echo"]),
    ]
    takes = [_info("a", TensorProto.FLOAT, "n", 3), _info("name", TensorProto.STRING, "n")]
    gives = [_info("total", TensorProto.FLOAT, "n"), _info("echo", TensorProto.STRING, "n")]
    return helper.make_graph(nodes, "pair", takes, gives, [axis])


def _vectors() -> onnx.GraphProto:
    """`twice` = `x` + `x`, of any width."""
    nodes = [helper.make_node("Add", ["x", "x"], ["twice"])]
    return helper.make_graph(
        nodes, "vectors", [_info("x", TensorProto.FLOAT, "n", "w")], [_info("twice", TensorProto.FLOAT, "n", "w")]
    )


def _words() -> onnx.GraphProto:
    """`echo` = `text`."""
    nodes = [helper.make_node("Identity", ["text"], ["echo"])]
    return helper.make_graph(
        nodes, "words", [_info("text", TensorProto.STRING, "n")], [_info("echo", TensorProto.STRING, "n")]
    )
