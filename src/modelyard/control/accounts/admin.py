"""Principals, keys and the audit trail in the admin."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from modelyard.control.accounts.models import AuditEvent, Key, Principal
from modelyard.control.accounts.services import revoke_key, set_principal_active
from modelyard.control.read_only_admin import ReadOnlyAdmin


@admin.register(Principal)
class PrincipalAdmin(ReadOnlyAdmin):
    """Who calls the gateway."""

    list_display = ["name", "kind", "active", "created_at"]
    actions = ["deactivate", "activate"]

    def has_switch_permission(self, request: HttpRequest) -> bool:
        """Whoever may change principals may switch them."""
        return request.user.has_perm("accounts.change_principal")

    @admin.action(description="Refuse all their keys", permissions=["switch"])
    def deactivate(self, request: HttpRequest, chosen: QuerySet[Principal]) -> None:
        """Their keys are refused from the next plan on."""
        for principal in chosen:
            set_principal_active(principal.name, False, by=request.user.get_username())

    @admin.action(description="Accept their keys again", permissions=["switch"])
    def activate(self, request: HttpRequest, chosen: QuerySet[Principal]) -> None:
        """Their keys are good again."""
        for principal in chosen:
            set_principal_active(principal.name, True, by=request.user.get_username())


@admin.register(Key)
class KeyAdmin(ReadOnlyAdmin):
    """The gateway's API keys."""

    list_display = ["public_id", "principal", "scopes", "rows_per_second", "created_at", "expires_at", "revoked_at"]
    list_filter = ["principal"]
    exclude = ["digest"]
    actions = ["revoke"]

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Whoever may change keys may revoke them."""
        return request.user.has_perm("accounts.change_key")

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[Key]) -> None:
        """Gateways refuse them from the next plan on."""
        for key in chosen:
            revoke_key(key.public_id, by=request.user.get_username())


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """Who changed what."""

    list_display = ["at", "principal", "verb", "object"]
    list_filter = ["verb"]
    search_fields = ["object", "principal"]
