"""Jobs over HTTP: translation only."""

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from modelyard.control.jobs import services
from modelyard.control.jobs.models import Job


class JobSerializer(serializers.ModelSerializer):
    """One piece of queued work."""

    class Meta:
        model = Job
        fields = [
            "id",
            "work",
            "status",
            "step",
            "progress",
            "attempt",
            "peak_bytes",
            "max_attempts",
            "cancel_asked",
            "result",
            "error",
            "log",
            "created_by",
            "created_at",
            "started_at",
            "finished_at",
        ]
        read_only_fields = fields


class Jobs(generics.ListAPIView):
    """Jobs, newest first."""

    needs = {"GET": "jobs.view_job"}
    serializer_class = JobSerializer
    queryset = Job.objects.all()


class OneJob(generics.RetrieveAPIView):
    """One job."""

    needs = {"GET": "jobs.view_job"}
    serializer_class = JobSerializer
    queryset = Job.objects.all()


class Cancel(APIView):
    """Cancelling."""

    needs = {"POST": "jobs.change_job"}

    @extend_schema(request=None, responses=JobSerializer)
    def post(self, request: Request, pk: int) -> Response:
        """End a job before its time."""
        return Response(JobSerializer(services.cancel(pk, by=request.user.get_username())).data)
