"""Keys, tokens, the administrator, and a record that only grows."""

from datetime import timedelta

import pytest

from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home
from modelyard.control.deployments.reading import read_plan
from modelyard.secure.keys import digest_of


def test_a_key_lands_in_the_plan_and_leaves_it(home: Home) -> None:
    from modelyard.control.accounts.services import create_key, revoke_key

    key, secret = create_key("somebody", ["infer:scores", "feedback"], by="test", rows_per_second=10.0, burst_rows=50)
    (planned,) = read_plan(home).keys
    assert (planned.id, planned.digest, planned.principal) == (key.public_id, digest_of(secret), "somebody")
    assert (planned.scopes, planned.rows_per_second, planned.burst_rows) == (("feedback", "infer:scores"), 10.0, 50)
    assert secret.encode() not in home.plan.read_bytes()
    revoke_key(key.public_id, by="test")
    assert read_plan(home).keys == ()
    assert revoke_key(key.public_id, by="test").revoked_at is not None  # again: nothing happens


def test_a_principal_can_be_switched_off(home: Home) -> None:
    from modelyard.control.accounts.services import create_key, set_principal_active

    create_key("somebody", ["infer"], by="test")
    set_principal_active("somebody", False, by="test")
    assert read_plan(home).keys == ()
    with pytest.raises(Conflict, match="not active"):
        create_key("somebody", ["infer"], by="test")
    set_principal_active("somebody", True, by="test")
    assert len(read_plan(home).keys) == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"rows_per_second": 0.0},
        {"burst_rows": 5},
        {"principal_name": "two words"},
    ],
)
def test_a_wrong_key_is_refused(home: Home, asked: dict) -> None:
    from modelyard.control.accounts.services import create_key

    with pytest.raises(InvalidInput):
        create_key(**({"principal_name": "somebody", "scopes": ["infer"], "by": "test"} | asked))
    assert not home.plan.exists()


def test_an_unknown_key_cannot_be_revoked(home: Home) -> None:
    from modelyard.control.accounts.services import revoke_key

    with pytest.raises(NotFound):
        revoke_key("k000000000000", by="test")


def test_the_first_administrator_is_made_once(home: Home) -> None:
    from django.contrib.auth import authenticate

    from modelyard.control.accounts.services import ensure_admin

    password = ensure_admin()
    assert password is not None
    assert len(password) >= 20
    assert authenticate(None, username="admin", password=password).is_superuser
    assert ensure_admin() is None


def test_wrong_passwords_are_counted(home: Home) -> None:
    from django.contrib.auth import authenticate

    from modelyard.control.accounts.authentication import FAILURE_WINDOW_S, MAX_FAILURES
    from modelyard.control.accounts.services import ensure_admin

    password = ensure_admin()
    for _ in range(MAX_FAILURES):
        assert authenticate(None, username="admin", password="a guess") is None
    assert authenticate(None, username="admin", password=password) is None, f"until {FAILURE_WINDOW_S} s are over"


@pytest.mark.parametrize("table", ["AuditEvent", "Event"])
def test_what_was_recorded_stays(home: Home, register, table: str) -> None:
    from django.db import DatabaseError, connection

    from modelyard.control.accounts.models import AuditEvent
    from modelyard.control.registry.models import Event

    register()
    kind = {"AuditEvent": AuditEvent, "Event": Event}[table]
    row, name = kind.objects.first(), kind._meta.db_table
    for attempt in (row.save, row.delete, kind.objects.all().delete, lambda: kind.objects.update(verb="nothing")):
        with pytest.raises(Conflict, match="only grows"):
            attempt()
    for statement in (f"UPDATE {name} SET verb = 'nothing'", f"DELETE FROM {name}"):  # noqa: S608 - our own tables
        with pytest.raises(DatabaseError, match="only grows"), connection.cursor() as cursor:
            cursor.execute(statement)
    assert kind.objects.get(pk=row.pk).verb == row.verb


def test_every_change_leaves_a_line(home: Home, register) -> None:
    from modelyard.control.accounts.models import AuditEvent
    from modelyard.control.accounts.services import create_key, revoke_key
    from modelyard.control.deployments.services import deploy, undeploy

    register()
    deploy("scores", by="li")
    key, secret = create_key("somebody", ["infer"], by="li")
    revoke_key(key.public_id, by="li")
    undeploy("scores", by="li")
    verbs = list(AuditEvent.objects.order_by("pk").values_list("principal", "verb"))
    assert verbs == [
        ("local", "register_version"),
        ("local", "set_alias"),
        ("li", "deploy"),
        ("li", "create_key"),
        ("li", "revoke_key"),
        ("li", "undeploy"),
    ]
    assert secret not in str(list(AuditEvent.objects.values()))


def test_a_token_ends(home: Home) -> None:
    from django.contrib.auth import get_user_model
    from rest_framework.exceptions import AuthenticationFailed

    from modelyard.control.accounts.authentication import BearerAuthentication
    from modelyard.control.accounts.services import create_token, ensure_admin

    ensure_admin()
    user = get_user_model().objects.get()
    _, secret = create_token(user)
    _, ended = create_token(user, life=timedelta(0))
    assert BearerAuthentication().authenticate_credentials(secret)[0] == user
    with pytest.raises(AuthenticationFailed):
        BearerAuthentication().authenticate_credentials(ended)
