"""Export, import and collection over HTTP: translation only."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.contract.errors import TooLarge
from modelyard.control.archive import services
from modelyard.control.registry.api import VersionSerializer
from modelyard.control.typed_body import body_of

MAX_BYTES = 8 * 1024**3  # of an imported file
_PIECE = 1024 * 1024


class Bundle(BaseParser):
    """The body is the file itself; it goes to disk as it comes."""

    media_type = "application/gzip"

    def parse(self, stream: BinaryIO, media_type: Any = None, parser_context: Any = None) -> BinaryIO:
        """A temporary file that holds it. Raises TooLarge."""
        file, size = tempfile.TemporaryFile(), 0  # noqa: SIM115 - closed with the request
        for piece in _pieces(stream):
            size += len(piece)
            if size > MAX_BYTES:
                raise TooLarge(f"an imported file has at most {MAX_BYTES} bytes")
            file.write(piece)
        file.seek(0)
        return file


class Export(APIView):
    """One version as a file."""

    needs = {"GET": "registry.view_version"}

    @extend_schema(responses={(200, "application/gzip"): OpenApiTypes.BINARY})
    def get(self, request: Request, name: str, which: str) -> FileResponse:
        """The version, its members and the signature of this home."""
        with tempfile.TemporaryDirectory(prefix="modelyard-export-") as folder:
            path = Path(folder) / f"{name}-{which}.tar.gz"
            services.export_version(name, which, path, request.user.get_username())
            return FileResponse(path.open("rb"), as_attachment=True, content_type="application/gzip")


class Import(APIView):
    """What another home exported."""

    needs = {"POST": "registry.add_version"}
    parser_classes = [Bundle]

    @extend_schema(
        request={"application/gzip": OpenApiTypes.BINARY},
        parameters=[
            OpenApiParameter("signer", str, description="fingerprint of the home that exported it"),
            OpenApiParameter("trust", bool, description="take a version that holds or names code"),
        ],
        responses={201: VersionSerializer},
    )
    def post(self, request: Request) -> Response:
        """Check every byte and register it."""
        with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file, request.data as body:
            for piece in _pieces(body):
                file.write(piece)
            file.flush()
            version = services.import_version(
                Path(file.name),
                request.user.get_username(),
                signer=request.query_params.get("signer"),
                trust=request.query_params.get("trust") == "true",
            )
        return Response(VersionSerializer(version).data, status.HTTP_201_CREATED)


class CollectionSerializer(serializers.Serializer):
    """What may go. Without `dry_run` it goes."""

    dry_run = serializers.BooleanField(default=True)
    keep = serializers.IntegerField(min_value=1, default=services.KEEP)
    older_than_days = serializers.FloatField(min_value=0, default=services.OLDER_THAN_DAYS)


class CollectedSerializer(serializers.Serializer):
    """What went or would go, and why the rest stays."""

    dry_run = serializers.BooleanField()
    bytes = serializers.IntegerField()
    removed = serializers.ListField(child=serializers.DictField())
    kept = serializers.ListField(child=serializers.DictField())
    orphans = serializers.ListField(child=serializers.CharField())


class Garbage(APIView):
    """Versions that nothing needs."""

    needs = {"POST": "registry.delete_version"}

    @extend_schema(request=CollectionSerializer, responses=CollectedSerializer)
    def post(self, request: Request) -> Response:
        """Say what would go, or remove it."""
        wanted = body_of(CollectionSerializer, request)
        done = services.collect(request.user.get_username(), **wanted)
        said = {"dry_run": wanted["dry_run"], "bytes": done.bytes, **msgspec.to_builtins(done)}
        return Response(CollectedSerializer(said).data)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(_PIECE):
        yield piece
