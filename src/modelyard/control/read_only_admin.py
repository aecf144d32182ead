"""Admin pages that show and never edit: every change goes through a service, which checks, records and publishes."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from modelyard.contract.errors import ModelyardError


class ReadOnly:
    """Shows rows; neither adds, changes nor removes them."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is added by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is edited by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is removed by hand."""
        return False


class ReadOnlyAdmin(ReadOnly, admin.ModelAdmin):
    """Lists and details for people; changes are actions that call services, whose refusals are shown."""

    list_per_page = 50

    def response_action(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        """Do the chosen action; what a service refuses is a message, not an error page."""
        try:
            return super().response_action(request, queryset)
        except ModelyardError as refusal:
            self.message_user(request, str(refusal), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())


class ReadOnlyInline(ReadOnly, admin.TabularInline):
    """Rows that belong to another one, shown below it."""

    extra = 0
    can_delete = False
