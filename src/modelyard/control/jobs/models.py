"""Queued work: what shall be done, who does it, how far it is, how it ended."""

from django.db import models
from django.db.models import Q


class Job(models.Model):
    """One piece of work, named by a dotted path, with a lease for whoever does it."""

    class Status(models.TextChoices):
        """Where a job stands."""

        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    work = models.CharField(max_length=200, help_text="dotted name of the function that does it")
    arguments = models.JSONField(default=dict)
    is_task = models.BooleanField(default=False, help_text="of django-tasks, not of a `work` module")
    status = models.CharField(max_length=9, choices=Status, default=Status.QUEUED)
    attempt = models.PositiveSmallIntegerField(default=0, help_text="counts claims; old claims are refused by it")
    max_attempts = models.PositiveSmallIntegerField(default=3)
    timeout_s = models.PositiveIntegerField(default=3600)
    memory_bytes = models.PositiveBigIntegerField(default=0, help_text="resident; 0: the home's `job_memory_bytes`")
    peak_bytes = models.PositiveBigIntegerField(default=0, help_text="the most that was seen of its processes")
    run_after = models.DateTimeField()
    lease_until = models.DateTimeField(null=True, blank=True)
    runner = models.CharField(max_length=100, blank=True, default="")
    cancel_asked = models.BooleanField(default=False)
    step = models.CharField(max_length=200, blank=True, default="")
    progress = models.FloatField(default=0.0, help_text="of the present step, 0 to 1")
    log = models.TextField(blank=True, default="", help_text="the last lines")
    result = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["status", "run_after"], name="jobs_to_do")]
        constraints = [
            models.CheckConstraint(condition=Q(progress__gte=0, progress__lte=1), name="progress_is_a_share"),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(lease_until__isnull=False), name="running_under_a_lease"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk} {self.work} {self.status}"
