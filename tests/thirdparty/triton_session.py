"""Run by tritonclient's own environment: metadata and predictions from a gateway, told as JSON on stdout.

Arguments: the gateway's host:port, the endpoint, and a file of rows (a JSON list of objects).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as http

NUMPY = {"INT64": np.int64, "FP64": np.float64, "FP32": np.float32, "BOOL": np.bool_, "BYTES": np.object_}


def tensors(metadata: dict[str, Any], rows: list[dict[str, Any]], *, binary: bool) -> list[http.InferInput]:
    """One tensor for each column; a missing number travels as NaN, a missing text as an empty one."""
    inputs = []
    for spec in metadata["inputs"]:
        values = [row[spec["name"]] for row in rows]
        datatype = spec["datatype"]
        if datatype == "BYTES":
            array = np.array(["" if value is None else value for value in values], dtype=object)
        else:
            if None in values:
                datatype = "FP64"
            array = np.array([np.nan if value is None else value for value in values], dtype=NUMPY[datatype])
        tensor = http.InferInput(spec["name"], [len(rows)], datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return inputs


def main(address: str, model: str, path: str) -> None:
    """Ask everything the demo promises, and print what came."""
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    client = http.InferenceServerClient(address, concurrency=4)
    metadata = client.get_model_metadata(model)
    said: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "unknown_ready": client.is_model_ready("nobody"),
        "server": client.get_server_metadata(),
        "model": metadata,
    }
    json_only = [http.InferRequestedOutput(name, binary_data=False) for name in ("probability", "score", "decision")]
    said["one_by_one"] = []
    for row in rows[:20]:
        answer = client.infer(model, tensors(metadata, [row], binary=False), outputs=json_only, request_id="42")
        said["one_by_one"].append(float(answer.as_numpy("probability")[0]))
        said["id"] = answer.get_response()["id"]
    for name, binary, outputs in (("json", False, json_only), ("defaults", False, None), ("binary", True, None)):
        answer = client.infer(model, tensors(metadata, rows, binary=binary), outputs=outputs)
        said[name] = answer.as_numpy("probability").tolist()
        decisions = answer.as_numpy("decision").tolist()
        said[f"{name}_decisions"] = [d.decode() if isinstance(d, bytes) else d for d in decisions]
    waiting = [client.async_infer(model, tensors(metadata, [row], binary=False)) for row in rows[:16]]
    said["async"] = [float(one.get_result().as_numpy("probability")[0]) for one in waiting]
    pinned = client.infer(model, tensors(metadata, rows[:1], binary=False), model_version="champion")
    said["pinned"] = pinned.get_response()["model_version"]
    try:
        client.infer("nobody", tensors(metadata, rows[:1], binary=False))
    except http.InferenceServerException as error:
        said["unknown"] = [error.status(), error.message()]
    try:
        client.infer(model, tensors(metadata, rows[:1], binary=False)[1:])
    except http.InferenceServerException as error:
        said["missing"] = [error.status(), error.message()]
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
