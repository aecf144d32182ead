"""Run by tritonclient's own environment: everything its gRPC clients can ask of a gateway, told as JSON on stdout.

Arguments: the gateway's gRPC host:port, an API key. The models are those of `test_grpc_clients.py`.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

NUMPY = {"INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_, "BYTES": np.object_}
COLUMNS = {"age": "INT64", "income": "FP64", "home": "BYTES", "job": "BYTES", "guarantor": "BOOL"}


def loans(rows: list[dict[str, Any]]) -> list[triton.InferInput]:
    """One tensor for each column of the table."""
    inputs = []
    for name, datatype in COLUMNS.items():
        tensor = triton.InferInput(name, [len(rows)], datatype)
        tensor.set_data_from_numpy(np.array([row[name] for row in rows], dtype=NUMPY[datatype]))
        inputs.append(tensor)
    return inputs


def numbers(values: list[list[float]]) -> list[triton.InferInput]:
    """The matrix of the model of sums."""
    array = np.array(values, dtype=np.float32)
    tensor = triton.InferInput("rows", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def failed(ask: Any) -> list[str]:
    """Status and message of what must fail."""
    try:
        ask()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    except grpc.RpcError as error:
        return [str(error.code()), error.details()]
    return ["OK", ""]


def ask_sync(address: str, headers: dict[str, str], row: dict[str, Any]) -> dict[str, Any]:
    """The blocking client: every method, compression, deadlines, callbacks."""
    client = triton.InferenceServerClient(address)
    said: dict[str, Any] = {
        "live": client.is_server_live(headers=headers),
        "ready": client.is_server_ready(headers=headers),
        "model_ready": client.is_model_ready("loans", headers=headers),
        "unknown_ready": client.is_model_ready("nobody", headers=headers),
        "server": client.get_server_metadata(headers=headers, as_json=True),
        "model": client.get_model_metadata("loans", headers=headers, as_json=True),
        "config": client.get_model_config("sums", headers=headers, as_json=True)["config"],
    }
    answer = client.infer("loans", loans([row] * 3), request_id="42", headers=headers)
    said["loans"] = [answer.as_numpy("probability").tolist(), [word.decode() for word in answer.as_numpy("decision")]]
    said["id"] = answer.get_response().id
    chosen = [triton.InferRequestedOutput("score")]
    answer = client.infer("loans", loans([row]), outputs=chosen, model_version="champion", headers=headers)
    said["chosen"] = [[output.name for output in answer.get_response().outputs], answer.get_response().model_version]
    for coding in ("gzip", "deflate"):
        answer = client.infer("sums", numbers([[1, 2]] * 500), compression_algorithm=coding, headers=headers)
        said[coding] = [len(answer.as_numpy("total")), float(answer.as_numpy("total")[499])]
    large = np.arange(200_000, dtype=np.float32).reshape(-1, 2)
    answer = client.infer("sums", numbers(large.tolist()), headers=headers, client_timeout=30)
    said["large"] = bool((answer.as_numpy("total") == large.sum(axis=1)).all())
    said["late"] = failed(lambda: client.infer("sums", numbers([[1, 2]]), timeout=1, headers=headers))
    said["unknown"] = failed(lambda: client.infer("nobody", numbers([[1, 2]]), headers=headers))
    said["missing"] = failed(lambda: client.infer("loans", loans([row])[1:], headers=headers))
    said["no_key"] = failed(lambda: client.infer("sums", numbers([[1, 2]])))
    said["no_shared_memory"] = failed(lambda: client.get_system_shared_memory_status(headers=headers))
    came: queue.Queue[Any] = queue.Queue()
    for at in range(20):
        client.async_infer("sums", numbers([[at, 1]]), lambda result, error: came.put((result, error)), headers=headers)
    said["callbacks"] = sorted(float(came.get(timeout=20)[0].as_numpy("total")[0]) for _ in range(20))
    stats = client.get_inference_statistics("sums", headers=headers, as_json=True)["model_stats"][0]
    said["stats"] = [stats["name"], int(stats["inference_count"]) > 500]
    index = client.get_model_repository_index(headers=headers, as_json=True)["models"]
    said["index"] = [[one["name"], one["state"]] for one in index]
    client.close()
    return said


def ask_stream(address: str, headers: dict[str, str]) -> dict[str, Any]:
    """A stream with an error in its middle, and one that is cancelled."""
    client = triton.InferenceServerClient(address)
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)), headers=headers)
    for at in range(50):
        model = "nobody" if at == 25 else "sums"
        final = at % 2 == 0
        client.async_stream_infer(model, numbers([[at, 1]]), request_id=str(at), enable_empty_final_response=final)
    said: list[Any] = []
    for _ in range(50):
        result, error = came.get(timeout=20)
        if error is None:
            response = result.get_response()
            final = response.parameters["triton_final_response"].bool_param
            said.append([response.id, float(result.as_numpy("total")[0]), final])
        else:
            said.append(error.message())
    client.stop_stream()
    client.start_stream(lambda result, error: came.put((result, error)), headers=headers)
    client.async_stream_infer("sums", numbers([[1, 2]]))
    came.get(timeout=20)
    client.stop_stream(cancel_requests=True)
    client.close()
    return {"stream": said}


async def ask_aio(address: str, headers: dict[str, str]) -> dict[str, Any]:
    """The asyncio client: many calls at once on one connection, and its stream."""
    async with triton_aio.InferenceServerClient(address) as client:
        many = [client.infer("sums", numbers([[at, 1]]), headers=headers) for at in range(300)]
        totals = [float(answer.as_numpy("total")[0]) for answer in await asyncio.gather(*many)]

        async def requests() -> Any:
            for at in range(20):
                yield {"model_name": "sums", "inputs": numbers([[at, 2]]), "request_id": str(at)}

        streamed = []
        async for result, error in client.stream_infer(requests(), headers=headers):
            streamed.append(error.message() if error else float(result.as_numpy("total")[0]))
        return {"aio": totals, "aio_stream": streamed, "aio_live": await client.is_server_live()}


def ask_around(address: str, metadata: list[tuple[str, str]]) -> dict[str, Any]:
    """gRPC's own health and reflection clients, and a channel that says which methods the protocol has."""
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest()).status
        watch = health.Watch(health_pb2.HealthCheckRequest())
        first = next(watch).status
        watch.cancel()
        unknown = failed(lambda: health.Check(health_pb2.HealthCheckRequest(service="nothing")))
        called = grpc.intercept_channel(channel, _Metadata(metadata))
        reflection = ProtoReflectionDescriptorDatabase(called)
        services = sorted(reflection.get_services())
        file = reflection.FindFileContainingSymbol("inference.GRPCInferenceService")
        methods = [method.name for service in file.service for method in service.method]
    return {"health": [status, first, unknown], "services": services, "methods": methods, **compared(reflection)}


