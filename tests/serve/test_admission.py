"""Who may come in: tables of hosts, origins, keys, scopes and expiry."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.errors import Forbidden, InvalidInput, ModelyardError, QuotaExceeded, Unauthenticated
from modelyard.contract.plan import PlannedKey, ServingPlan
from modelyard.contract.settings import Settings
from modelyard.secure.keys import digest_of
from modelyard.serve.admission import ANONYMOUS, Admission
from modelyard.serve.rates import RateTable


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RateTable]:
    made = RateTable(tmp_path_factory.mktemp("rates") / "rates.table")
    yield made
    made.close()


def admission(table: RateTable, *keys: PlannedKey, require_keys: bool = False, **settings: object) -> Admission:
    plan = ServingPlan(1, 0.0, keys=keys, require_keys=require_keys)
    return Admission(Settings(**settings), plan, table)  # type: ignore[arg-type]


def key(secret: str, name: str = "anna", scopes: tuple[str, ...] = ("infer",), **more: object) -> PlannedKey:
    return PlannedKey(f"id-{secret}", digest_of(secret), name, scopes, **more)  # type: ignore[arg-type]


# --- hosts


@pytest.mark.parametrize(
    ("host", "settings", "allowed"),
    [
        (b"localhost", {}, True),
        (b"localhost:8000", {}, True),
        (b"LOCALHOST:1", {}, True),
        (b"127.0.0.1:8000", {}, True),
        (b"[::1]", {}, True),
        (b"[::1]:8000", {}, True),
        (None, {}, True),  # HTTP/1.0 has none
        (b"evil.example", {}, False),
        (b"evil.example:8000", {}, False),
        (b"localhost.evil.example", {}, False),
        (b"localhost:8000:evil", {}, False),
        (b"0.0.0.0:8000", {}, False),
        (b"", {}, False),
        (b"127.0.0.2:8000", {}, False),
        (b"127.0.0.2:8000", {"host": "127.0.0.2"}, True),  # where it listens itself
        (b"models.example", {"allowed_hosts": ("Models.Example",)}, True),
        (b"models.example:443", {"allowed_hosts": ("models.example",)}, True),
        (b"other.example", {"allowed_hosts": ("models.example",)}, False),
        (b"anything.example", {"host": "0.0.0.0"}, True),  # keys are required there
        (b"anything.example", {"host": "0.0.0.0", "allowed_hosts": ("models.example",)}, False),
        (b"models.example", {"host": "0.0.0.0", "allowed_hosts": ("models.example",)}, True),
    ],
)
def test_hosts(table: RateTable, host: bytes | None, settings: dict[str, object], allowed: bool) -> None:
    rules = admission(table, **settings)
    headers = {} if host is None else {b"host": host}
    for _ in range(2):  # the second time from memory
        if allowed:
            rules.check_host(headers)
        else:
            with pytest.raises(Forbidden, match="allowed_hosts"):
                rules.check_host(headers)


# --- origins


@pytest.mark.parametrize(
    ("origin", "host", "lines"),
    [
        (None, b"localhost:8000", b""),
        (
            b"https://a.example",
            b"localhost:8000",
            b"access-control-allow-origin: https://a.example\r\nvary: origin\r\n",
        ),
        (b"http://localhost:8000", b"localhost:8000", b""),  # our own page
        (b"http://a.example", b"localhost:8000", None),  # another scheme is another origin
        (b"https://a.example.evil", b"localhost:8000", None),
        (b"https://a.example:444", b"localhost:8000", None),
        (b"http://localhost:9000", b"localhost:8000", None),
        (b"null", b"localhost:8000", None),
        (b"", b"localhost:8000", None),
    ],
)
def test_origins(table: RateTable, origin: bytes | None, host: bytes, lines: bytes | None) -> None:
    rules = admission(table, cors_origins=("https://a.example",))
    headers = {b"host": host} | ({} if origin is None else {b"origin": origin})
    if lines is None:
        with pytest.raises(Forbidden, match="cors_origins"):
            rules.check_origin(headers)
    else:
        assert rules.check_origin(headers) == lines


# --- keys

NOW = time.time()


@pytest.mark.parametrize(
    ("headers", "require_keys", "who"),
    [
        ({}, False, "anonymous"),
        ({}, True, Unauthenticated),
        ({b"x-api-key": b"my_a"}, True, "anna"),
        ({b"x-api-key": b"my_a"}, False, "anna"),
        ({b"authorization": b"Bearer my_a"}, True, "anna"),
        ({b"authorization": b"bearer my_a"}, True, "anna"),
        ({b"authorization": b"Bearer  my_a "}, True, "anna"),
        ({b"x-api-key": b"my_b"}, True, "bo"),
        ({b"x-api-key": b"my_old"}, True, Unauthenticated),
        ({b"x-api-key": b"my_soon"}, True, "sue"),
        ({b"x-api-key": b"wrong"}, True, Unauthenticated),
        ({b"x-api-key": b"wrong"}, False, Unauthenticated),  # a key that is presented must be good
        ({b"x-api-key": b""}, False, Unauthenticated),
        ({b"x-api-key": digest_of("my_a").encode()}, True, Unauthenticated),  # the digest is not the key
        ({b"authorization": b"Basic my_a"}, False, Unauthenticated),
        ({b"authorization": b"Bearer"}, False, Unauthenticated),
        ({b"authorization": b"Bearer "}, False, Unauthenticated),
        ({b"authorization": b""}, False, Unauthenticated),
        ({b"authorization": b"Bearer my_a", b"x-api-key": b"my_a"}, True, InvalidInput),
    ],
)
def test_keys(
    table: RateTable, headers: dict[bytes, bytes], require_keys: bool, who: str | type[ModelyardError]
) -> None:
    keys = (
        key("my_a"),
        key("my_b", "bo"),
        key("my_old", "ole", expires_at=NOW - 1),
        key("my_soon", "sue", expires_at=NOW + 3600),
    )
    for rules in (
        admission(table, *keys, require_keys=require_keys),  # the plan says so
        admission(table, *keys, **({"require_keys": True} if require_keys else {})),  # the setting says so
    ):
        if isinstance(who, str):
            assert rules.identify(headers).name == who
        else:
            with pytest.raises(who) as refusal:
                rules.identify(headers)
            assert "my_" not in str(refusal.value)


@given(st.binary(max_size=40))
def test_a_guess_is_never_a_key(table: RateTable, guess: bytes) -> None:
    with pytest.raises(Unauthenticated):
        admission(table, key("my_a"), require_keys=True).identify({b"x-api-key": guess})


# --- scopes


@pytest.mark.parametrize(
    ("scopes", "verb", "endpoint", "missing"),
    [
        (("infer",), "infer", "loans", None),
        (("infer:loans",), "infer", "loans", None),
        (("infer:loans",), "infer", "cards", "infer:cards"),
        (("infer",), "explain", "loans", "explain:loans"),
        (("infer",), "metrics", "", "metrics"),
        (("metrics",), "metrics", "", None),
        ((), "infer", "loans", "infer:loans"),
        (("feedback:any",), "feedback", "loans", None),
    ],
)
def test_scopes(table: RateTable, scopes: tuple[str, ...], verb: str, endpoint: str, missing: str | None) -> None:
    rules = admission(table, key("my_a", scopes=scopes))
    anna = rules.identify({b"x-api-key": b"my_a"})
    if missing is None:
        rules.check_scope(anna, verb, endpoint)
    else:
        with pytest.raises(Forbidden, match=missing):
            rules.check_scope(anna, verb, endpoint)


def test_without_keys_everything_is_allowed_but_to_speak_of_others_calls(table: RateTable) -> None:
    rules = admission(table)
    for verb in ("infer", "explain", "feedback"):
        rules.check_scope(ANONYMOUS, verb, "loans")
    rules.check_scope(ANONYMOUS, "metrics", "")
    with pytest.raises(Forbidden):
        rules.check_scope(ANONYMOUS, "feedback:any", "loans")


def test_a_keys_quota_comes_from_the_plan(table: RateTable) -> None:
    rules = admission(table, key("my_q", rows_per_second=0.001, burst_rows=2), key("my_free"))
    quota = rules.identify({b"x-api-key": b"my_q"}).quota
    assert quota is not None
    quota.charge(2)
    with pytest.raises(QuotaExceeded):
        quota.charge(1)
    assert rules.identify({b"x-api-key": b"my_free"}).quota is None
    again = admission(table, key("my_q", rows_per_second=0.001, burst_rows=2)).identify({b"x-api-key": b"my_q"}).quota
    assert again is not None
    with pytest.raises(QuotaExceeded):  # a new plan grants no second burst
        again.charge(1)


def test_without_a_burst_a_key_may_send_a_seconds_worth_at_once(table: RateTable) -> None:
    for name, rate, burst in (("my_5", 5.0, 5), ("my_half", 0.5, 1)):
        quota = admission(table, key(name, rows_per_second=rate)).identify({b"x-api-key": name.encode()}).quota
        assert quota is not None
        quota.charge(burst)
        with pytest.raises(QuotaExceeded):
            quota.charge(burst)
