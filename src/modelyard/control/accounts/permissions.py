"""What a caller of the management API may do: each view names the permission of each method, or nobody passes."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class Granted(BasePermission):
    """A signed-in user that holds the permission which the view's `needs` names for the method.

    A view without `needs` is open to staff alone: forgetting it closes a door instead of opening one.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        """Whether the caller holds what the method needs."""
        user = request.user
        if not (user and user.is_authenticated):
            return False
        needs: dict[str, str] | None = getattr(view, "needs", None)
        if needs is None:
            return bool(user.is_staff)
        permission = needs.get("GET" if request.method in ("HEAD", "OPTIONS") else str(request.method))
        # A method that the view has not is answered 405 by the view itself, to those who may see it at all.
        return user.has_perm(permission) if permission else bool(user.is_staff)
