"""Proving who one is without a browser or a request: by a token of the management API, or by the account's password."""

from django.contrib.auth import authenticate
from django.contrib.auth.models import AbstractBaseUser
from rest_framework.exceptions import AuthenticationFailed

from modelyard.contract.errors import Forbidden, Unauthenticated
from modelyard.control.accounts.authentication import BearerAuthentication


def prove(name: str, permission: str, *, token: str = "", password: str = "") -> AbstractBaseUser:
    """The account `name`, which holds `permission`. Raises Unauthenticated, Forbidden."""
    user = _of_token(token) if token else authenticate(None, username=name, password=password)
    if user is None:
        raise Unauthenticated("the name or the password is wrong, or was wrong too often; wait a few minutes")
    if user.get_username() != name:
        raise Forbidden(f"the token in MODELYARD_TOKEN is not that of {name!r}")
    if not user.has_perm(permission):
        raise Forbidden(f"{name!r} has not the permission {permission}, which an administrator gives")
    return user


def _of_token(token: str) -> AbstractBaseUser:
    try:
        return BearerAuthentication().authenticate_credentials(token)[0]
    except AuthenticationFailed as error:
        raise Unauthenticated(f"MODELYARD_TOKEN: {error.detail}") from None
