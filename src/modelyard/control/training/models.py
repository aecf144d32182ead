"""Runs: what was trained on what, how it went, which version came of it."""

from django.db import models

from modelyard.control.jobs.models import Job
from modelyard.control.registry.models import Version


class Run(models.Model):
    """One training."""

    class Status(models.TextChoices):
        """Where a run stands."""

        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    model = models.CharField(max_length=63, help_text="the name that its version is registered under")
    source = models.CharField(max_length=255, help_text="the table's file name, or the blueprint's name")
    data_digest = models.CharField(max_length=64, blank=True, default="")
    target = models.CharField(max_length=200, blank=True, default="")
    positive = models.CharField(max_length=200, blank=True, default="")
    recipe = models.JSONField(default=dict)
    recipe_digest = models.CharField(max_length=64, blank=True, default="", help_text="of everything but the data")
    status = models.CharField(max_length=9, choices=Status, default=Status.QUEUED)
    metrics = models.JSONField(default=dict)
    version = models.ForeignKey(Version, models.SET_NULL, null=True, blank=True, related_name="runs")
    job = models.ForeignKey(Job, models.SET_NULL, null=True, blank=True, related_name="runs")
    error = models.TextField(blank=True, default="")
    log = models.TextField(blank=True, default="", help_text="its steps")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["data_digest", "recipe_digest"], name="trained_before")]

    def __str__(self) -> str:
        return f"run {self.pk} of {self.model}: {self.status}"
