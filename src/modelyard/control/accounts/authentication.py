"""How the management API knows who calls: a bearer token, or a password that may be tried only so often."""

import hashlib
from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.utils import timezone
from rest_framework.authentication import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed

from modelyard.control.accounts.models import Token
from modelyard.secure.keys import digest_of

MAX_FAILURES = 10
FAILURE_WINDOW_S = 300


class BearerAuthentication(TokenAuthentication):
    """`Authorization: Bearer …`; the database holds digests only, so a stolen one opens nothing."""

    keyword = "Bearer"

    def authenticate_credentials(self, key: str) -> tuple[Any, Token]:
        """The token's user. Raises AuthenticationFailed for an unknown or expired token, or an inactive user."""
        token = Token.objects.select_related("user").filter(digest=digest_of(key)).first()
        if token is None or token.expires_at <= timezone.now() or not token.user.is_active:
            raise AuthenticationFailed("the token is unknown or has expired; ask for another at /api/v1/token")
        return token.user, token


class PatientBackend(ModelBackend):
    """Passwords, ten wrong ones in five minutes for each name and address; every door uses it, the admin's too."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> Any:
        """The user, or None. Raises PermissionDenied after too many failures."""
        address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
        counter = "failures:" + hashlib.sha256(f"{username}\0{address}".encode()).hexdigest()
        if cache.get(counter, 0) >= MAX_FAILURES:
            raise PermissionDenied("too many wrong passwords; try again in a few minutes")
        user = super().authenticate(request, username=username, password=password, **kwargs)
        if user is None:
            cache.add(counter, 0, FAILURE_WINDOW_S)
            cache.incr(counter)
        return user
