"""The log, what served when, and where an answer came from, over HTTP: translation only."""

from datetime import datetime

import msgspec
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.contract.errors import Forbidden
from modelyard.control.accounts.audit import record
from modelyard.control.registry import history, services, tracing
from modelyard.control.registry.models import Event

AT = OpenApiParameter("at", str, description="ISO 8601; UTC where it names no zone; left out: now")


class EventSerializer(serializers.ModelSerializer):
    """What happened to a model."""

    class Meta:
        model = Event
        fields = ["at", "by", "verb", "version", "endpoint", "revision", "details"]


class ServedSerializer(serializers.Serializer):
    """How an endpoint stood at an instant, and by whose word."""

    endpoint = serializers.CharField()
    model = serializers.CharField()
    weights = serializers.DictField(child=serializers.IntegerField(), help_text="percent of calls by version")
    shadow = serializers.DictField(allow_null=True, help_text="version and percent of what gets copies")
    revision = serializers.IntegerField(allow_null=True, help_text="of the plan that said so")
    since = serializers.DateTimeField()
    verb = serializers.CharField()
    by = serializers.CharField()
    approved_by = serializers.CharField(allow_blank=True)
    forced = serializers.CharField(allow_blank=True, help_text="why it was done though something spoke against it")


class TracedSerializer(serializers.Serializer):
    """What is known of a request id."""

    asked = serializers.CharField()
    kind = serializers.ChoiceField(["request", "caller"], help_text="our own id, or one that the caller gave")
    requests = serializers.ListField(
        child=serializers.DictField(), help_text="each with its version and who put it there"
    )
    genuine = serializers.BooleanField(allow_null=True, help_text="whether this home made the id")
    endpoint = serializers.CharField(allow_blank=True)
    principal = serializers.CharField(allow_blank=True)
    written_between = serializers.ListField(child=serializers.DateTimeField(), allow_null=True)
    records_since = serializers.DateTimeField(allow_null=True, help_text="older records are gone")
    feedback = serializers.ListField(child=serializers.DictField())


@extend_schema_view(
    get=extend_schema(
        parameters=[
            OpenApiParameter("verb", str, description="such as deploy, set_alias, tag"),
            OpenApiParameter("endpoint", str, description="what changed its answers"),
        ]
    )
)
class Events(generics.ListAPIView):
    """What happened to a model, newest first."""

    needs = {"GET": "registry.view_event"}
    serializer_class = EventSerializer
    queryset = Event.objects.all()

    def get_queryset(self) -> QuerySet[Event]:
        """Of the model that the address names."""
        asked = self.request.query_params
        wanted = {field: asked[field] for field in ("verb", "endpoint") if field in asked}
        return super().get_queryset().filter(model=services.find_model(self.kwargs["name"]), **wanted)


class ModelServed(APIView):
    """What each endpoint of a model served at an instant."""

    needs = {"GET": "registry.view_event"}

    @extend_schema(parameters=[AT], responses=ServedSerializer(many=True))
    def get(self, request: Request, name: str) -> Response:
        """From the log alone: true also where rows are gone."""
        services.find_model(name)
        return Response(msgspec.to_builtins(history.served_at(_at(request), model=name)))


class EndpointServed(APIView):
    """What an endpoint served at an instant, also one that is gone."""

    needs = {"GET": "registry.view_event"}

    @extend_schema(parameters=[AT], responses=ServedSerializer(many=True))
    def get(self, request: Request, name: str) -> Response:
        """One entry, or none: it served nothing then, or the log begins later."""
        return Response(msgspec.to_builtins(history.served_at(_at(request), endpoint=name)))


class Trace(APIView):
    """Where an answer came from."""

    needs = {"GET": "registry.trace_request"}

    @extend_schema(
        parameters=[
            OpenApiParameter("inputs", bool, description="also what the model saw, without personal columns; audited")
        ],
        responses=TracedSerializer,
    )
    def get(self, request: Request, request_id: str) -> Response:
        """Our id, or the X-Request-Id that the caller sent."""
        inputs = request.query_params.get("inputs", "").lower() in ("1", "true", "yes")
        if inputs and not request.user.has_perm("registry.trace_inputs"):
            raise Forbidden("the inputs of a request need the permission registry.trace_inputs")
        found = tracing.trace(request_id, inputs=inputs)
        if inputs:
            record(request.user.get_username(), "trace_inputs", found.asked[: tracing.MAX_CALLER_ID])
        return Response(msgspec.to_builtins(found))


def _at(request: Request) -> datetime:
    asked = request.query_params.get("at")
    return history.instant(asked) if asked else timezone.now()
