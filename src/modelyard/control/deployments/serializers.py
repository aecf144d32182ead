"""What endpoints, their changes and the plan look like over HTTP."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from modelyard.control.deployments.models import Change, Endpoint
from modelyard.control.deployments.settling import shadow_of

WAIT_S = 15.0
MAX_WAIT_S = 60.0
_WEIGHTS = {"type": "object", "additionalProperties": {"type": "integer"}}
_SPANS = {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}}
_SHADOW = {
    "type": "object",
    "nullable": True,
    "properties": {"version": {"type": "integer"}, "percent": {"type": "integer"}},
}
_LEASE = {
    "type": "object",
    "nullable": True,
    "properties": {"seconds": {"type": "number"}, "fallback": {"type": "integer"}, "by": {"type": "string"}},
}


class EndpointSerializer(serializers.ModelSerializer):
    """An endpoint and how its calls are shared. Its `revision` is its ETag."""

    model = serializers.CharField(source="model.name")
    weights = serializers.SerializerMethodField()
    spans = serializers.SerializerMethodField()
    shadow = serializers.SerializerMethodField()
    lease = serializers.SerializerMethodField()

    class Meta:
        model = Endpoint
        fields = [
            "name",
            "model",
            "weights",
            "sticky_by",
            "spans",
            "shadow",
            "lease",
            "cutoff",
            "max_rows",
            "is_default",
            "is_pinned",
            "needs_approval",
            "revision",
            "created_at",
        ]
        read_only_fields = fields

    @extend_schema_field(_WEIGHTS)
    def get_weights(self, endpoint: Endpoint) -> dict[str, int]:
        """Version -> percent; 0 is held ready without traffic."""
        return {str(row.version.number): row.weight for row in endpoint.deployments.all()}

    @extend_schema_field(_SPANS)
    def get_spans(self, endpoint: Endpoint) -> list[list[int]]:
        """Who has which of the hundred slots that sticky callers fall into: [version, slots], from slot 0 on."""
        return endpoint.spans

    @extend_schema_field(_SHADOW)
    def get_shadow(self, endpoint: Endpoint) -> dict[str, int] | None:
        """The version that gets copies of calls, and the percent of them."""
        return shadow_of(endpoint)

    @extend_schema_field(_LEASE)
    def get_lease(self, endpoint: Endpoint) -> dict[str, Any] | None:
        """For how many seconds the split holds while control is silent, who has all calls then, who holds the lease."""
        if endpoint.lease_fallback is None:
            return None
        return {
            "seconds": endpoint.lease_seconds,
            "fallback": endpoint.lease_fallback.number,
            "by": endpoint.lease_by,
        }


class ServedEndpointSerializer(EndpointSerializer):
    """An endpoint after a change, and whether a gateway serves it so already."""

    served = serializers.SerializerMethodField()

    class Meta(EndpointSerializer.Meta):
        fields = [*EndpointSerializer.Meta.fields, "served"]
        read_only_fields = fields

    def get_served(self, endpoint: Endpoint) -> bool:
        """Whether every worker does; false: no gateway runs, or nobody waited."""
        return bool(self.context["served"])


class ChangeSerializer(serializers.ModelSerializer):
    """What was asked of an endpoint that needs approval, and what became of it."""

    arguments = serializers.DictField()

    class Meta:
        model = Change
        fields = [
            "id",
            "endpoint",
            "verb",
            "arguments",
            "by",
            "at",
            "expected",
            "status",
            "decided_by",
            "decided_at",
            "reason",
            "revision",
        ]
        read_only_fields = fields


class ExpectingSerializer(serializers.Serializer):
    """What every change may say besides: how long to wait for the gateway, and what it believes to change."""

    wait_s = serializers.FloatField(
        min_value=0, max_value=MAX_WAIT_S, required=False, default=WAIT_S, help_text="for every worker to serve it"
    )
    expected_revision = serializers.IntegerField(
        min_value=0, required=False, allow_null=True, default=None, help_text="another one now is a conflict (409)"
    )


class ForcingSerializer(ExpectingSerializer):
    """A change that may break what callers rely on."""

    force = serializers.CharField(
        max_length=500, required=False, allow_blank=True, default="", help_text="why callers may break; is recorded"
    )


class DeploymentSerializer(ForcingSerializer):
    """What to deploy."""

    model = serializers.CharField(max_length=63)
    version = serializers.CharField(
        max_length=63, required=False, allow_null=True, default=None, help_text="number or alias; default: the newest"
    )
    endpoint = serializers.CharField(max_length=63, required=False, allow_null=True, default=None)


class DeployedSerializer(serializers.Serializer):
    """An endpoint, and whether a gateway serves it so already."""

    endpoint = EndpointSerializer()
    served = serializers.BooleanField(help_text="false: no gateway runs; it will serve this when it starts")


class TrafficSerializer(ForcingSerializer):
    """Percent per version; they sum to 100."""

    weights = serializers.DictField(child=serializers.IntegerField(min_value=0, max_value=100), allow_empty=False)
    sticky_by = serializers.CharField(
        max_length=200, required=False, allow_null=True, default=None, help_text="a header, or column:NAME"
    )


class ShadowSerializer(ExpectingSerializer):
    """Who gets copies of the calls."""

    version = serializers.IntegerField(min_value=1)
    percent = serializers.IntegerField(min_value=1, max_value=100, required=False, default=100)


class OverridesSerializer(ExpectingSerializer):
    """An endpoint's overrides, all at once."""

    cutoff = serializers.FloatField(required=False, allow_null=True, default=None)
    max_rows = serializers.IntegerField(required=False, allow_null=True, default=None)
    is_default = serializers.BooleanField(required=False, default=False)
    is_pinned = serializers.BooleanField(
        required=False, default=False, help_text="its versions stay in memory, whatever `resident_bytes` says"
    )
    needs_approval = serializers.BooleanField(
        required=False, allow_null=True, default=None, help_text="left out: as it is; to end it needs approval itself"
    )


class DecisionSerializer(serializers.Serializer):
    """Why a change is rejected."""

    reason = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class WaitSerializer(serializers.Serializer):
    """How long to wait for the gateway."""

    wait_s = serializers.FloatField(min_value=0, max_value=MAX_WAIT_S, required=False, default=WAIT_S)


class PlanSerializer(serializers.Serializer):
    """What lies on disk for the gateways, without key digests, and what they make of it."""

    revision = serializers.IntegerField()
    committed = serializers.IntegerField(help_text="above revision: a publication is due")
    age_s = serializers.FloatField(allow_null=True)
    require_keys = serializers.BooleanField()
    keys = serializers.IntegerField()
    endpoints = serializers.ListField(child=serializers.DictField())
    gateway = serializers.DictField(allow_null=True)
