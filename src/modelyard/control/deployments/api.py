"""Endpoints, traffic and the plan over HTTP: translation only."""

import time
from typing import Any

import msgspec
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.contract.errors import InvalidInput
from modelyard.contract.plan import TrafficSplit
from modelyard.control.deployments import publish, rollout, services
from modelyard.control.deployments.models import Endpoint, Publication
from modelyard.control.deployments.reading import read_plan
from modelyard.control.deployments.wait import gateway_state
from modelyard.control.setup import active_home

_WEIGHTS = {"type": "object", "additionalProperties": {"type": "integer"}}


class EndpointSerializer(serializers.ModelSerializer):
    """An endpoint and how its calls are shared."""

    model = serializers.CharField(source="model.name")
    weights = serializers.SerializerMethodField()

    class Meta:
        model = Endpoint
        fields = ["name", "model", "weights", "sticky_by", "cutoff", "max_rows", "is_default", "created_at"]
        read_only_fields = fields

    @extend_schema_field(_WEIGHTS)
    def get_weights(self, endpoint: Endpoint) -> dict[str, int]:
        """Version -> percent; 0 is held ready without traffic."""
        return {str(row.version.number): row.weight for row in endpoint.deployments.select_related("version")}


class DeploymentSerializer(serializers.Serializer):
    """What to deploy, and how long to wait for the gateway."""

    model = serializers.CharField(max_length=63)
    version = serializers.CharField(
        max_length=63, required=False, allow_null=True, default=None, help_text="number or alias; default: champion"
    )
    endpoint = serializers.CharField(max_length=63, required=False, allow_null=True, default=None)
    wait_s = serializers.FloatField(min_value=0, max_value=60, required=False, default=15.0)


class DeployedSerializer(serializers.Serializer):
    """An endpoint, and whether a gateway serves it so already."""

    endpoint = EndpointSerializer()
    served = serializers.BooleanField(help_text="false: no gateway runs; it will serve this when it starts")


class TrafficSerializer(serializers.Serializer):
    """Percent per version; they sum to 100."""

    weights = serializers.DictField(child=serializers.IntegerField(min_value=0, max_value=100), allow_empty=False)
    sticky_by = serializers.CharField(max_length=64, required=False, allow_null=True, default=None)


class OverridesSerializer(serializers.Serializer):
    """An endpoint's overrides, all at once."""

    cutoff = serializers.FloatField(required=False, allow_null=True, default=None)
    max_rows = serializers.IntegerField(required=False, allow_null=True, default=None)
    is_default = serializers.BooleanField(required=False, default=False)


class PlanSerializer(serializers.Serializer):
    """What lies on disk for the gateways, without key digests, and what they make of it."""

    revision = serializers.IntegerField()
    committed = serializers.IntegerField(help_text="above revision: a publication is due")
    age_s = serializers.FloatField(allow_null=True)
    require_keys = serializers.BooleanField()
    keys = serializers.IntegerField()
    endpoints = serializers.ListField(child=serializers.DictField())
    gateway = serializers.DictField(allow_null=True)


class Endpoints(generics.ListAPIView):
    """Every endpoint."""

    needs = {"GET": "deployments.view_endpoint"}
    serializer_class = EndpointSerializer
    queryset = Endpoint.objects.select_related("model")


class OneEndpoint(APIView):
    """One endpoint."""

    needs = {
        "GET": "deployments.view_endpoint",
        "PUT": "deployments.change_endpoint",
        "DELETE": "deployments.delete_endpoint",
    }

    @extend_schema(responses=EndpointSerializer)
    def get(self, request: Request, name: str) -> Response:
        """How it stands."""
        return Response(EndpointSerializer(services.find_endpoint(name)).data)

    @extend_schema(request=OverridesSerializer, responses=EndpointSerializer)
    def put(self, request: Request, name: str) -> Response:
        """Set its overrides; what is left out is taken away."""
        row = services.configure(name, request.user.get_username(), **_body(OverridesSerializer, request))
        return Response(EndpointSerializer(row).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Take it away; versions stay."""
        services.undeploy(name, by=request.user.get_username())
        return Response(status=status.HTTP_204_NO_CONTENT)


class Deployments(APIView):
    """Deploying."""

    needs = {"POST": "deployments.add_deployment"}

    @extend_schema(request=DeploymentSerializer, responses=DeployedSerializer)
    def post(self, request: Request) -> Response:
        """Send all calls to a version, and wait until every worker serves it; a refusal leaves the old one serving."""
        wanted = _body(DeploymentSerializer, request)
        row, state = rollout.deploy_and_wait(**wanted, by=request.user.get_username())
        return Response(DeployedSerializer({"endpoint": row, "served": state is not None}).data)


class Traffic(APIView):
    """How an endpoint shares its calls."""

    needs = {"PUT": "deployments.change_deployment"}

    @extend_schema(request=TrafficSerializer, responses=EndpointSerializer)
    def put(self, request: Request, name: str) -> Response:
        """Share them anew."""
        wanted = _body(TrafficSerializer, request)
        try:
            split = TrafficSplit(
                {int(number): weight for number, weight in wanted["weights"].items()}, wanted["sticky_by"]
            )
        except ValueError:
            raise InvalidInput("weights are percents per version number that sum to 100") from None
        return Response(EndpointSerializer(services.set_traffic(name, split, by=request.user.get_username())).data)


class Rollback(APIView):
    """The way back."""

    needs = {"POST": "deployments.change_deployment"}

    @extend_schema(request=None, responses=EndpointSerializer)
    def post(self, request: Request, name: str) -> Response:
        """Send all calls to the version that served before."""
        return Response(EndpointSerializer(services.rollback(name, by=request.user.get_username())).data)


class Plan(APIView):
    """The serving plan."""

    needs = {"GET": "deployments.view_publication", "POST": "deployments.change_publication"}

    @extend_schema(responses=PlanSerializer)
    def get(self, request: Request) -> Response:
        """What is published, and what the gateway says of itself."""
        return Response(PlanSerializer(_plan()).data)

    @extend_schema(request=None, responses=PlanSerializer)
    def post(self, request: Request) -> Response:
        """Publish again if what lies on disk is not what the database says."""
        publish.publish_if_needed()
        return Response(PlanSerializer(_plan()).data)


def _plan() -> dict[str, Any]:
    home = active_home()
    plan = read_plan(home)
    publication = Publication.objects.filter(pk=1).first()
    state = gateway_state(home)
    return {
        "revision": plan.revision if plan else 0,
        "committed": publication.committed if publication else 0,
        "age_s": round(time.time() - plan.published_at, 3) if plan else None,
        "require_keys": bool(plan and plan.require_keys),
        "keys": len(plan.keys) if plan else 0,
        "endpoints": msgspec.to_builtins(plan.endpoints, str_keys=True) if plan else [],
        "gateway": msgspec.to_builtins(state) if state else None,
    }


def _body(kind: type[serializers.Serializer], request: Request) -> dict[str, Any]:
    asked = kind(data=request.data)
    asked.is_valid(raise_exception=True)
    return dict(asked.validated_data)
