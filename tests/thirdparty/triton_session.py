"""Run by tritonclient's own environment: metadata and predictions from a gateway, told as JSON on stdout.

Arguments: the gateway's host:port, the endpoint, and a file of rows (a JSON list of objects); or `extensions`, the
host:port, an endpoint that answers what it is sent (`in_X`, `out_X` for each datatype X, three to a row), and a key
that may load and unload it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ml_dtypes
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


SAMPLES: dict[str, Any] = {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[0.5, -2.0, 65504.0]], dtype=np.float16),
    "BF16": np.array([[0.5, -2.0, 1e38]], dtype=ml_dtypes.bfloat16),
    "FP32": np.array([[0.1, -2.0, 1e30]], dtype=np.float32),
    "FP64": np.array([[0.1, -2.0, 1e300]]),
    "BYTES": np.array([[b"a", "é".encode(), "中".encode()]]),
} | {
    name: np.array([[0, 1, 100]], dtype=np.dtype(name.lower()))
    for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
}


def identity_inputs(datatypes: list[str], *, binary: bool = True) -> list[http.InferInput]:
    """One input of each datatype."""
    inputs = []
    for name in datatypes:
        tensor = http.InferInput(f"in_{name}", [1, 3], name)
        tensor.set_data_from_numpy(SAMPLES[name], binary_data=binary)
        inputs.append(tensor)
    return inputs


def listed(values: Any) -> list[Any]:
    """An array as JSON can tell it."""
    return [repr(value) if isinstance(value, bytes) else value for value in values.reshape(-1).tolist()]


def extensions(address: str, model: str, key: str) -> None:
    """Ask every extension that the gateway lists, with this client's own verbs, and print what came."""
    client = http.InferenceServerClient(address)
    datatypes = [tensor["datatype"] for tensor in client.get_model_metadata(model)["inputs"]]
    with_json = [name for name in datatypes if name not in ("FP16", "BF16", "BYTES")]
    said: dict[str, Any] = {"datatypes": datatypes, "config": client.get_model_config(model)}

    answer = client.infer(model, identity_inputs(datatypes))
    said["binary"] = {name: listed(answer.as_numpy(f"out_{name}")) for name in datatypes}
    json_only = [http.InferRequestedOutput(f"out_{name}", binary_data=False) for name in with_json]
    half_binary = [name for name in datatypes if name not in with_json]
    answer = client.infer(
        model, identity_inputs(with_json, binary=False) + identity_inputs(half_binary), outputs=json_only
    )
    said["json"] = {name: listed(answer.as_numpy(f"out_{name}")) for name in with_json}
    said["sent"] = {name: listed(SAMPLES[name]) for name in datatypes}

    said["compressed"] = {}
    for sent in ("gzip", "deflate", None):
        for back in ("gzip", "deflate", None):
            answer = client.infer(
                model,
                identity_inputs(datatypes),
                request_compression_algorithm=sent,
                response_compression_algorithm=back,
            )
            said["compressed"][f"{sent} {back}"] = listed(answer.as_numpy("out_INT64"))

    top = [http.InferRequestedOutput("out_FP32", binary_data=True, class_count=2)]
    said["classes"] = [text.decode() for text in client.infer(model, identity_inputs(datatypes), outputs=top)
                       .as_numpy("out_FP32").reshape(-1)]  # fmt: skip
    client.infer(model, identity_inputs(datatypes), priority=1, timeout=5_000_000)
    client.infer(model, identity_inputs(datatypes), parameters={"mine": "x", "more": 3})
    for name, options in (("too_late", {"timeout": 1}), ("sequence", {"sequence_id": 5, "sequence_start": True})):
        try:
            client.infer(model, identity_inputs(datatypes), **options)
        except http.InferenceServerException as error:
            said[name] = [error.status(), error.message()]

    said["statistics"] = client.get_inference_statistics(model)["model_stats"]
    said["all_statistics"] = [[one["name"], one["version"]] for one in client.get_inference_statistics()["model_stats"]]
    said["index"] = client.get_model_repository_index()
    headers = {"X-API-Key": key}
    client.unload_model(model, headers=headers)
    said["unloaded"] = {
        "ready": client.is_model_ready(model),
        "index": [one for one in client.get_model_repository_index() if one["name"] == model],
    }
    try:
        client.infer(model, identity_inputs(datatypes))
    except http.InferenceServerException as error:
        said["unloaded"]["infer"] = [error.status(), error.message()]
    try:
        client.load_model(model, headers=headers, config="{}")
    except http.InferenceServerException as error:
        said["override"] = [error.status(), error.message()]
    try:
        client.load_model(model)
    except http.InferenceServerException as error:
        said["without_key"] = [error.status(), error.message()]
    client.load_model(model, headers=headers)
    said["loaded"] = {
        "ready": client.is_model_ready(model),
        "answer": listed(client.infer(model, identity_inputs(datatypes)).as_numpy("out_INT64")),
    }
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "extensions":
        extensions(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
