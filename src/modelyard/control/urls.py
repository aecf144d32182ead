"""Addresses of the control plane: management API, its description, the admin."""

from django.contrib import admin
from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from modelyard.control.accounts import api as accounts
from modelyard.control.archive import api as archive
from modelyard.control.batch import api as batch
from modelyard.control.deployments import api as deployments
from modelyard.control.jobs import api as jobs
from modelyard.control.registry import api as registry
from modelyard.control.registry import past_api as past
from modelyard.control.rollouts import api as rollouts
from modelyard.control.training import api as training

handler404 = "modelyard.control.problems.not_found"
handler500 = "modelyard.control.problems.server_error"

admin.site.site_header = admin.site.site_title = "Modelyard"
admin.site.index_title = "Control"
admin.site.site_url = "/api/v1/docs"


def healthz(request: HttpRequest) -> HttpResponse:
    """200 while this process answers; it says nothing else to anybody."""
    return JsonResponse({"status": "ok"})


v1 = [
    path("token", accounts.Tokens.as_view()),
    path("keys", accounts.Keys.as_view()),
    path("keys/<str:key_id>", accounts.OneKey.as_view()),
    path("audit", accounts.Audit.as_view()),
    path("models", registry.Models.as_view()),
    path("models/<str:name>", registry.OneModel.as_view()),
    path("models/<str:name>/compare", registry.Compare.as_view()),
    path("models/<str:name>/served", past.ModelServed.as_view()),
    path("models/<str:name>/versions", registry.Versions.as_view()),
    path("models/<str:name>/versions/<str:which>", registry.OneVersion.as_view()),
    path("models/<str:name>/versions/<str:which>/export", archive.Export.as_view()),
    path("models/<str:name>/aliases/<str:alias>", registry.OneAlias.as_view()),
    path("models/<str:name>/events", past.Events.as_view()),
    path("versions", registry.AllVersions.as_view()),
    path("trace/<path:request_id>", past.Trace.as_view()),
    path("endpoints", deployments.Endpoints.as_view()),
    path("endpoints/<str:name>", deployments.OneEndpoint.as_view()),
    path("endpoints/<str:name>/served", past.EndpointServed.as_view()),
    path("endpoints/<str:name>/traffic", deployments.Traffic.as_view()),
    path("endpoints/<str:name>/shadow", deployments.ShadowCopies.as_view()),
    path("endpoints/<str:name>/rollback", deployments.Rollback.as_view()),
    path("deployments", deployments.Deployments.as_view()),
    path("changes", deployments.Changes.as_view()),
    path("changes/<int:pk>", deployments.OneChange.as_view()),
    path("changes/<int:pk>/approve", deployments.Approval.as_view()),
    path("changes/<int:pk>/reject", deployments.Rejection.as_view()),
    path("rollouts", rollouts.Rollouts.as_view()),
    path("rollouts/<int:pk>", rollouts.OneRollout.as_view()),
    path("rollouts/<int:pk>/events", rollouts.RolloutEvents.as_view()),
    path("rollouts/<int:pk>/pause", rollouts.Pause.as_view()),
    path("rollouts/<int:pk>/resume", rollouts.Resume.as_view()),
    path("rollouts/<int:pk>/abort", rollouts.Abort.as_view()),
    path("plan", deployments.Plan.as_view()),
    path("runs", training.Runs.as_view()),
    path("runs/<int:pk>", training.OneRun.as_view()),
    path("imports", archive.Import.as_view()),
    path("garbage", archive.Garbage.as_view()),
    path("batches", batch.Batches.as_view()),
    path("jobs", jobs.Jobs.as_view()),
    path("jobs/<int:pk>", jobs.OneJob.as_view()),
    path("jobs/<int:pk>/cancel", jobs.Cancel.as_view()),
    path("schema", SpectacularAPIView.as_view(), name="schema"),
    path("docs", staff_member_required(SpectacularSwaggerView.as_view(url_name="schema")), name="docs"),
]

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("healthz", healthz),
    path("admin/", admin.site.urls),
    path("api/v1/", include(v1)),
]
