"""Endpoints, traffic, changes that wait, and the plan over HTTP: translation only."""

import time
from typing import Any

import msgspec
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.contract.errors import InvalidInput
from modelyard.contract.plan import Shadow, TrafficSplit
from modelyard.control.deployments import approvals, publish, served, services
from modelyard.control.deployments.models import Change, Endpoint, Publication
from modelyard.control.deployments.reading import read_plan
from modelyard.control.deployments.serializers import (
    WAIT_S,
    ChangeSerializer,
    DecisionSerializer,
    DeployedSerializer,
    DeploymentSerializer,
    EndpointSerializer,
    ExpectingSerializer,
    OverridesSerializer,
    PlanSerializer,
    ServedEndpointSerializer,
    ShadowSerializer,
    TrafficSerializer,
    WaitSerializer,
)
from modelyard.control.deployments.wait import gateway_state
from modelyard.control.setup import active_home
from modelyard.control.typed_body import body_of

_IF_MATCH = OpenApiParameter(
    "If-Match", str, OpenApiParameter.HEADER, description="the ETag that was read; another one now is a conflict (409)"
)


class Endpoints(generics.ListAPIView):
    """Every endpoint."""

    needs = {"GET": "deployments.view_endpoint"}
    serializer_class = EndpointSerializer
    queryset = services.list_endpoints()


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
        row = services.find_endpoint(name)
        return Response(EndpointSerializer(row).data, headers=_etag(row))

    @extend_schema(
        request=OverridesSerializer,
        responses={200: ServedEndpointSerializer, 202: ChangeSerializer},
        parameters=[_IF_MATCH],
    )
    def put(self, request: Request, name: str) -> Response:
        """Set its overrides; what is left out is taken away."""
        wanted = body_of(OverridesSerializer, request)
        wait_s, expected = wanted.pop("wait_s"), _expected(request, wanted.pop("expected_revision"))
        by = request.user.get_username()
        return _said(served.and_wait(lambda: services.configure(name, by, **wanted, expected=expected), by, wait_s))

    @extend_schema(request=None, responses={204: None, 202: ChangeSerializer}, parameters=[_IF_MATCH])
    def delete(self, request: Request, name: str) -> Response:
        """Take it away; versions stay."""
        done = services.undeploy(name, by=request.user.get_username(), expected=_expected(request, None))
        if isinstance(done, Change):
            return Response(ChangeSerializer(done).data, status.HTTP_202_ACCEPTED)
        return Response(status=status.HTTP_204_NO_CONTENT)


class Deployments(APIView):
    """Deploying."""

    needs = {"POST": "deployments.add_deployment"}

    @extend_schema(
        request=DeploymentSerializer,
        responses={200: DeployedSerializer, 202: ChangeSerializer},
        parameters=[_IF_MATCH],
    )
    def post(self, request: Request) -> Response:
        """Send all calls to a version, and wait until every worker serves it; a refusal leaves the old one serving."""
        wanted = body_of(DeploymentSerializer, request)
        expected = _expected(request, wanted.pop("expected_revision"))
        outcome = served.deploy_and_wait(**wanted, by=request.user.get_username(), expected=expected)
        if outcome.waits:
            return _said(outcome)
        body = {"endpoint": outcome.endpoint, "served": outcome.state is not None}
        return Response(DeployedSerializer(body).data, headers=_etag(outcome.endpoint))


class Traffic(APIView):
    """How an endpoint shares its calls."""

    needs = {"PUT": "deployments.change_deployment"}

    @extend_schema(
        request=TrafficSerializer,
        responses={200: ServedEndpointSerializer, 202: ChangeSerializer},
        parameters=[_IF_MATCH],
    )
    def put(self, request: Request, name: str) -> Response:
        """Share them anew, and wait until every worker does."""
        wanted = body_of(TrafficSerializer, request)
        try:
            weights = {int(number): weight for number, weight in wanted["weights"].items()}
            split = TrafficSplit(weights, wanted["sticky_by"])
        except ValueError:
            raise InvalidInput("weights are percents per version number that sum to 100") from None
        outcome = served.set_traffic_and_wait(
            name,
            split,
            by=request.user.get_username(),
            wait_s=wanted["wait_s"],
            force=wanted["force"],
            expected=_expected(request, wanted["expected_revision"]),
        )
        return _said(outcome)


