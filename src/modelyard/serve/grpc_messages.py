"""The messages of the gRPC edge: classes made from the descriptors that `scripts/protos` compiled.

They live in a pool of their own, so that a client library in the same process may bring its own description of the
same protocol.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from modelyard.contract.errors import Undecodable

Message = Any  # the classes are made at run time


def _pool() -> tuple[DescriptorPool, list[str]]:
    pool, services = DescriptorPool(), []
    described = FileDescriptorSet.FromString(files("modelyard.serve").joinpath("protos/descriptors.binpb").read_bytes())
    for file in described.file:
        pool.Add(file)
        services += [f"{file.package}.{service.name}" for service in file.service]
    return pool, services


POOL, SERVICES = _pool()


def message_class(name: str) -> Message:
    """The class of a message by its full name, such as `inference.ModelInferRequest`."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


def parsed(cls: Message, data: bytes | bytearray | memoryview) -> Message:
    """A message from its bytes. Raises Undecodable."""
    try:
        return cls.FromString(bytes(data))
    except (DecodeError, RecursionError):
        raise Undecodable(f"the message is not a {cls.DESCRIPTOR.full_name}") from None


def from_json(cls: Message, text: bytes) -> Message:
    """A message from what the REST edge says of the same thing: the two cannot disagree."""
    return json_format.Parse(text, cls(), ignore_unknown_fields=True)
