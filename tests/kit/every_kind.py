"""A version of every kind behind one gateway: their rows, requests for them in every dialect, what is answered."""

from __future__ import annotations

import json
import random
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.encoders import WORDS, contextual
from kit.encoders import store as store_texts
from kit.graphs import fragile, store_graph, total
from kit.lines import request
from kit.model_workers import store_class
from kit.tensor_versions import store_identity
from kit.versions import store as store_table
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.plan import PlannedEndpoint, PlannedKey, PlannedVersion, ServingPlan, TrafficSplit
from modelyard.contract.tensor import NUMPY_TYPES, datatype_of
from modelyard.runtimes.text import TextRecipe
from modelyard.serve.grpc_messages import message_class
from modelyard.serve.tensors import from_binary, to_binary

Tensors = dict[str, NDArray[Any]]
INFER_REQUEST = message_class("inference.ModelInferRequest")
LENGTH = "Inference_Header_Content_Length"
MOST_TOKENS = 24  # of one text of `texts`
FRAGILE = 10_000  # from this number on, a row fails the batch that it is in


def store_every_kind(root: Path) -> dict[str, str]:
    """Endpoint -> digest. `loans` is a table, `matrix` one brought as a matrix, `fragile` fails on large numbers,
    `same` and `free` give back tensors of fixed and of free shape, `texts` embeds, `sums` and `ranks` live in model
    workers; the rows of `ranks` depend on each other."""
    shelf = Shelf(Home(root).prepare().shelf)
    recipe = TextRecipe(output="last_hidden_state", max_length=MOST_TOKENS)
    return {
        "loans": store_table(shelf),
        "matrix": store_graph(shelf, total(), "matrix", "matrix"),
        "fragile": store_graph(shelf, fragile(FRAGILE), "fragile"),
        "same": store_identity(shelf, ("FP32", "INT64")),
        "free": store_identity(shelf, ("FP32", "BYTES"), (-1, -1, -1, -1), name="free"),
        "texts": store_texts(shelf, contextual(), recipe),
        "sums": store_class(shelf, "kit.own_models:Unhurried"),
        "ranks": store_class(shelf, "kit.own_models:Whole"),
    }


def plan_of(digests: dict[str, str], keys: tuple[PlannedKey, ...] = ()) -> ServingPlan:
    """Every version behind the endpoint of its name; `loans` is the default."""
    endpoints = tuple(
        PlannedEndpoint(name, name, (PlannedVersion(1, digest),), TrafficSplit({1: 100}), {"champion": 1})
        for name, digest in digests.items()
    )
    return ServingPlan(1, time.time(), endpoints, keys, default_endpoint="loans")


# --- rows


def rows_of(kind: str, chance: random.Random, count: int) -> Tensors:
    """So many good rows as tensors, each unlike the others."""
    numbers = np.array([chance.uniform(1, 900) for _ in range(count * 6)], dtype=np.float32).reshape(count, 6)
    if kind == "loans":
        return {
            "age": np.array([chance.randint(18, 100) for _ in range(count)], dtype=np.int64),
            "income": np.where(numbers[:, 0] < 100, np.nan, numbers[:, 0]).astype(np.float64),
            "home": texts(chance.choice(("owner", "rent", "other", "")) for _ in range(count)),
            "job": texts(chance.choice(("fixed", "freelance", "another")) for _ in range(count)),
            "guarantor": np.array([chance.random() < 0.5 for _ in range(count)]),
        }
    if kind == "matrix":
        return {"rows": numbers[:, :2]}
    if kind == "fragile":
        return {"x": np.array([float(chance.randrange(FRAGILE)) for _ in range(count)]), "y": np.zeros(count)}
    if kind == "same":
        return {"in_FP32": numbers[:, :3], "in_INT64": np.array(numbers[:, 3:] * 1e9, dtype=np.int64)}
    if kind == "free":
        shape = (count, *(chance.randint(1, 3) for _ in range(3)))
        values = np.array([chance.random() for _ in range(int(np.prod(shape)))], dtype=np.float32)
        return {
            "in_FP32": values.reshape(shape),
            "in_BYTES": texts(f"{value}é\0" for value in values.tolist()).reshape(shape),
        }
    if kind == "texts":
        return {"text": texts(" ".join(chance.choices(WORDS, k=chance.randint(0, 20))) for _ in range(count))}
    return {"x": numbers[:, :3] if kind == "sums" else numbers[:, 0]}


def spoilt(kind: str, tensors: Tensors, row: int) -> Tensors:
    """The same, with one bad row: breaking the contract, or failing the batch that it would be in."""
    bad = {name: values.copy() for name, values in tensors.items()}
    if kind == "loans":
        bad["age"][row] = 7
    elif kind == "fragile":
        bad["x"][row] = FRAGILE + 1
    elif kind == "texts":
        bad["text"][row] = "alpha " * (MOST_TOKENS + 1)
    elif kind == "sums":
        bad["x"][row, 0] = -4
    elif kind == "matrix":
        bad["rows"][row, 0] = np.inf
    else:  # of tensors that are given back no value is bad, so a shape is
        name = next(iter(bad))
        bad[name] = bad[name].reshape(1, *bad[name].shape)
    return bad


