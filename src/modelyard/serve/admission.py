"""Who may come in: host, origin, key, scope and quota, answered at once from what the plan says."""

from __future__ import annotations

import time
from hashlib import sha256

from modelyard.contract.errors import Forbidden, InvalidInput, Unauthenticated
from modelyard.contract.plan import PlannedKey, ServingPlan
from modelyard.contract.settings import Settings
from modelyard.secure.keys import SCOPES, allows
from modelyard.serve.rates import Quota, RateTable

_LOOPBACK = frozenset((b"localhost", b"127.0.0.1", b"[::1]"))
_CACHED_HOSTS = 1024


class Principal:
    """Whoever calls: a name, what it may do, and its quota."""

    __slots__ = ("expires_at", "name", "quota", "scopes")

    def __init__(self, name: str, scopes: tuple[str, ...], quota: Quota | None, expires_at: float | None) -> None:
        self.name = name
        self.scopes = frozenset(scopes)
        self.quota = quota
        self.expires_at = expires_at


_KEY_NEEDED = ("feedback:any", "repository")
ANONYMOUS = Principal("anonymous", tuple(scope for scope in SCOPES if scope not in _KEY_NEEDED), None, None)


class Admission:
    """The rules of one plan; replaced as a whole with the plan."""

    def __init__(self, settings: Settings, plan: ServingPlan, rates: RateTable) -> None:
        self._require_keys = settings.require_keys or plan.require_keys
        self._principals = {bytes.fromhex(key.digest): _principal(key, rates) for key in plan.keys}
        own = (settings.host,) if settings.is_loopback else ()  # such as 127.0.0.2
        self._hosts = _LOOPBACK | {host.lower().encode() for host in (*own, *settings.allowed_hosts)}
        self._any_host = not settings.is_loopback and not settings.allowed_hosts
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._seen_hosts: set[bytes] = set()

    def check_host(self, headers: dict[bytes, bytes]) -> None:
        """Refuse names that are not ours: a page that rebinds its own name to loopback says them. Raises Forbidden."""
        host = headers.get(b"host", b"localhost")
        if host in self._seen_hosts or self._any_host:
            return
        name = host.lower()
        if name.rpartition(b":")[2].isdigit():
            name = name.rpartition(b":")[0]
        if name not in self._hosts:
            raise Forbidden("the Host header names a host that is not in allowed_hosts")
        if len(self._seen_hosts) < _CACHED_HOSTS:
            self._seen_hosts.add(host)

    def check_origin(self, headers: dict[bytes, bytes]) -> bytes:
        """Refuse web pages that may not call; return the header lines that let allowed ones read. Raises Forbidden."""
        origin = headers.get(b"origin")
        if origin is None:
            return b""
        if origin in self._origins:
            return b"access-control-allow-origin: %b\r\nvary: origin\r\n" % origin
        if origin.partition(b"://")[2] == headers.get(b"host"):
            return b""
        raise Forbidden("this web origin is not in cors_origins")

    def identify(self, headers: dict[bytes, bytes]) -> Principal:
        """The caller. A key that is presented must be good, also where none is needed. Raises Unauthenticated."""
        key = headers.get(b"x-api-key")
        authorization = headers.get(b"authorization")
        if authorization is not None:
            scheme, _, token = authorization.partition(b" ")
            if scheme.lower() != b"bearer" or not token.strip():
                raise Unauthenticated("the Authorization header is 'Bearer KEY'")
            if key is not None:
                raise InvalidInput("send the key once: as 'Authorization: Bearer KEY' or as 'X-API-Key'")
            key = token.strip()
        if key is None:
            if self._require_keys:
                raise Unauthenticated("a key is required: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
            return ANONYMOUS
        principal = self._principals.get(sha256(key).digest())
        if principal is None:
            raise Unauthenticated("this key is unknown or revoked")
        if principal.expires_at is not None and principal.expires_at < time.time():
            raise Unauthenticated("this key has expired")
        return principal

    def check_scope(self, principal: Principal, verb: str, endpoint: str) -> None:
        """Raises Forbidden, naming the scope that is missing."""
        if not allows(principal.scopes, verb, endpoint):
            wanted = f"{verb}:{endpoint}" if endpoint else verb
            raise Forbidden(f"this key lacks the scope {wanted!r}")


def _principal(key: PlannedKey, rates: RateTable) -> Principal:
    quota = None
    if key.rows_per_second is not None:
        burst = key.burst_rows if key.burst_rows is not None else max(1, int(key.rows_per_second))
        quota = Quota(rates, key.id, key.rows_per_second, burst)
    return Principal(key.principal, key.scopes, quota, key.expires_at)
