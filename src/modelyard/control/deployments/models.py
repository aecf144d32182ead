"""Endpoints, the versions behind them, and how far the plan has been published."""

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import F, Q

from modelyard.control.registry.models import Model, Version


class Endpoint(models.Model):
    """The stable public name that callers use."""

    name = models.CharField(max_length=63, unique=True)
    model = models.ForeignKey(Model, models.PROTECT, related_name="endpoints")
    is_default = models.BooleanField(default=False, help_text="answers dialects that have no name in the path")
    cutoff = models.FloatField(null=True, blank=True, help_text="overrides the version's own decision")
    max_rows = models.PositiveIntegerField(null=True, blank=True, help_text="overrides the gateway's limit")
    sticky_by = models.CharField(
        max_length=64, blank=True, default="", help_text="header that pins a caller to a version"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_endpoint"),
            models.CheckConstraint(
                condition=Q(cutoff__isnull=True) | Q(cutoff__gt=0, cutoff__lt=1), name="cutoff_is_a_probability"
            ),
            models.CheckConstraint(condition=Q(max_rows__isnull=True) | Q(max_rows__gte=1), name="rows_are_allowed"),
        ]

    def __str__(self) -> str:
        return self.name


class Deployment(models.Model):
    """One version taking a share of one endpoint's calls; 0 percent is held ready for pinned calls and rollback."""

    endpoint = models.ForeignKey(Endpoint, models.CASCADE, related_name="deployments")
    version = models.ForeignKey(Version, models.PROTECT, related_name="deployments")
    weight = models.PositiveSmallIntegerField(help_text="percent of calls", validators=[MaxValueValidator(100)])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["endpoint__name", "-weight", "-version__number"]
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "version"], name="version_deployed_once"),
            models.CheckConstraint(condition=Q(weight__lte=100), name="weight_is_a_percent"),
        ]

    def __str__(self) -> str:
        return f"{self.endpoint.name}: {self.version.number} at {self.weight} %"


class Publication(models.Model):
    """The one row that says which revision of the plan is wanted and which one lies on disk."""

    committed = models.PositiveBigIntegerField(default=0)
    published = models.PositiveBigIntegerField(default=0)
    require_keys = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(pk=1), name="one_publication"),
            models.CheckConstraint(condition=Q(published__lte=F("committed")), name="published_was_committed"),
        ]

    def __str__(self) -> str:
        return f"revision {self.published} of {self.committed}"
