"""Endpoints in the admin."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from modelyard.control.deployments.models import Deployment, Endpoint
from modelyard.control.deployments.services import rollback
from modelyard.control.read_only_admin import ReadOnlyAdmin, ReadOnlyInline


class DeploymentInline(ReadOnlyInline):
    """The versions behind an endpoint."""

    model = Deployment


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    """Stable public names."""

    list_display = ["name", "model", "is_default", "cutoff", "max_rows"]
    list_select_related = ["model"]
    inlines = [DeploymentInline]
    actions = ["roll_back"]

    def has_share_permission(self, request: HttpRequest) -> bool:
        """Whoever may change deployments may roll them back."""
        return request.user.has_perm("deployments.change_deployment")

    @admin.action(description="Roll back to the version before", permissions=["share"])
    def roll_back(self, request: HttpRequest, chosen: QuerySet[Endpoint]) -> None:
        """All calls go to the version that served before."""
        for endpoint in chosen:
            rollback(endpoint.name, by=request.user.get_username())
