"""Runs over HTTP: translation only."""

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from modelyard.control.training import services
from modelyard.control.training.models import Run
from modelyard.control.typed_body import body_of


class RunSerializer(serializers.ModelSerializer):
    """One training."""

    version = serializers.IntegerField(source="version.number", allow_null=True, default=None)
    job = serializers.IntegerField(source="job_id", allow_null=True)

    class Meta:
        model = Run
        fields = [
            "id",
            "model",
            "source",
            "status",
            "target",
            "positive",
            "recipe",
            "data_digest",
            "metrics",
            "version",
            "job",
            "error",
            "log",
            "created_by",
            "created_at",
            "started_at",
            "finished_at",
        ]
        read_only_fields = fields


class NewRunSerializer(serializers.Serializer):
    """A blueprint's name; or a table in the home's folder `tables`, the column to predict and the model's name."""

    blueprint = serializers.CharField(max_length=63, required=False, default="")
    name = serializers.CharField(max_length=63, required=False, default="")
    table = serializers.CharField(max_length=255, required=False, default="")
    target = serializers.CharField(max_length=200, required=False, default="")
    positive = serializers.CharField(max_length=200, required=False, allow_null=True, default=None)
    recipe = serializers.DictField(required=False, default=dict)


class Runs(generics.ListAPIView):
    """Trainings, newest first."""

    needs = {"GET": "training.view_run", "POST": "training.add_run"}
    serializer_class = RunSerializer
    queryset = Run.objects.select_related("version")

    @extend_schema(request=NewRunSerializer, responses={202: RunSerializer})
    def post(self, request: Request) -> Response:
        """Queue a training; the runner does it."""
        run = services.request_run(by=request.user.get_username(), **body_of(NewRunSerializer, request))
        return Response(RunSerializer(run).data, status.HTTP_202_ACCEPTED)


class OneRun(generics.RetrieveAPIView):
    """One training."""

    needs = {"GET": "training.view_run"}
    serializer_class = RunSerializer
    queryset = Run.objects.select_related("version")
