"""Rollouts in the admin."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from modelyard.control.read_only_admin import ReadOnlyAdmin, ReadOnlyInline
from modelyard.control.rollouts import services
from modelyard.control.rollouts.models import Rollout, RolloutEvent


class EventInline(ReadOnlyInline):
    """What happened to a rollout."""

    model = RolloutEvent


@admin.register(Rollout)
class RolloutAdmin(ReadOnlyAdmin):
    """Versions on their way to all calls of an endpoint."""

    list_display = ["id", "endpoint", "champion", "candidate", "state", "reason", "started_at", "ended_at"]
    list_filter = ["state", "endpoint"]
    inlines = [EventInline]
    actions = ["pause", "resume", "abort"]

    def has_share_permission(self, request: HttpRequest) -> bool:
        """Whoever may change deployments may change their rollouts."""
        return request.user.has_perm("deployments.change_deployment")

    @admin.action(description="Pause", permissions=["share"])
    def pause(self, request: HttpRequest, chosen: QuerySet[Rollout]) -> None:
        """Keep the share as it is."""
        for rollout in chosen:
            services.pause(rollout.pk, request.user.get_username())

    @admin.action(description="Resume", permissions=["share"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Rollout]) -> None:
        """Go on."""
        for rollout in chosen:
            services.resume(rollout.pk, request.user.get_username())

    @admin.action(description="Abort: the champion gets all calls", permissions=["share"])
    def abort(self, request: HttpRequest, chosen: QuerySet[Rollout]) -> None:
        """Give the champion all calls again."""
        for rollout in chosen:
            services.abort(rollout.pk, request.user.get_username())