def compared(reflection: Any) -> dict[str, Any]:
    """Our description of the protocol beside tritonclient's: messages, fields, numbers, types."""
    differences = []
    for theirs, name in ((service_pb2, "inference.proto"), (model_config_pb2, "model_config.proto")):
        ours = reflection.FindFileByName(name)
        for message in ours.message_type:
            differences += _unlike(message, theirs.DESCRIPTOR.message_types_by_name[message.name])
        for service in ours.service:
            known = theirs.DESCRIPTOR.services_by_name[service.name].methods_by_name
            for method in service.method:
                other = known[method.name]
                kinds = (method.input_type[1:], method.output_type[1:], method.server_streaming)
                if kinds != (other.input_type.full_name, other.output_type.full_name, other.server_streaming):
                    differences.append(method.name)
    return {"differences": differences}


def _unlike(message: Any, other: Any) -> list[str]:
    found = []
    for field in message.field:
        known = other.fields_by_name.get(field.name)
        mine = (field.number, field.type, field.label == field.LABEL_REPEATED)
        if known is None or (known.number, known.type, known.is_repeated) != mine:
            found.append(f"{message.name}.{field.name}")
    for nested in message.nested_type:
        found += _unlike(nested, other.nested_types_by_name[nested.name])
    return found


class _Metadata(grpc.StreamStreamClientInterceptor):
    """Sends metadata with each stream."""

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Go on with the metadata."""
        return continuation(details._replace(metadata=self._metadata), requests)


def ask_from_threads(address: str, headers: dict[str, str]) -> dict[str, Any]:
    """Several threads on one channel: everybody gets his own rows."""
    client = triton.InferenceServerClient(address)
    wrong: list[int] = []

    def ask(mine: int) -> None:
        for at in range(30):
            rows = [[mine, at], [mine, at + 1]]
            answer = client.infer("sums", numbers(rows), headers=headers)
            if answer.as_numpy("total").tolist() != [mine + at, mine + at + 1]:
                wrong.append(mine)

    threads = [threading.Thread(target=ask, args=(1000 * place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    client.close()
    return {"wrong": wrong}


def main(address: str, key: str, row: str) -> None:
    """Ask everything, and print what came."""
    headers = {"authorization": f"Bearer {key}"}
    said = ask_sync(address, headers, json.loads(row))
    said |= ask_stream(address, headers)
    said |= asyncio.run(ask_aio(address, headers))
    said |= ask_from_threads(address, headers)
    said |= ask_around(address, [("authorization", f"Bearer {key}")])
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
