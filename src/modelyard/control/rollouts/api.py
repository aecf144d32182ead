"""Rollouts over HTTP: translation only."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.control.deployments.models import Change
from modelyard.control.deployments.serializers import ChangeSerializer
from modelyard.control.rollouts import services
from modelyard.control.rollouts.models import Rollout, RolloutEvent
from modelyard.control.rollouts.report import report_of
from modelyard.control.rollouts.watch import warnings_of
from modelyard.control.setup import active_home
from modelyard.control.typed_body import body_of

_POLICY = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "percent": {"type": "integer"},
                    "min_seconds": {"type": "number"},
                    "min_calls": {"type": "integer"},
                },
            },
        },
        "guards": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "kind": {"type": "string", "enum": ["errors", "latency", "violations"]},
                    "margin": {"type": "number"},
                    "slower": {"type": "number"},
                    "fast_seconds": {"type": "number"},
                },
            },
        },
        "alpha": {"type": "number"},
    },
}
_WATCHED = {
    "type": "object",
    "properties": {
        "percent": {"type": "integer"},
        "seconds": {"type": "number"},
        "calls": {"type": "integer"},
        "waits_for": {"type": "string", "nullable": True},
        "findings": {"type": "array", "items": {"type": "object"}},
    },
}


class RolloutEventSerializer(serializers.ModelSerializer):
    """What happened to a rollout."""

    class Meta:
        model = RolloutEvent
        fields = ["at", "by", "verb", "details"]
        read_only_fields = fields


class RolloutSerializer(serializers.ModelSerializer):
    """A rollout: how it goes, how far it is, and what speaks against it."""

    policy = serializers.SerializerMethodField()
    watched = serializers.SerializerMethodField()
    warnings = serializers.SerializerMethodField()

    class Meta:
        model = Rollout
        fields = [
            "id",
            "endpoint",
            "model",
            "champion",
            "candidate",
            "state",
            "reason",
            "finding",
            "policy",
            "watched",
            "warnings",
            "lease_seconds",
            "revision",
            "by",
            "approved_by",
            "started_at",
            "step_started_at",
            "looked_at",
            "ended_at",
        ]
        read_only_fields = fields

    @extend_schema_field(_POLICY)
    def get_policy(self, rollout: Rollout) -> dict[str, Any]:
        """Steps, guards and the chance of a false alarm."""
        return rollout.policy

    @extend_schema_field(_WATCHED)
    def get_watched(self, rollout: Rollout) -> dict[str, Any]:
        """The share, what was seen at it, and each guard's evidence: believed from `limit` on."""
        return report_of(rollout)

    def get_warnings(self, rollout: Rollout) -> list[str]:
        """What keeps it from getting on."""
        return warnings_of(active_home(), rollout.lease_seconds, timezone.now()) if rollout.is_active else []


class StepSerializer(serializers.Serializer):
    """A share of the calls, and what must have been seen at it before the next one."""

    percent = serializers.IntegerField(min_value=1, max_value=100)
    min_seconds = serializers.FloatField(min_value=0, required=False)
    min_calls = serializers.IntegerField(min_value=0, required=False)


class GuardSerializer(serializers.Serializer):
    """Something that must not get worse by more than a margin."""

    kind = serializers.ChoiceField(["errors", "latency", "violations"])
    margin = serializers.FloatField(min_value=0, max_value=0.5, help_text="share of the calls")
    slower = serializers.FloatField(min_value=1, max_value=100, required=False, help_text="latency: still equally fast")
    fast_seconds = serializers.FloatField(min_value=0, max_value=10, required=False, help_text="latency: never slow")


class NewRolloutSerializer(serializers.Serializer):
    """What to roll out, and how. What is left out is as `modelyard rollout start` has it."""

    endpoint = serializers.CharField(max_length=63)
    version = serializers.CharField(max_length=63, help_text="number or alias")
    steps = StepSerializer(many=True, required=False)
    guards = GuardSerializer(many=True, required=False)
    alpha = serializers.FloatField(required=False, help_text="chance of rolling a good version back")
    lease_seconds = serializers.FloatField(required=False, default=services.LEASE_S)
    force = serializers.CharField(
        max_length=500, required=False, allow_blank=True, default="", help_text="why callers may break; is recorded"
    )


class ReasonSerializer(serializers.Serializer):
    """Why."""

    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class Rollouts(generics.ListAPIView):
    """Rollouts, newest first."""

    needs = {"GET": "rollouts.view_rollout", "POST": "deployments.change_deployment"}
    serializer_class = RolloutSerializer
    queryset = Rollout.objects.all()

    @extend_schema(request=NewRolloutSerializer, responses={201: RolloutSerializer, 202: ChangeSerializer})
    def post(self, request: Request) -> Response:
        """Begin one; where the endpoint needs approval, the change that waits for it."""
        wanted = body_of(NewRolloutSerializer, request)
        policy = {name: wanted.pop(name) for name in ("steps", "guards", "alpha") if name in wanted}
        by = request.user.get_username()
        done = services.start_rollout(wanted.pop("endpoint"), wanted.pop("version"), policy, by=by, **wanted)
        if isinstance(done, Change):
            return Response(ChangeSerializer(done).data, status.HTTP_202_ACCEPTED)
        return Response(RolloutSerializer(done).data, status.HTTP_201_CREATED)


class OneRollout(APIView):
    """One rollout."""

    needs = {"GET": "rollouts.view_rollout"}

    @extend_schema(responses=RolloutSerializer)
    def get(self, request: Request, pk: int) -> Response:
        """How it stands."""
        return Response(RolloutSerializer(services.find_rollout(pk)).data)


class RolloutEvents(generics.ListAPIView):
    """What happened to a rollout, newest first."""

    needs = {"GET": "rollouts.view_rolloutevent"}
    serializer_class = RolloutEventSerializer
    queryset = RolloutEvent.objects.all()

    def get_queryset(self) -> Any:
        """Of the rollout that the address names."""
        return super().get_queryset().filter(rollout=services.find_rollout(self.kwargs["pk"]))


class Pause(APIView):
    """Pausing."""

    needs = {"POST": "deployments.change_deployment"}

    @extend_schema(request=ReasonSerializer, responses=RolloutSerializer)
    def post(self, request: Request, pk: int) -> Response:
        """Keep the share as it is; the guards go on watching."""
        reason = body_of(ReasonSerializer, request)["reason"]
        return Response(RolloutSerializer(services.pause(pk, request.user.get_username(), reason)).data)


class Resume(APIView):
    """Going on."""

    needs = {"POST": "deployments.change_deployment"}

    @extend_schema(request=None, responses=RolloutSerializer)
    def post(self, request: Request, pk: int) -> Response:
        """Go on with a paused rollout."""
        return Response(RolloutSerializer(services.resume(pk, request.user.get_username())).data)


class Abort(APIView):
    """Ending before the end."""

    needs = {"POST": "deployments.change_deployment"}

    @extend_schema(request=ReasonSerializer, responses=RolloutSerializer)
    def post(self, request: Request, pk: int) -> Response:
        """Give the champion all calls again."""
        reason = body_of(ReasonSerializer, request)["reason"]
        return Response(RolloutSerializer(services.abort(pk, request.user.get_username(), reason)).data)
