"""Run by KServe's own environment: its client against a gateway, V1 and V2, told as JSON on stdout.

Arguments: the gateway's URL, the address of its gRPC port or "", the endpoint, and a file of rows (a JSON list of
objects).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

TYPES = {"age": "INT64", "income": "FP64", "home": "BYTES", "job": "BYTES", "guarantor": "BOOL"}
NUMPY = {"INT64": np.int64, "FP64": np.float64, "BYTES": np.object_, "BOOL": np.bool_}


def asked(model: str, rows: list[dict[str, Any]], *, binary: bool) -> InferRequest:
    """One tensor for each column; a missing number travels as NaN, a missing text as an empty one."""
    inputs = []
    for name, datatype in TYPES.items():
        missing: Any = "" if datatype == "BYTES" else np.nan
        values = [missing if row[name] is None else row[name] for row in rows]
        tensor = InferInput(name, [len(rows)], datatype)
        tensor.set_data_from_numpy(np.array(values, dtype=NUMPY[datatype]), binary_data=binary)
        inputs.append(tensor)
    return InferRequest(model, inputs, request_id="42")


async def refusal(call: Awaitable[Any]) -> list[Any]:
    """The status and the message that a refused call raises."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    return []


async def version_1(url: str, model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the V1 client hears."""
    async with InferenceRESTClient(RESTConfig(protocol="v1", retries=0)) as client:
        listed = [[row[name] for name in TYPES] for row in rows]
        event = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "test", "ce-type": "asked"}
        objects = {"instances": rows}
        heard: dict[str, str] = {}
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_model_ready(url, model),
            "objects": await client.infer(url, objects, model),
            "lists": await client.infer(url, {"instances": listed}, model),
            "inputs": await client.infer(url, {"inputs": listed}, model),
            "event": await client.infer(url, objects, model, headers=event, response_headers=heard),
            "event_headers": heard,
            "explained": await client.explain(url, model, {"instances": rows[:2]}),
            "unknown": await refusal(client.is_model_ready(url, "nobody")),
            "not_a_list": await refusal(client.infer(url, {"instances": rows[0]}, model)),
            "wrong": await refusal(client.infer(url, {"instances": [rows[0] | {"age": 7}]}, model)),
        }


async def version_2(url: str, model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the V2 client hears."""
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        said: dict[str, Any] = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, model),
            "unknown_ready": await client.is_model_ready(url, "nobody"),
        }
        for name, binary in (("json", False), ("binary", True)):
            answer = await client.infer(url, asked(model, rows, binary=binary), model)
            said[name] = {output.name: output.as_numpy().tolist() for output in answer.outputs}
            said["id"] = answer.id
        return said


async def over_grpc(address: str, model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the gRPC client hears."""
    async with InferenceGRPCClient(address, retries=0) as client:
        said: dict[str, Any] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model),
        }
        for name, binary in (("contents", False), ("raw", True)):
            answer = await client.infer(asked(model, rows, binary=binary))
            said[name] = {output.name: output.as_numpy().tolist() for output in answer.outputs}
        return said


async def main(url: str, grpc: str, model: str, path: str) -> None:
    """Ask everything, and print what came."""
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    said = {"v1": await version_1(url, model, rows), "v2": await version_2(url, model, rows)}
    if grpc:
        said["grpc"] = await over_grpc(grpc, model, rows)
    json.dump(said, sys.stdout, default=lambda value: value.decode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
