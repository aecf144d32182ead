"""Rollouts: how far each one is, what speaks against it, and everything that happened to it."""

from django.db import models
from django.db.models import Q

from modelyard.control.append_only import AppendOnly


class Rollout(models.Model):
    """A version on its way to all calls of an endpoint, watched against the version that has them."""

    class State(models.TextChoices):
        """Where it stands."""

        RUNNING = "running"
        PAUSED = "paused"  # its share stays, and the guards go on watching
        FINISHED = "finished"
        ROLLED_BACK = "rolled_back"  # by itself
        ABORTED = "aborted"  # by somebody, or because somebody changed the endpoint

    ACTIVE = (State.RUNNING, State.PAUSED)

    endpoint = models.CharField(max_length=63, help_text="its name: the rollout outlives it")
    model = models.CharField(max_length=63)
    champion = models.PositiveIntegerField(help_text="the version that had all calls")
    candidate = models.PositiveIntegerField(help_text="the version that is to have them")
    policy = models.JSONField(help_text="steps, guards and false-alarm rate; fixed when it starts")
    lease_seconds = models.FloatField(help_text="how long its share holds without a sign of life from here")
    state = models.CharField(max_length=11, choices=State, default=State.RUNNING)
    reason = models.TextField(blank=True, default="", help_text="why it ended, or is paused")
    finding = models.JSONField(null=True, blank=True, help_text="what rolled it back, in figures")
    progress = models.JSONField(default=dict, help_text="the step, what was seen in it, and the evidence")
    baseline = models.JSONField(default=dict, help_text="the gateway's counters at the last look")
    looked_at = models.DateTimeField(null=True, blank=True)
    step_started_at = models.DateTimeField()
    revision = models.PositiveBigIntegerField(default=0, help_text="of the plan that its last change made")
    by = models.CharField(max_length=150)
    approved_by = models.CharField(max_length=150, blank=True, default="")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["endpoint", "-id"], name="rollouts_of_an_endpoint")]
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint"], condition=Q(state__in=["running", "paused"]), name="one_active_rollout"
            ),
            models.CheckConstraint(condition=Q(lease_seconds__gt=0), name="rollout_has_a_lease"),
            models.CheckConstraint(
                condition=Q(state__in=["running", "paused"], ended_at__isnull=True)
                | (~Q(state__in=["running", "paused"]) & Q(ended_at__isnull=False)),
                name="rollout_ends_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk}: {self.endpoint} {self.champion} -> {self.candidate} ({self.state})"

    @property
    def is_active(self) -> bool:
        """Whether it still decides over its endpoint's calls."""
        return self.state in self.ACTIVE

    @property
    def robot(self) -> str:
        """The name under which it changes the traffic."""
        return f"rollout:{self.pk}"


class RolloutEvent(AppendOnly):
    """What happened to a rollout: a step, a pause, a silence, its end."""

    rollout = models.ForeignKey(Rollout, models.PROTECT, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    by = models.CharField(max_length=150)
    verb = models.CharField(max_length=40)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.rollout_id}: {self.verb}"
