"""Runs in the admin."""

from django.contrib import admin

from modelyard.control.read_only_admin import ReadOnlyAdmin
from modelyard.control.training.models import Run


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    """Trainings."""

    list_display = ["id", "model", "source", "status", "version", "started_at", "finished_at"]
    list_filter = ["status", "model"]
    list_select_related = ["version__model"]
