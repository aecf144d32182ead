"""Endpoints in the admin."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from modelyard.control.deployments.approvals import approve, reject
from modelyard.control.deployments.models import Change, Deployment, Endpoint
from modelyard.control.deployments.services import rollback
from modelyard.control.read_only_admin import ReadOnlyAdmin, ReadOnlyInline


class DeploymentInline(ReadOnlyInline):
    """The versions behind an endpoint."""

    model = Deployment


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    """Stable public names."""

    list_display = ["name", "model", "shadow", "needs_approval", "is_default", "cutoff", "max_rows", "revision"]
    list_select_related = ["model", "shadow__model"]
    inlines = [DeploymentInline]
    actions = ["roll_back"]

    def has_share_permission(self, request: HttpRequest) -> bool:
        """Whoever may change deployments may roll them back."""
        return request.user.has_perm("deployments.change_deployment")

    @admin.action(description="Roll back to the version before", permissions=["share"])
    def roll_back(self, request: HttpRequest, chosen: QuerySet[Endpoint]) -> None:
        """All calls go to the version that served before, once it is approved where that is needed."""
        for endpoint in chosen:
            done = rollback(endpoint.name, by=request.user.get_username())
            if isinstance(done, Change):
                self.message_user(request, f"{done.endpoint}: change {done.pk} waits for approval")


@admin.register(Change)
class ChangeAdmin(ReadOnlyAdmin):
    """What waits for approval, and what was decided."""

    list_display = ["id", "endpoint", "verb", "by", "at", "status", "decided_by", "decided_at"]
    list_filter = ["status", "endpoint"]
    actions = ["say_yes", "say_no"]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Whoever may approve changes may reject them."""
        return request.user.has_perm("deployments.approve_change")

    @admin.action(description="Approve: do what was asked", permissions=["decide"])
    def say_yes(self, request: HttpRequest, chosen: QuerySet[Change]) -> None:
        """In the order in which they were asked."""
        for change in chosen.order_by("pk"):
            approve(change.pk, by=request.user.get_username())

    @admin.action(description="Reject", permissions=["decide"])
    def say_no(self, request: HttpRequest, chosen: QuerySet[Change]) -> None:
        """None of them will be done."""
        for change in chosen.order_by("pk"):
            reject(change.pk, by=request.user.get_username())
