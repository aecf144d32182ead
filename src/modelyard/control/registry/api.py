"""Models, versions, aliases, tags and comparisons over HTTP: translation only."""

from typing import Any

import msgspec
from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.contract.errors import InvalidInput
from modelyard.control.registry import reading, services
from modelyard.control.registry.models import Model, Version
from modelyard.control.typed_body import body_of

TAG = OpenApiParameter("tag", str, many=True, description="`key=value`; several: all of them")
_TAGS = {"type": "object", "additionalProperties": {"type": "string"}}


class ModelSerializer(serializers.ModelSerializer):
    """A model: its versions' numbers, its aliases and its tags."""

    versions = serializers.SerializerMethodField()
    aliases = serializers.SerializerMethodField()
    tags = serializers.SerializerMethodField()

    class Meta:
        model = Model
        fields = ["name", "description", "tags", "created_at", "versions", "aliases"]

    def get_versions(self, model: Model) -> list[int]:
        """Numbers, newest first."""
        return sorted((version.number for version in model.versions.all()), reverse=True)

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "integer"}})
    def get_aliases(self, model: Model) -> dict[str, int]:
        """Alias -> number."""
        return {alias.name: alias.version.number for alias in model.aliases.all()}

    @extend_schema_field(_TAGS)
    def get_tags(self, model: Model) -> dict[str, str]:
        """Key -> value."""
        return reading.tags_of(model)


class VersionSerializer(serializers.ModelSerializer):
    """One version, as its row knows it."""

    model = serializers.CharField(source="model.name")
    version = serializers.IntegerField(source="number")
    aliases = serializers.SerializerMethodField()
    tags = serializers.SerializerMethodField()

    class Meta:
        model = Version
        fields = [
            "model",
            "version",
            "aliases",
            "tags",
            "status",
            "digest",
            "task",
            "framework",
            "trusted",
            "size_bytes",
            "metrics",
            "parity",
            "lineage",
            "data_digest",
            "code_revision",
            "contract_digest",
            "note",
            "created_at",
            "created_by",
        ]
        read_only_fields = fields

    def get_aliases(self, version: Version) -> list[str]:
        """The names that point here."""
        return sorted(alias.name for alias in version.aliases.all())

    @extend_schema_field(_TAGS)
    def get_tags(self, version: Version) -> dict[str, str]:
        """Key -> value."""
        return reading.tags_of(version)


class WholeVersionSerializer(VersionSerializer):
    """One version whole: its row, and what only its artifact knows."""

    manifest = serializers.SerializerMethodField(help_text="contract, signature, decision, files and more")
    card = serializers.SerializerMethodField(help_text="the model card, Markdown")
    problem = serializers.SerializerMethodField(help_text="why manifest and card are missing")

    class Meta(VersionSerializer.Meta):
        fields = [*VersionSerializer.Meta.fields, "manifest", "card", "problem"]
        read_only_fields = fields

    def to_representation(self, version: Version) -> dict[str, Any]:
        """The artifact is opened once for all three."""
        self._artifact = reading.from_artifact(version)
        return super().to_representation(version)

    @extend_schema_field({"type": "object", "nullable": True, "additionalProperties": True})
    def get_manifest(self, version: Version) -> dict[str, Any] | None:
        """As it lies on the shelf."""
        return self._artifact["manifest"]

    def get_card(self, version: Version) -> str | None:
        """As it lies on the shelf."""
        return self._artifact["card"]

    def get_problem(self, version: Version) -> str:
        """Empty where all is well."""
        return self._artifact["problem"]


class TargetSerializer(serializers.Serializer):
    """Where an alias shall point."""

    version = serializers.IntegerField(min_value=1)


class TagsField(serializers.DictField):
    """Tags to set; null takes one away."""

    child = serializers.CharField(allow_null=True, max_length=services.MAX_TAG_CHARACTERS)


class ModelChangeSerializer(serializers.Serializer):
    """What may be changed of a model; what is left out stays."""

    description = serializers.CharField(required=False, allow_blank=True, max_length=services.MAX_TEXT_CHARACTERS)
    tags = TagsField(required=False)


class VersionChangeSerializer(serializers.Serializer):
    """What may be changed of a version, which is else immutable; what is left out stays."""

    note = serializers.CharField(required=False, allow_blank=True, max_length=services.MAX_TEXT_CHARACTERS)
    tags = TagsField(required=False)


class ComparisonSerializer(serializers.Serializer):
    """Two versions side by side."""

    model = serializers.CharField()
    a = serializers.DictField(help_text="by itself: framework, size, parity, lineage, speed")
    b = serializers.DictField()
    same_artifact = serializers.BooleanField()
    same_data = serializers.BooleanField(allow_null=True)
    metrics = serializers.ListField(child=serializers.DictField(), help_text="both values, difference, intervals")
    contract = serializers.DictField(help_text="columns added, removed, changed")
    decision = serializers.DictField(help_text="words, cut-off, scale that differ")
    recipe = serializers.DictField(help_text="settings of the training that differ")


