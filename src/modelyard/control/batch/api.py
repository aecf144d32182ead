"""Batches over HTTP: translation only."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.control.batch import services
from modelyard.control.jobs.api import JobSerializer
from modelyard.control.typed_body import body_of


class NewBatchSerializer(serializers.Serializer):
    """What to predict: a table in the home's folder `tables`; the answers come to lie there too."""

    name = serializers.CharField(max_length=63, help_text="an endpoint, or a model")
    version = serializers.CharField(
        max_length=63, required=False, allow_null=True, default=None,
        help_text="number or alias of the model; default: what the endpoint serves, else the champion",
    )  # fmt: skip
    table = serializers.CharField(max_length=255)
    output = serializers.CharField(max_length=255, help_text=".csv or .parquet")
    chunk_rows = serializers.IntegerField(
        min_value=1, max_value=services.MAX_CHUNK_ROWS, required=False, default=services.CHUNK_ROWS
    )
    reasons = serializers.ChoiceField(["all", "none"], required=False, allow_null=True, default=None)
    language = serializers.ChoiceField(["en", "zh"], required=False, default="en")


class Batches(APIView):
    """Batch predictions."""

    needs = {"POST": "jobs.add_job"}

    @extend_schema(request=NewBatchSerializer, responses={202: JobSerializer})
    def post(self, request: Request) -> Response:
        """Queue one; its job says how it goes."""
        given = body_of(NewBatchSerializer, request)
        source, output = services.files_in_home(given.pop("table"), given.pop("output"))
        arguments = services.arguments_of(
            given.pop("name"), given.pop("version"), source=source, output=output, **given
        )
        job = services.request_batch(arguments, request.user.get_username())
        return Response(JobSerializer(job).data, status.HTTP_202_ACCEPTED)
