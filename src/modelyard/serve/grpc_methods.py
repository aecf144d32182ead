"""Every method of the gRPC edge, by its path."""

from __future__ import annotations

import asyncio
from functools import partial

from modelyard.serve import grpc_health
from modelyard.serve.gateway import Gateway
from modelyard.serve.grpc import GrpcEdge, Method
from modelyard.serve.grpc_health import Watcher
from modelyard.serve.grpc_infer import Infer, InferCall
from modelyard.serve.grpc_messages import message_class
from modelyard.serve.grpc_questions import QUESTIONS, Question
from modelyard.serve.grpc_reflection import reflection
from modelyard.serve.grpc_stream import InferStream
from modelyard.serve.http2_server import Http2Server

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
_OPEN = frozenset(("ServerLive", "ServerReady"))  # probes, which need no key


def grpc_server(gateway: Gateway, loop: asyncio.AbstractEventLoop) -> Http2Server:
    """The server of one worker's gRPC port."""
    return GrpcEdge(gateway, methods(gateway), loop).server


def methods(gateway: Gateway) -> dict[bytes, Method]:
    """What each path means."""
    infer = Infer(gateway)
    found = {
        f"/{INFERENCE}/ModelInfer": Method(partial(InferCall, infer)),
        f"/{INFERENCE}/ModelStreamInfer": Method(partial(InferStream, infer)),
        f"/{HEALTH}/Check": Method(partial(Question, grpc_health.REQUEST, grpc_health.check), is_open=True),
        f"/{HEALTH}/Watch": Method(Watcher, is_open=True),
    }
    for name, answer in QUESTIONS.items():
        request = message_class(f"inference.{name}Request")
        found[f"/{INFERENCE}/{name}"] = Method(partial(Question, request, answer), is_open=name in _OPEN)
    for version in ("v1", "v1alpha"):
        found[f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"] = reflection(version)
    return {path.encode(): method for path, method in found.items()}
