"""What a V2 caller is answered: the outputs that were asked for, as JSON or binary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.tensor import datatype_of
from modelyard.serve.call import Batch, Call
from modelyard.serve.routing import Deployment
from modelyard.serve.tensors import to_binary, to_json
from modelyard.serve.v2_known import known_of
from modelyard.serve.v2_wishes import Wanted

_encode = msgspec.json.Encoder().encode


class OutputTensor(msgspec.Struct, omit_defaults=True, gc=False):
    """One tensor of an answer: its data, or how many bytes of it follow the JSON."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


class InferAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """The JSON part of an answer."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""
    parameters: dict[str, str] | None = None


def say_infer(call: Call, batch: Batch, start: int) -> None:
    """Answer with the outputs that were asked for, as JSON or binary."""
    wanted: Wanted = call.options  # type: ignore[assignment]
    deployment = call.deployment
    outputs, chunks = [], []
    for one in wanted.outputs:
        if not one.is_binary and not one.classes and (plain := batch.plain(one.name)) is not None:
            datatype, listed = plain  # made once for the whole batch
            data = listed[start : start + call.rows]
            outputs.append(OutputTensor(one.name, datatype, [len(data)], data))
            continue
        name, datatype, values = output_of(call, batch, start, one.name)
        if one.classes:
            datatype, values = "BYTES", classified(values, one.classes, labels_of(deployment))
        if one.is_binary:
            chunk = to_binary(values, datatype)
            chunks.append(chunk)
            outputs.append(OutputTensor(name, datatype, values.shape, parameters={"binary_data_size": len(chunk)}))
        else:
            outputs.append(OutputTensor(name, datatype, values.shape, to_json(values, datatype, f"output '{name}'")))
    head = _encode(
        InferAnswer(deployment.endpoint, deployment.version_text, outputs, wanted.id, {"request_id": call.request_id})
    )
    if not chunks:
        call.exchange.respond(200, head)
        return
    length = b"inference-header-content-length: %d\r\n" % len(head)
    call.exchange.respond(200, b"".join([head, *chunks]), b"application/octet-stream", length)


def outputs_of(
    call: Call, batch: Batch, start: int, names: Sequence[str] | None = None
) -> list[tuple[str, str, NDArray[Any]]]:
    """(name, datatype, values) of each output that callers see, or of those named; decision and score included."""
    if names is None:
        names = [spec.name for spec in known_of(call.deployment).outputs]
    return [output_of(call, batch, start, name) for name in names]


def output_of(call: Call, batch: Batch, start: int, name: str) -> tuple[str, str, NDArray[Any]]:
    """One output for this call; decision and score are made here, since the cut-off is the endpoint's."""
    deployment = call.deployment
    decision, cutoff = deployment.decision, deployment.cutoff
    if name not in batch.outputs and decision is not None and cutoff is not None:
        probability = batch.outputs["probability"][start : start + call.rows].astype(np.float64)  # as the cut-off is
        if name == "score":
            return name, "INT64", decision.scale.score(probability)
        said = np.where(probability >= cutoff, decision.positive, decision.negative).astype(object)
        return name, "BYTES", said
    values = batch.outputs[name]
    if deployment.replica.loaded.manifest.independent_rows:
        values = values[start : start + call.rows]
    spec = next((spec for spec in known_of(deployment).outputs if spec.name == name), None)
    if spec is not None and spec.datatype == "BF16" and values.dtype == np.float32:
        return name, "BF16", values
    return name, datatype_of(values.dtype), values


def labels_of(deployment: Deployment) -> tuple[str, ...]:
    """What the classes of a version are called, where its target says so."""
    target = deployment.replica.loaded.manifest.contract.target
    return target.classes if target is not None else ()


def classified(values: NDArray[Any], count: int, labels: tuple[str, ...]) -> NDArray[Any]:
    """The best `count` of each row's numbers as "value:index[:label]", BYTES[rows, count]."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    texts = np.empty(best.shape, dtype=object)
    for row, indices in enumerate(best.tolist()):
        for rank, index in enumerate(indices):
            label = f":{labels[index]}" if len(labels) == rows.shape[1] else ""
            texts[row, rank] = f"{rows[row, index]:f}:{index}{label}"
    return texts