def texts(values: Any) -> NDArray[Any]:
    """An array of texts."""
    listed = list(values)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array


def taken(tensors: Tensors, at: list[int]) -> Tensors:
    """Some of the rows."""
    return {name: values[at] for name, values in tensors.items()}


# --- requests


def v2_json(kind: str, tensors: Tensors, wants: dict[str, Any], **headers: str) -> bytes:
    """A V2 request in JSON; `wants`: id, parameters, outputs."""
    inputs = [described(name, values) | {"data": plain(values)} for name, values in tensors.items()]
    return request(f"/v2/models/{kind}/infer", {"inputs": inputs} | wants, **headers)


def v2_binary(kind: str, tensors: Tensors, wants: dict[str, Any], **headers: str) -> bytes:
    """A V2 request whose tensors follow the JSON."""
    parts = {name: to_binary(values) for name, values in tensors.items()}
    inputs = [
        described(name, values) | {"parameters": {"binary_data_size": len(parts[name])}}
        for name, values in tensors.items()
    ]
    head = json.dumps({"inputs": inputs} | wants).encode()
    return request(f"/v2/models/{kind}/infer", head + b"".join(parts.values()), **headers | {LENGTH: str(len(head))})


def grpc_message(kind: str, tensors: Tensors, outputs: list[str], id_: str = "", *, is_typed: bool = False) -> Any:
    """A ModelInferRequest, its numbers raw or in typed lists."""
    inputs = [described(name, values) for name, values in tensors.items()]
    raw = [] if is_typed else [to_binary(values) for values in tensors.values()]
    if is_typed:
        for one, values in zip(inputs, tensors.values(), strict=True):
            one["contents"] = typed(values)
    wanted = [{"name": name} for name in outputs]
    return INFER_REQUEST(model_name=kind, id=id_, inputs=inputs, outputs=wanted, raw_input_contents=raw)


def typed(values: NDArray[Any]) -> dict[str, list[Any]]:
    """A tensor as gRPC's typed contents."""
    names = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
    flat = values.reshape(-1).tolist()
    if values.dtype.kind == "O":
        return {"bytes_contents": [text.encode() for text in flat]}
    return {names[datatype_of(values.dtype)]: flat}


def described(name: str, values: NDArray[Any]) -> dict[str, Any]:
    """A tensor without its data."""
    return {"name": name, "shape": list(values.shape), "datatype": datatype_of(values.dtype)}


def plain(values: NDArray[Any]) -> list[Any]:
    """A tensor's numbers in a row, as JSON has them."""
    return [None if value != value else value for value in values.reshape(-1).tolist()]


def objects(kind: str, tensors: Tensors) -> list[dict[str, Any]]:
    """The same rows as plain JSON."""
    if kind == "matrix":
        tensors = {"x": tensors["rows"][:, 0], "y": tensors["rows"][:, 1]}
    columns = [values.tolist() for values in tensors.values()]
    rows = [dict(zip(tensors, row, strict=True)) for row in zip(*columns, strict=True)]
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


# --- answers


def from_v2(body: bytes, header: str | None) -> tuple[str, Tensors]:
    """(id, outputs) of a V2 answer, in JSON or binary."""
    said = json.loads(body if header is None else body[: int(header)])
    at = 0 if header is None else int(header)
    outputs: Tensors = {}
    for one in said["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[one["name"]] = np.array(one["data"], dtype=NUMPY_TYPES[one["datatype"]]).reshape(one["shape"])
            continue
        outputs[one["name"]] = from_binary(memoryview(body)[at : at + size], one["datatype"], one["shape"], "")
        at += size
    assert header is None or at == len(body), "bytes that belong to no output"
    return said.get("id", ""), outputs


def from_grpc(message: Any) -> tuple[str, Tensors]:
    """(id, outputs) of a ModelInferResponse."""
    pairs = zip(message.outputs, message.raw_output_contents, strict=True)
    return message.id, {one.name: from_binary(memoryview(raw), one.datatype, list(one.shape), "") for one, raw in pairs}


def from_rows(rows: list[Any], like: Tensors) -> Tensors:
    """Outputs of plain JSON rows, each an object of outputs or the value of the only one, typed as those of `like`."""
    if len(like) == 1 and not isinstance(rows[0], dict):
        (name,) = like
        return {name: np.array(rows, dtype=like[name].dtype).reshape(len(rows), *like[name].shape[1:])}
    return {name: np.array([row[name] for row in rows], dtype=values.dtype) for name, values in like.items()}


def grpc_frame(message: Any) -> bytes:
    """A message behind its length."""
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data