@extend_schema_view(get=extend_schema(parameters=[TAG]))
class Models(generics.ListAPIView):
    """Every model."""

    needs = {"GET": "registry.view_model"}
    serializer_class = ModelSerializer
    queryset = Model.objects.all()

    def get_queryset(self) -> QuerySet[Model]:
        """Those that bear the tags asked for."""
        return reading.models_shown(reading.tag_pairs(self.request.query_params.getlist("tag")))


class OneModel(APIView):
    """One model."""

    needs = {"GET": "registry.view_model", "PATCH": "registry.change_model"}

    @extend_schema(responses=ModelSerializer)
    def get(self, request: Request, name: str) -> Response:
        """How it stands."""
        return Response(ModelSerializer(_shown(name)).data)

    @extend_schema(request=ModelChangeSerializer, responses=ModelSerializer)
    def patch(self, request: Request, name: str) -> Response:
        """Describe it, tag it."""
        _change(ModelChangeSerializer, request, name, None, "description")
        return Response(ModelSerializer(_shown(name)).data)


@extend_schema_view(
    get=extend_schema(
        parameters=[
            TAG,
            OpenApiParameter("data_digest", str, description="learned from the table of this SHA-256"),
            OpenApiParameter("digest", str, description="the artifact of this digest"),
        ]
    )
)
class AllVersions(generics.ListAPIView):
    """The versions of every model: which came of this table, which is this artifact, which bear this tag."""

    needs = {"GET": "registry.view_version"}
    serializer_class = VersionSerializer
    queryset = Version.objects.all()

    def get_queryset(self) -> QuerySet[Version]:
        """Those that are asked for."""
        asked = self.request.query_params
        found = reading.versions_shown(reading.tag_pairs(asked.getlist("tag")))
        wanted = {field: asked[field] for field in ("data_digest", "digest") if field in asked}
        return found.filter(**wanted)


@extend_schema_view(get=extend_schema(parameters=[TAG]))
class Versions(generics.ListAPIView):
    """The versions of a model, newest first."""

    needs = {"GET": "registry.view_version"}
    serializer_class = VersionSerializer
    queryset = Version.objects.all()

    def get_queryset(self) -> QuerySet[Version]:
        """Of the model that the address names."""
        model = services.find_model(self.kwargs["name"])
        return reading.versions_shown(reading.tag_pairs(self.request.query_params.getlist("tag"))).filter(model=model)


class OneVersion(APIView):
    """One version, by number or alias."""

    needs = {"GET": "registry.view_version", "PATCH": "registry.change_version"}

    @extend_schema(responses=WholeVersionSerializer)
    def get(self, request: Request, name: str, which: str) -> Response:
        """All that is known of it."""
        return Response(WholeVersionSerializer(services.find_version(name, which)).data)

    @extend_schema(request=VersionChangeSerializer, responses=VersionSerializer)
    def patch(self, request: Request, name: str, which: str) -> Response:
        """Note something, tag it."""
        number = services.find_version(name, which).number
        _change(VersionChangeSerializer, request, name, number, "note")
        return Response(VersionSerializer(services.find_version(name, number)).data)


class OneAlias(APIView):
    """An alias of a model."""

    needs = {"PUT": "registry.change_alias", "DELETE": "registry.delete_alias"}

    @extend_schema(request=TargetSerializer, responses=VersionSerializer)
    def put(self, request: Request, name: str, alias: str) -> Response:
        """Point it at a version."""
        version = body_of(TargetSerializer, request)["version"]
        row = services.set_alias(name, alias, version, by=request.user.get_username())
        return Response(VersionSerializer(row.version).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, name: str, alias: str) -> Response:
        """Take it away; the version stays."""
        services.remove_alias(name, alias, by=request.user.get_username())
        return Response(status=status.HTTP_204_NO_CONTENT)


class Compare(APIView):
    """Two versions of a model side by side."""

    needs = {"GET": "registry.view_version"}

    @extend_schema(
        parameters=[
            OpenApiParameter("a", str, required=True, description="a version, by number or alias"),
            OpenApiParameter("b", str, required=True, description="the other one"),
        ],
        responses=ComparisonSerializer,
    )
    def get(self, request: Request, name: str) -> Response:
        """Measures, contract, parity, lineage, size, and speed as gateways saw it."""
        asked = request.query_params
        if not (asked.get("a") and asked.get("b")):
            raise InvalidInput("?a= and &b= name two versions, by number or alias")
        return Response(msgspec.to_builtins(reading.compared(name, asked["a"], asked["b"])))


def _shown(name: str) -> Model:
    return reading.models_shown().get(pk=services.find_model(name).pk)


@transaction.atomic
def _change(kind: type[serializers.Serializer], request: Request, name: str, which: int | None, text: str) -> None:
    """All that the body asks for, or nothing."""
    wanted, by = body_of(kind, request), request.user.get_username()
    if text in wanted:
        services.describe(name, wanted[text], by, which)
    if "tags" in wanted:
        services.set_tags(name, wanted["tags"], by, which)
