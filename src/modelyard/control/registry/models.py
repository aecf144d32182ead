"""Models, versions, aliases, and what happened to them."""

from django.db import models
from django.db.models import Q

from modelyard.control.append_only import AppendOnly


class Model(models.Model):
    """A name under which versions are numbered."""

    name = models.CharField(max_length=63, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Version(models.Model):
    """One immutable artifact of a model, numbered."""

    class Status(models.TextChoices):
        """Whether it may serve."""

        READY = "ready"
        FAILED = "failed"

    model = models.ForeignKey(Model, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    digest = models.CharField(max_length=64, help_text="of the artifact on the shelf")
    task = models.CharField(max_length=16)
    framework = models.CharField(max_length=32)
    metrics = models.JSONField(default=dict)
    parity = models.JSONField(null=True)
    lineage = models.JSONField(default=dict)
    contract_digest = models.CharField(max_length=64)
    status = models.CharField(max_length=8, choices=Status, default=Status.READY)
    note = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150)

    class Meta:
        ordering = ["model__name", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="version_numbered_once"),
            models.UniqueConstraint(fields=["model", "digest"], name="artifact_registered_once"),
            models.CheckConstraint(condition=Q(number__gte=1), name="versions_count_from_one"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name}:{self.number}"


class Alias(models.Model):
    """A movable name for a version."""

    model = models.ForeignKey(Model, models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=63)
    version = models.ForeignKey(Version, models.PROTECT, related_name="aliases")

    class Meta:
        ordering = ["model__name", "name"]
        constraints = [models.UniqueConstraint(fields=["model", "name"], name="alias_named_once")]

    def __str__(self) -> str:
        return f"{self.model.name}:{self.name}"


class Event(AppendOnly):
    """What happened to a model: which version came, which name moved where and when."""

    model = models.ForeignKey(Model, models.PROTECT, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    by = models.CharField(max_length=150)
    verb = models.CharField(max_length=40)
    version = models.PositiveIntegerField(null=True)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.model.name}: {self.verb}"