class ShadowCopies(APIView):
    """Copies of an endpoint's calls, for a version that never answers."""

    needs = {"PUT": "deployments.change_deployment", "DELETE": "deployments.change_deployment"}

    @extend_schema(
        request=ShadowSerializer,
        responses={200: ServedEndpointSerializer, 202: ChangeSerializer},
        parameters=[_IF_MATCH],
    )
    def put(self, request: Request, name: str) -> Response:
        """Let a version have copies, and wait until every worker gives them."""
        wanted = body_of(ShadowSerializer, request)
        outcome = served.set_shadow_and_wait(
            name,
            Shadow(wanted["version"], wanted["percent"]),
            by=request.user.get_username(),
            wait_s=wanted["wait_s"],
            expected=_expected(request, wanted["expected_revision"]),
        )
        return _said(outcome)

    @extend_schema(
        request=None, responses={200: ServedEndpointSerializer, 202: ChangeSerializer}, parameters=[_IF_MATCH]
    )
    def delete(self, request: Request, name: str) -> Response:
        """End it."""
        by, expected = request.user.get_username(), _expected(request, None)
        return _said(served.set_shadow_and_wait(name, None, by=by, wait_s=WAIT_S, expected=expected))


class Rollback(APIView):
    """The way back."""

    needs = {"POST": "deployments.change_deployment"}

    @extend_schema(
        request=ExpectingSerializer,
        responses={200: ServedEndpointSerializer, 202: ChangeSerializer},
        parameters=[_IF_MATCH],
    )
    def post(self, request: Request, name: str) -> Response:
        """Send all calls to the version that served before."""
        wanted = body_of(ExpectingSerializer, request)
        expected = _expected(request, wanted["expected_revision"])
        by = request.user.get_username()
        return _said(served.rollback_and_wait(name, by=by, wait_s=wanted["wait_s"], expected=expected))


@extend_schema(
    parameters=[
        OpenApiParameter("status", str, enum=Change.Status.values, description="only these"),
        OpenApiParameter("endpoint", str, description="only of this one"),
    ]
)
class Changes(generics.ListAPIView):
    """What was asked of endpoints that need approval, the newest first."""

    needs = {"GET": "deployments.view_change"}
    serializer_class = ChangeSerializer
    queryset = approvals.list_changes()

    def get_queryset(self) -> QuerySet[Change]:
        """Of one status or one endpoint, where the address says so."""
        found = super().get_queryset()
        for name in ("status", "endpoint"):
            if (value := self.request.query_params.get(name)) is not None:
                found = found.filter(**{name: value})
        return found


class OneChange(APIView):
    """One change."""

    needs = {"GET": "deployments.view_change", "DELETE": "deployments.change_deployment"}

    @extend_schema(responses=ChangeSerializer)
    def get(self, request: Request, pk: int) -> Response:
        """How far it has come."""
        return Response(ChangeSerializer(approvals.find_change(pk)).data)

    @extend_schema(request=None, responses=ChangeSerializer)
    def delete(self, request: Request, pk: int) -> Response:
        """Withdraw what one asked for oneself; it stays on record."""
        return Response(ChangeSerializer(approvals.withdraw(pk, request.user.get_username())).data)


class Approval(APIView):
    """Another principal's yes."""

    needs = {"POST": "deployments.approve_change"}

    @extend_schema(request=WaitSerializer, responses=ChangeSerializer)
    def post(self, request: Request, pk: int) -> Response:
        """Do what was asked, and wait until every worker serves it; not for who asked."""
        wait_s = body_of(WaitSerializer, request)["wait_s"]
        outcome = served.approve_and_wait(pk, by=request.user.get_username(), wait_s=wait_s)
        return Response(ChangeSerializer(outcome.change).data)


class Rejection(APIView):
    """Another principal's no."""

    needs = {"POST": "deployments.approve_change"}

    @extend_schema(request=DecisionSerializer, responses=ChangeSerializer)
    def post(self, request: Request, pk: int) -> Response:
        """See that it is never done."""
        reason = body_of(DecisionSerializer, request)["reason"]
        return Response(ChangeSerializer(approvals.reject(pk, request.user.get_username(), reason)).data)


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


def _said(outcome: served.Outcome) -> Response:
    """200 with the endpoint as it is now, or 202 with the change that waits."""
    if outcome.waits:
        return Response(ChangeSerializer(outcome.change).data, status.HTTP_202_ACCEPTED)
    context = {"served": outcome.state is not None}
    return Response(ServedEndpointSerializer(outcome.endpoint, context=context).data, headers=_etag(outcome.endpoint))


def _etag(endpoint: Endpoint) -> dict[str, str]:
    return {"ETag": f'"{endpoint.revision}"'}


def _expected(request: Request, asked: int | None) -> int | None:
    """The revision that the caller believes to change: from the body, or from `If-Match`."""
    tag = request.headers.get("If-Match", "").strip()
    if not tag or tag == "*":
        return asked
    number = tag.removeprefix('"').removesuffix('"')
    if not (number.isascii() and number.isdigit() and len(number) < 19) or (asked is not None and asked != int(number)):
        raise InvalidInput("If-Match is the ETag that an endpoint was read with, and agrees with expected_revision")
    return int(number)
