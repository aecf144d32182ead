"""A ModelInferResponse: a batch's outputs as the caller wants them, written by hand around a head that is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelyard.contract.errors import ModelyardError
from modelyard.serve.call import Batch, Call
from modelyard.serve.grpc_messages import message_class
from modelyard.serve.grpc_status import message_of
from modelyard.serve.routing import Deployment
from modelyard.serve.tensors import to_binary
from modelyard.serve.v2_answers import classified, labels_of, output_of
from modelyard.serve.v2_known import known_of
from modelyard.serve.v2_wishes import Wanted
from modelyard.serve.varint import varint

RESPONSE = message_class("inference.ModelInferResponse")
STREAM_RESPONSE = message_class("inference.ModelStreamInferResponse")
KEPT_HEADS = 1024  # of answers, in each worker

_RAW_OUTPUT, _ID, _IN_STREAM = b"\x32", b"\x1a", b"\x12"  # the tags of raw_output_contents, id, infer_response
_FINAL: bytes = RESPONSE(parameters={"triton_final_response": {"bool_param": True}}).SerializeToString()
_FP32 = np.dtype(np.float32)


Described = tuple[str, str, tuple[int, ...]]  # an output's name, datatype and shape


class Responses:
    """One worker's answers, and what it keeps between them."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, str, tuple[Described, ...]], bytes] = {}
        self._plain: dict[Deployment, frozenset[str]] = {}  # outputs that are one FP32 for each row

    def forget_deployments(self) -> None:
        """The routes that they belong to are gone."""
        self._plain.clear()

    def say(self, call: Call, batch: Batch, start: int) -> None:
        """Answer with the outputs that were asked for."""
        wanted: Wanted = call.options  # type: ignore[assignment]
        deployment, rows = call.deployment, call.rows
        if (plain := self._plain.get(deployment)) is None:
            plain = self._plain[deployment] = _plain_outputs(deployment)
        outputs: list[Described] = []
        chunks: list[bytes] = []
        for one in wanted.outputs:
            name = one.name
            if name in plain and not one.classes and (values := batch.outputs[name]).dtype is _FP32:
                outputs.append((name, "FP32", (rows,)))
                chunks.append(values[start : start + rows].tobytes())
                continue
            _, datatype, values = output_of(call, batch, start, name)
            if one.classes:
                datatype, values = "BYTES", classified(values, one.classes, labels_of(deployment))
            outputs.append((name, datatype, values.shape))
            chunks.append(to_binary(values, datatype))
        endpoint, version = deployment.endpoint, deployment.version_text
        call.exchange.respond(200, self.written(endpoint, version, outputs, chunks, wanted.id, call.request_id))

    def written(
        self, model: str, version: str, outputs: Sequence[Described], chunks: Sequence[bytes], id_: str, request_id: str
    ) -> bytes:
        """The message: its head, which is the same for many calls, and what is this one's own."""
        parts = [self._head(model, version, tuple(outputs)), _id_parameter(request_id)]
        if id_:
            text = id_.encode()
            parts += (_ID, varint(len(text)), text)
        for chunk in chunks:
            parts += (_RAW_OUTPUT, varint(len(chunk)), chunk)
        return b"".join(parts)

    def _head(self, model: str, version: str, outputs: tuple[Described, ...]) -> bytes:
        """The message without its numbers, id and parameters."""
        key = (model, version, outputs)
        if (head := self._heads.get(key)) is None:
            described = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs]
            head = RESPONSE(model_name=model, model_version=version, outputs=described).SerializeToString()
            if len(self._heads) >= KEPT_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head


def in_stream(message: bytes) -> bytes:
    """A ModelStreamInferResponse around a ModelInferResponse, which is told to be the only one to its request."""
    return b"%b%b%b" % (_IN_STREAM, varint(len(message) + len(_FINAL)), message + _FINAL)


def error_in_stream(error: ModelyardError, id_: str, request_id: str) -> bytes:
    """A ModelStreamInferResponse that says why there is no other."""
    parameters: dict[str, dict[str, str | bool]] = {
        "modelyard_code": {"string_param": error.code},
        "request_id": {"string_param": request_id},
        "triton_final_response": {"bool_param": True},
    }
    told = STREAM_RESPONSE(error_message=message_of(error), infer_response={"id": id_, "parameters": parameters})
    return told.SerializeToString()  # type: ignore[no-any-return]


def _plain_outputs(deployment: Deployment) -> frozenset[str]:
    specs = known_of(deployment).outputs if deployment.replica.loaded.manifest.independent_rows else []
    made = ("score", "decision") if deployment.cutoff is not None else ()  # not by the model: by the endpoint's cut-off
    return frozenset(
        spec.name for spec in specs if spec.datatype == "FP32" and len(spec.shape) == 1 and spec.name not in made
    )


def _id_parameter(request_id: str) -> bytes:
    """The parameter `request_id` of an answer, under which feedback knows the call."""
    size = len(request_id)  # of ASCII, below 100
    return b"\x22%c\x0a\x0arequest_id\x12%c\x1a%c%b" % (size + 16, size + 2, size, request_id.encode())
