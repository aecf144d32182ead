"""The verbs that change who may do what: API keys, tokens, the first administrator."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.names import check_name
from modelyard.control.accounts.audit import record
from modelyard.control.accounts.models import Key, Principal, Token
from modelyard.control.deployments.publish import request_publication
from modelyard.control.locks import in_turn
from modelyard.secure.keys import check_scope, digest_of, new_key

TOKEN_LIFE = timedelta(days=30)


@transaction.atomic
def create_key(
    principal_name: str,
    scopes: Sequence[str],
    *,
    by: str,
    rows_per_second: float | None = None,
    burst_rows: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """A new API key and its secret, which nobody can show again. The gateway knows it once the plan is out."""
    check_name("principal", principal_name)
    if not scopes:
        raise InvalidInput("a key needs at least one scope, such as infer or infer:ENDPOINT")
    if rows_per_second is not None and rows_per_second <= 0:
        raise InvalidInput("rows_per_second is above 0; leave it out for no limit")
    if burst_rows is not None and (burst_rows < 1 or rows_per_second is None):
        raise InvalidInput("burst_rows is at least 1 and goes with rows_per_second")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidInput("expires_at lies in the past")
    principal, _ = Principal.objects.get_or_create(name=principal_name)
    if not principal.active:
        raise Conflict(f"principal {principal_name!r} is not active")
    secret = new_key()
    key = Key.objects.create(
        public_id=f"k{secrets.token_hex(6)}",
        digest=digest_of(secret),
        principal=principal,
        scopes=sorted({check_scope(scope) for scope in scopes}),
        rows_per_second=rows_per_second,
        burst_rows=burst_rows,
        expires_at=expires_at,
        created_by=by,
    )
    record(by, "create_key", key.public_id, {"principal": principal_name, "scopes": key.scopes})
    request_publication()
    return key, secret


@transaction.atomic
def revoke_key(public_id: str, by: str) -> Key:
    """Refuse this key from the next plan on; revoking again changes nothing. Raises NotFound."""
    key = Key.objects.select_for_update().filter(public_id=public_id).first()
    if key is None:
        raise NotFound("there is no key with that id; `modelyard keys list` shows them")
    if key.revoked_at is None:
        key.revoked_at = timezone.now()
        key.save(update_fields=["revoked_at"])
        record(by, "revoke_key", public_id)
        request_publication()
    return key


def list_keys() -> QuerySet[Key]:
    """Every key, revoked ones included, newest first."""
    return Key.objects.select_related("principal")


@transaction.atomic
def set_principal_active(name: str, active: bool, by: str) -> Principal:
    """Switch all keys of a principal on or off at once. Raises NotFound."""
    principal = Principal.objects.select_for_update().filter(name=name).first()
    if principal is None:
        raise NotFound(f"there is no principal {name!r}")
    if principal.active != active:
        principal.active = active
        principal.save(update_fields=["active"])
        record(by, "activate_principal" if active else "deactivate_principal", name)
        request_publication()
    return principal


@transaction.atomic
def ensure_admin() -> str | None:
    """Make the user `admin` if there is no administrator yet and return its password, else None.

    The caller shows the password once, on the terminal; it is kept nowhere.
    """
    users = get_user_model().objects
    in_turn("modelyard.ensure_admin")
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(15)
    users.create_superuser("admin", password=password)
    record("local", "create_admin", "admin")
    return password


@transaction.atomic
def create_token(user: AbstractBaseUser, life: timedelta = TOKEN_LIFE) -> tuple[Token, str]:
    """A new token of the management API for that user, and its secret, which nobody can show again."""
    secret = new_key()
    Token.objects.filter(user=user, expires_at__lt=timezone.now()).delete()
    token = Token.objects.create(user=user, digest=digest_of(secret), expires_at=timezone.now() + life)
    record(user.get_username(), "create_token", user.get_username())
    return token, secret


@transaction.atomic
def revoke_token(token: Token, by: str) -> None:
    """End a token of the management API at once."""
    record(by, "revoke_token", token.user.get_username())
    token.delete()
