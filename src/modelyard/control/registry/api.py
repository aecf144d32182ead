"""Models, versions and aliases over HTTP: translation only."""

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.contract.errors import NotFound
from modelyard.control.registry import services
from modelyard.control.registry.models import Event, Model, Version


class ModelSerializer(serializers.ModelSerializer):
    """A model: its versions' numbers and its aliases."""

    versions = serializers.SerializerMethodField()
    aliases = serializers.SerializerMethodField()

    class Meta:
        model = Model
        fields = ["name", "created_at", "versions", "aliases"]

    def get_versions(self, model: Model) -> list[int]:
        """Numbers, newest first."""
        return sorted((version.number for version in model.versions.all()), reverse=True)

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "integer"}})
    def get_aliases(self, model: Model) -> dict[str, int]:
        """Alias -> number."""
        return {alias.name: alias.version.number for alias in model.aliases.all()}


class VersionSerializer(serializers.ModelSerializer):
    """One version and what is known of it."""

    model = serializers.CharField(source="model.name")
    version = serializers.IntegerField(source="number")
    aliases = serializers.SerializerMethodField()

    class Meta:
        model = Version
        fields = [
            "model",
            "version",
            "aliases",
            "status",
            "digest",
            "task",
            "framework",
            "metrics",
            "parity",
            "lineage",
            "contract_digest",
            "note",
            "created_at",
            "created_by",
        ]
        read_only_fields = fields

    def get_aliases(self, version: Version) -> list[str]:
        """The names that point here."""
        return sorted(alias.name for alias in version.aliases.all())


class EventSerializer(serializers.ModelSerializer):
    """What happened to a model."""

    class Meta:
        model = Event
        fields = ["at", "by", "verb", "version", "details"]


class TargetSerializer(serializers.Serializer):
    """Where an alias shall point."""

    version = serializers.IntegerField(min_value=1)


class Models(generics.ListAPIView):
    """Every model."""

    needs = {"GET": "registry.view_model"}
    serializer_class = ModelSerializer
    queryset = Model.objects.prefetch_related("versions", "aliases__version")


class OneModel(generics.RetrieveAPIView):
    """One model."""

    needs = {"GET": "registry.view_model"}
    serializer_class = ModelSerializer
    queryset = Model.objects.prefetch_related("versions", "aliases__version")
    lookup_field = "name"


class Versions(generics.ListAPIView):
    """The versions of a model, newest first."""

    needs = {"GET": "registry.view_version"}
    serializer_class = VersionSerializer
    queryset = Version.objects.select_related("model").prefetch_related("aliases")

    def get_queryset(self) -> QuerySet[Version]:
        """Of the model that the address names."""
        name = self.kwargs["name"]
        if not Model.objects.filter(name=name).exists():
            raise NotFound(f"there is no model {name!r}")
        return super().get_queryset().filter(model__name=name)


class OneVersion(APIView):
    """One version, by number or alias."""

    needs = {"GET": "registry.view_version"}

    @extend_schema(responses=VersionSerializer)
    def get(self, request: Request, name: str, which: str) -> Response:
        """What is known of it."""
        return Response(VersionSerializer(services.find_version(name, which)).data)


class OneAlias(APIView):
    """An alias of a model."""

    needs = {"PUT": "registry.change_alias", "DELETE": "registry.delete_alias"}

    @extend_schema(request=TargetSerializer, responses=VersionSerializer)
    def put(self, request: Request, name: str, alias: str) -> Response:
        """Point it at a version."""
        asked = TargetSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        row = services.set_alias(name, alias, asked.validated_data["version"], by=request.user.get_username())
        return Response(VersionSerializer(row.version).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, name: str, alias: str) -> Response:
        """Take it away; the version stays."""
        services.remove_alias(name, alias, by=request.user.get_username())
        return Response(status=status.HTTP_204_NO_CONTENT)


class Events(generics.ListAPIView):
    """What happened to a model, newest first."""

    needs = {"GET": "registry.view_event"}
    serializer_class = EventSerializer
    queryset = Event.objects.all()

    def get_queryset(self) -> QuerySet[Event]:
        """Of the model that the address names."""
        return super().get_queryset().filter(model__name=self.kwargs["name"])
