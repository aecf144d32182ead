"""Models and versions in the admin."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from modelyard.control.read_only_admin import ReadOnlyAdmin
from modelyard.control.registry.models import Alias, Event, Model, Version
from modelyard.control.registry.services import CHAMPION, set_alias


@admin.register(Model)
class ModelAdmin(ReadOnlyAdmin):
    """Names under which versions are numbered."""

    list_display = ["name", "created_at"]
    search_fields = ["name"]


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    """Immutable artifacts."""

    list_display = ["model", "number", "status", "framework", "task", "created_at", "created_by"]
    list_filter = ["model", "status", "framework"]
    list_select_related = ["model"]
    actions = ["make_champion"]

    def has_point_permission(self, request: HttpRequest) -> bool:
        """Whoever may change aliases may move them."""
        return request.user.has_perm("registry.change_alias")

    @admin.action(description="Make it the champion", permissions=["point"])
    def make_champion(self, request: HttpRequest, chosen: QuerySet[Version]) -> None:
        """The alias moves; endpoints stay as they are."""
        for version in chosen:
            set_alias(version.model.name, CHAMPION, version.number, by=request.user.get_username())


@admin.register(Alias)
class AliasAdmin(ReadOnlyAdmin):
    """Movable names."""

    list_display = ["model", "name", "version"]
    list_select_related = ["model", "version__model"]


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """What happened to models."""

    list_display = ["at", "model", "verb", "version", "by"]
    list_filter = ["model", "verb"]
    list_select_related = ["model"]
