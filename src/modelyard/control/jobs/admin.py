"""Jobs in the admin."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from modelyard.control.jobs.models import Job
from modelyard.control.jobs.services import cancel
from modelyard.control.read_only_admin import ReadOnlyAdmin


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Queued work."""

    list_display = ["id", "work", "status", "step", "attempt", "created_at", "finished_at"]
    list_filter = ["status"]
    actions = ["cancel"]

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Whoever may change jobs may cancel them."""
        return request.user.has_perm("jobs.change_job")

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, chosen: QuerySet[Job]) -> None:
        """Waiting ones at once, running ones as soon as their runner hears of it."""
        for job in chosen:
            cancel(job.pk, by=request.user.get_username())
