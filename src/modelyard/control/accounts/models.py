"""Principals, their API keys, the tokens of the management API, and the record of what was done."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from modelyard.control.append_only import AppendOnly


class Principal(models.Model):
    """Who calls the gateway: a person or a program."""

    class Kind(models.TextChoices):
        """What stands behind the name."""

        PERSON = "person"
        PROGRAM = "program"

    name = models.CharField(max_length=63, unique=True)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.PROGRAM)
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Key(models.Model):
    """An API key of the gateway: never the secret, only its SHA-256."""

    public_id = models.CharField(max_length=16, unique=True, help_text="names the key; not secret")
    digest = models.CharField(max_length=64, unique=True)
    principal = models.ForeignKey(Principal, models.PROTECT, related_name="keys")
    scopes = models.JSONField()
    rows_per_second = models.FloatField(null=True, blank=True)
    burst_rows = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(rows_per_second__isnull=True) | Q(rows_per_second__gt=0), name="rate_is_positive"
            ),
            models.CheckConstraint(
                condition=Q(burst_rows__isnull=True) | Q(burst_rows__gt=0), name="burst_is_positive"
            ),
        ]

    def __str__(self) -> str:
        return self.public_id


class Token(models.Model):
    """A token of the management API; it may do what its user may do. Never the secret, only its SHA-256."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="tokens")
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.user} until {self.expires_at:%Y-%m-%d}"


class AuditEvent(AppendOnly):
    """What was done, by whom, to what."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    principal = models.CharField(max_length=150)
    verb = models.CharField(max_length=40)
    object = models.CharField(max_length=200)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.principal} {self.verb} {self.object}"
