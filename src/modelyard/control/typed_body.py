"""The body of a management request, checked against what its serializer allows."""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request


def body_of(kind: type[serializers.Serializer], request: Request) -> dict[str, Any]:
    """What was sent, with defaults filled in; a body that breaks a rule becomes a 400 that names the field."""
    asked = kind(data=request.data)
    asked.is_valid(raise_exception=True)
    return dict(asked.validated_data)
