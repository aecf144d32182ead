"""Models, versions and their log in the admin."""

import json

from django.contrib import admin
from django.db.models import Count, Max, Prefetch, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from modelyard.control.read_only_admin import ReadOnlyAdmin, ReadOnlyInline
from modelyard.control.registry.models import Alias, Event, Model, Tag, Version
from modelyard.control.registry.services import CHAMPION, set_alias


class AliasInline(ReadOnlyInline):
    """Where a model's names point."""

    model = Alias
    fields = ["name", "version"]


class TagInline(ReadOnlyInline):
    """The tags of a model, or of a version."""

    model = Tag
    fields = ["key", "value"]


class ModelTagInline(TagInline):
    """The tags of a model itself."""

    fk_name = "model"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tag]:
        """Those of its versions stand with them."""
        return super().get_queryset(request).filter(version=None)


@admin.register(Model)
class ModelAdmin(ReadOnlyAdmin):
    """Names under which versions are numbered."""

    list_display = ["name", "description", "champion", "newest", "version_count", "created_at"]
    search_fields = ["name", "description", "tags__value"]
    inlines = [AliasInline, ModelTagInline]
    fields = ["name", "description", "created_at", "all_versions"]
    readonly_fields = ["created_at", "all_versions"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        """With what the list counts, in the same query."""
        found = super().get_queryset(request)
        found = found.prefetch_related(Prefetch("aliases", Alias.objects.select_related("version")))
        return found.annotate(version_count=Count("versions"), newest=Max("versions__number"))

    @admin.display(description="champion")
    def champion(self, model: Model) -> int | None:
        """The version that the alias points at."""
        return next((alias.version.number for alias in model.aliases.all() if alias.name == CHAMPION), None)

    @admin.display(ordering="newest")
    def newest(self, model: Model) -> int | None:
        """The last number given."""
        return model.newest

    @admin.display(description="versions")
    def all_versions(self, model: Model) -> SafeString:
        """The way to the list of them."""
        address = f"{reverse('admin:registry_version_changelist')}?model__id__exact={model.pk}"
        return format_html('<a href="{}">{}</a>', address, model.version_count)

    @admin.display(description="versions", ordering="version_count")
    def version_count(self, model: Model) -> int:
        """How many there are."""
        return model.version_count


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    """Immutable artifacts."""

    list_display = ["model", "number", "names", "status", "framework", "size", "code", "created_at", "created_by"]
    list_display_links = ["number"]
    list_filter = ["status", "framework", "trusted"]
    list_select_related = ["model"]
    search_fields = ["model__name", "digest", "data_digest", "tags__value"]
    search_help_text = "a model, a digest, or the value of a tag"
    date_hierarchy = "created_at"
    inlines = [TagInline]
    actions = ["make_champion"]
    fieldsets = [
        (None, {"fields": ["model", "number", "names", "status", "note"]}),
        ("Artifact", {"fields": ["framework", "task", "size", "code", "digest", "contract_digest"]}),
        ("Measures", {"fields": ["measured", "proven"]}),
        ("Where it came from", {"fields": ["created_at", "created_by", "data_digest", "code_revision", "line"]}),
    ]
    readonly_fields = ["names", "size", "code", "measured", "proven", "line"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Version]:
        """With the names that point at each."""
        return super().get_queryset(request).prefetch_related("aliases")

    @admin.display(description="aliases")
    def names(self, version: Version) -> str:
        """The names that point here."""
        return ", ".join(sorted(alias.name for alias in version.aliases.all()))

    @admin.display(ordering="size_bytes")
    def size(self, version: Version) -> str:
        """Of the artifact's files."""
        return "" if version.size_bytes is None else filesizeformat(version.size_bytes)

    @admin.display(description="code", ordering="trusted")
    def code(self, version: Version) -> str:
        """Whether somebody trusted code in it: a pickle, a class of one's own."""
        return "trusted" if version.trusted else "none"

    @admin.display(description="metrics")
    def measured(self, version: Version) -> SafeString:
        """On rows that it never saw."""
        return _json(version.metrics)

    @admin.display(description="parity")
    def proven(self, version: Version) -> SafeString:
        """How far the packaged model is from the original."""
        return _json(version.parity)

    @admin.display(description="lineage")
    def line(self, version: Version) -> SafeString:
        """Table, recipe, packages."""
        return _json(version.lineage)

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
    list_display_links = ["name"]
    list_select_related = ["model", "version__model"]
    search_fields = ["model__name", "name"]


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """What happened to models."""

    list_display = ["at", "model", "verb", "version", "endpoint", "revision", "by", "approved_by"]
    list_filter = ["verb"]
    list_select_related = ["model"]
    search_fields = ["model__name", "endpoint", "by"]
    date_hierarchy = "at"
    fields = ["at", "model", "verb", "version", "endpoint", "revision", "by", "approved_by", "said"]
    readonly_fields = ["approved_by", "said"]

    @admin.display(description="approved by")
    def approved_by(self, event: Event) -> str:
        """Whose second word it needed."""
        return str(event.details.get("approved_by", ""))

    @admin.display(description="details")
    def said(self, event: Event) -> SafeString:
        """Everything that the event holds."""
        return _json(event.details)


def _json(value: object) -> SafeString:
    return format_html('<pre style="margin:0">{}</pre>', json.dumps(value, indent=2, ensure_ascii=False))
