"""Models, versions, aliases, tags, and what happened to them."""

from django.db import models
from django.db.models import Q

from modelyard.control.append_only import AppendOnly


class Model(models.Model):
    """A name under which versions are numbered."""

    name = models.CharField(max_length=63, unique=True)
    description = models.TextField(blank=True, default="", help_text="what it is for, in the words of its owners")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Version(models.Model):
    """One immutable artifact of a model, numbered. What nobody searches for is in the artifact alone."""

    class Status(models.TextChoices):
        """Whether it may serve."""

        READY = "ready"
        FAILED = "failed"
        REMOVED = "removed"  # by garbage collection: its row and its history stay

    model = models.ForeignKey(Model, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    digest = models.CharField(max_length=64, help_text="of the artifact on the shelf")
    task = models.CharField(max_length=16)
    framework = models.CharField(max_length=32)
    metrics = models.JSONField(default=dict)
    parity = models.JSONField(null=True)
    lineage = models.JSONField(default=dict)
    contract_digest = models.CharField(max_length=64)
    data_digest = models.CharField(max_length=64, blank=True, default="", help_text="of the table it learned from")
    code_revision = models.CharField(max_length=80, blank=True, default="", help_text="of the code that made it")
    size_bytes = models.PositiveBigIntegerField(null=True, help_text="of the artifact's files")
    trusted = models.BooleanField(
        default=False, help_text="holds or names code that was trusted when it was registered"
    )
    status = models.CharField(max_length=8, choices=Status, default=Status.READY)
    note = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150)

    class Meta:
        ordering = ["model__name", "-number"]
        indexes = [
            models.Index(fields=["data_digest"], name="versions_by_data"),
            models.Index(fields=["digest"], name="versions_by_digest"),
        ]
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
        verbose_name_plural = "aliases"
        constraints = [models.UniqueConstraint(fields=["model", "name"], name="alias_named_once")]

    def __str__(self) -> str:
        return f"{self.model.name}:{self.name}"


class Tag(models.Model):
    """A key and a value that people gave a model, or one version of it, to find it by."""

    model = models.ForeignKey(Model, models.CASCADE, related_name="tags")
    version = models.ForeignKey(Version, models.CASCADE, null=True, related_name="tags", help_text="empty: the model's")
    key = models.CharField(max_length=63)
    value = models.CharField(max_length=200)

    class Meta:
        ordering = ["key"]
        indexes = [models.Index(fields=["key", "value"], name="tagged_with")]
        constraints = [
            models.UniqueConstraint(fields=["model", "key"], condition=Q(version=None), name="model_tagged_once"),
            models.UniqueConstraint(fields=["version", "key"], name="version_tagged_once"),
        ]

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class Event(AppendOnly):
    """What happened to a model: which version came, which name moved where, what served where and by whose word."""

    model = models.ForeignKey(Model, models.PROTECT, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    by = models.CharField(max_length=150)
    verb = models.CharField(max_length=40)
    version = models.PositiveIntegerField(null=True)
    details = models.JSONField(default=dict)
    endpoint = models.CharField(max_length=63, null=True, help_text="whose answers it changed; none of its own: empty")
    revision = models.PositiveBigIntegerField(null=True, help_text="of the plan that says so")

    class Meta:
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["model", "-id"], name="events_of_a_model"),
            models.Index(fields=["endpoint", "-id"], name="events_of_an_endpoint"),
        ]
        permissions = [
            ("trace_request", "Can trace a request to its version and to whoever put that there"),
            ("trace_inputs", "Can see what the model saw of a traced request"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name}: {self.verb}"
