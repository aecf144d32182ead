"""Endpoints, the versions behind them, changes that wait for approval, and how far the plan has been published."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from modelyard.control.registry.models import Model, Version


class EndpointSet(models.QuerySet):
    """Endpoints as they are asked for."""

    def whole(self) -> "EndpointSet":
        """With their models, deployments and versions; so many queries, however many endpoints.

        Versions are joined, not prefetched: for that SQLite would be given one condition for each, and it takes 1,000.
        """
        joined = self.select_related("model", "shadow", "lease_fallback")
        return joined.prefetch_related(models.Prefetch("deployments", Deployment.objects.select_related("version")))


class Endpoint(models.Model):
    """The stable public name that callers use."""

    name = models.CharField(max_length=63, unique=True)
    model = models.ForeignKey(Model, models.PROTECT, related_name="endpoints")
    is_default = models.BooleanField(default=False, help_text="answers dialects that have no name in the path")
    cutoff = models.FloatField(null=True, blank=True, help_text="overrides the version's own decision")
    max_rows = models.PositiveIntegerField(null=True, blank=True, help_text="overrides the gateway's limit")
    sticky_by = models.CharField(
        max_length=200, blank=True, default="", help_text="header, or column:NAME, that pins a caller to a version"
    )
    spans = models.JSONField(
        default=list, blank=True, help_text="who has which of the hundred slots: [version, slots], from slot 0 on"
    )
    shadow = models.ForeignKey(
        Version, models.PROTECT, null=True, blank=True, related_name="shadowed", help_text="gets copies, never answers"
    )
    shadow_percent = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    lease_seconds = models.FloatField(
        null=True, blank=True, help_text="how long the split holds without a sign of life from the control plane"
    )
    lease_fallback = models.ForeignKey(
        Version, models.PROTECT, null=True, blank=True, related_name="fallbacks", help_text="has all calls after that"
    )
    lease_by = models.CharField(max_length=150, blank=True, default="", help_text="whose changes the lease outlives")
    needs_approval = models.BooleanField(default=False, help_text="changes wait until another principal approves them")
    is_pinned = models.BooleanField(default=False, help_text="its versions stay in memory, whatever the budget")
    revision = models.PositiveBigIntegerField(default=0, help_text="of the plan that its last change made")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = EndpointSet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_endpoint"),
            models.CheckConstraint(
                condition=Q(cutoff__isnull=True) | Q(cutoff__gt=0, cutoff__lt=1), name="cutoff_is_a_probability"
            ),
            models.CheckConstraint(condition=Q(max_rows__isnull=True) | Q(max_rows__gte=1), name="rows_are_allowed"),
            models.CheckConstraint(
                condition=Q(shadow__isnull=True, shadow_percent__isnull=True)
                | Q(shadow__isnull=False, shadow_percent__gte=1, shadow_percent__lte=100),
                name="shadow_has_a_percent",
            ),
            models.CheckConstraint(
                condition=Q(lease_seconds__isnull=True, lease_fallback__isnull=True)
                | Q(lease_seconds__gt=0, lease_fallback__isnull=False),
                name="lease_has_a_fallback",
            ),
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


class Change(models.Model):
    """A verb that was asked of an endpoint which needs approval, and what became of it."""

    class Status(models.TextChoices):
        """How far it has come."""

        WAITING = "waiting"
        APPROVED = "approved"
        REJECTED = "rejected"
        STALE = "stale"  # the endpoint was changed after this was asked
        WITHDRAWN = "withdrawn"  # by who had asked

    endpoint = models.CharField(max_length=63, db_index=True, help_text="its name: the change outlives it")
    verb = models.CharField(max_length=40)
    arguments = models.JSONField()
    by = models.CharField(max_length=150)
    at = models.DateTimeField(auto_now_add=True)
    expected = models.PositiveBigIntegerField(help_text="the endpoint's revision when this was asked")
    status = models.CharField(max_length=9, choices=Status, default=Status.WAITING)
    decided_by = models.CharField(max_length=150, blank=True, default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    reason = models.TextField(blank=True, default="", help_text="why it was not done")
    revision = models.PositiveBigIntegerField(null=True, blank=True, help_text="of the plan that it made")

    class Meta:
        ordering = ["-pk"]
        permissions = [("approve_change", "Can approve or reject a change")]
        constraints = [
            models.CheckConstraint(
                condition=~Q(status="approved") | (~Q(decided_by="") & ~Q(decided_by=F("by"))),
                name="approved_by_another",
            ),
            models.CheckConstraint(
                condition=Q(status="waiting", decided_at__isnull=True)
                | (~Q(status="waiting") & Q(decided_at__isnull=False)),
                name="decided_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.endpoint}, asked by {self.by}: {self.status}"


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
