"""The management API: closed by default, described without gaps, and every refusal a problem document."""

import re
from collections.abc import Iterator

import pytest

from modelyard.contract.errors import InvalidInput, ModelyardError, Undecodable, all_errors
from modelyard.contract.home import Home
from modelyard.control.deployments.reading import read_plan

HOST = {"host": "localhost:8080"}
OPEN = {("GET", "/healthz"), ("POST", "/api/v1/token")}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.fixture
def visitor(home: Home):
    """Somebody who has not signed in."""
    from django.test import Client

    return Client(headers=HOST)


@pytest.fixture
def admin(home: Home):
    """The administrator, signed in."""
    from django.contrib.auth import get_user_model
    from django.test import Client

    from modelyard.control.accounts.services import ensure_admin

    ensure_admin()
    client = Client(headers=HOST)
    client.force_login(get_user_model().objects.get())
    return client


@pytest.fixture
def clerk(home: Home):
    """A user who was granted nothing; `clerk.grant(…)` changes that."""
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission
    from django.test import Client

    user = get_user_model().objects.create_user("clerk", password="a long enough password")
    client = Client(headers=HOST)
    client.force_login(user)

    def grant(app: str, codename: str) -> None:
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))

    client.grant = grant
    return client


def routes() -> Iterator[str]:
    """Every address of the control plane, with stand-ins for its variables."""
    from django.urls import get_resolver

    def walk(patterns, prefix: str) -> Iterator[str]:
        for pattern in patterns:
            route = str(pattern.pattern)
            if hasattr(pattern, "url_patterns"):
                yield from walk(pattern.url_patterns, prefix + route)
            elif "(?P" in route or route.startswith("^"):
                continue  # the admin's own catch-alls
            else:
                yield re.sub(r"<int:\w+>|<\w+>", "1", re.sub(r"<(str|path):\w+>", "x", prefix + route))

    for route in walk(get_resolver().url_patterns, "/"):
        if not route.startswith(("/admin/r/", "/admin/login/", "/admin/logout/", "/admin/jsi18n/")):
            yield route


def test_no_route_answers_a_stranger(visitor) -> None:
    seen = list(routes())
    assert len(seen) > 50
    assert "/api/v1/jobs/1/cancel" in seen
    for route in seen:
        for method in METHODS:
            if (method, route) in OPEN or (route, method) == ("/", "GET"):
                continue
            answer = visitor.generic(method, route, b"{}", content_type="application/json")
            closed = answer.status_code in (401, 403, 405) or "/login/" in answer.headers.get("Location", "")
            assert closed or route in ("/", "/healthz"), (method, route, answer.status_code)


def test_nobody_reads_what_was_not_granted(clerk, register) -> None:
    register()
    for route in routes():
        if route.startswith("/api/") and route not in ("/api/v1/token", "/api/v1/docs"):
            answer = clerk.get(route)
            assert answer.status_code == 403, route
            assert answer.headers["Content-Type"] == "application/problem+json"
    clerk.grant("registry", "view_model")
    assert clerk.get("/api/v1/models").status_code == 200
    assert clerk.get("/api/v1/models/scores/versions").status_code == 403
    assert clerk.get("/api/v1/keys").status_code == 403


def test_every_view_names_what_it_needs() -> None:
    from modelyard.control.urls import v1

    for pattern in v1:
        view = getattr(pattern.callback, "view_class", None) or getattr(pattern.callback, "cls", None)
        if view is None or view.__module__.startswith("drf_spectacular") or view.__name__ == "Tokens":
            continue
        offered = {method for method in METHODS if hasattr(view, method.lower())}
        assert offered == set(view.needs), view


def test_the_needed_permissions_exist(home: Home) -> None:
    from django.contrib.auth.models import Permission

    from modelyard.control.urls import v1

    known = {
        f"{row.content_type.app_label}.{row.codename}" for row in Permission.objects.select_related("content_type")
    }
    needed = {name for pattern in v1 for name in getattr(getattr(pattern.callback, "cls", None), "needs", {}).values()}
    assert needed
    assert needed <= known


def test_the_description_has_no_gap(home: Home) -> None:
    from django.core.management import call_command
    from drf_spectacular.validation import validate_schema

    call_command("spectacular", "--fail-on-warn", "--validate", "--file", str(home.root / "schema.yaml"))
    from drf_spectacular.generators import SchemaGenerator

    schema = SchemaGenerator().get_schema(request=None, public=True)
    validate_schema(schema)
    assert "/api/v1/endpoints/{name}/traffic" in schema["paths"]


def test_the_tables_are_as_the_migrations_say(home: Home) -> None:
    from django.core.management import call_command

    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    call_command("check", "--fail-level", "WARNING")


def test_from_password_to_a_served_version(visitor, admin, register) -> None:
    from django.contrib.auth import get_user_model

    register(1)
    register(2)
    user = get_user_model().objects.get()
    user.set_password("correct horse battery")
    user.save()
    asked = {"username": "admin", "password": "correct horse battery"}
    made = visitor.post("/api/v1/token", asked, content_type="application/json")
    assert made.status_code == 201
    bearer = {"Authorization": f"Bearer {made.json()['token']}"}

    def call(method: str, path: str, body: object = None):
        return visitor.generic(
            method, f"/api/v1/{path}", "" if body is None else dumps(body), "application/json", headers=bearer
        )

    deployed = call("POST", "deployments", {"model": "scores"})
    assert deployed.status_code == 200
    assert deployed.json()["served"] is False
    assert call("PUT", "endpoints/scores/traffic", {"weights": {"1": 80, "2": 20}}).json()["weights"] == {
        "1": 80,
        "2": 20,
    }
    assert call("PUT", "endpoints/scores/traffic", {"weights": {"1": 80, "2": 30}}).status_code == 422
    assert call("PUT", "endpoints/scores/traffic", {"weights": {"one": 100}}).status_code == 422
    assert call("PUT", "endpoints/scores", {"cutoff": 0.4}).status_code == 409  # the version has no decision
    assert call("PUT", "endpoints/scores", {"max_rows": 7}).json()["max_rows"] == 7
    assert call("PUT", "models/scores/aliases/champion", {"version": 2}).json()["aliases"] == ["champion"]
    assert call("GET", "models/scores/versions/champion").json()["version"] == 2
    assert call("GET", "plan").json()["endpoints"][0]["max_rows"] == 7
    assert call("GET", "audit").json()["results"][0]["principal"] == "admin"
    assert call("DELETE", "endpoints/scores").status_code == 204
    assert call("GET", "endpoints/scores").json()["code"] == "not_found"
    assert call("DELETE", "token").status_code == 204
    assert call("GET", "plan").status_code == 401


def dumps(body: object) -> str:
    """JSON."""
    import json

    return json.dumps(body)


def test_a_keys_secret_is_in_one_answer_only(admin, home: Home) -> None:
    asked = {"principal": "somebody", "scopes": ["infer"], "rows_per_second": 5}
    made = admin.post("/api/v1/keys", asked, content_type="application/json")
    assert made.status_code == 201
    secret, key = made.json()["secret"], made.json()["key"]["id"]
    listed = admin.get("/api/v1/keys")
    assert listed.json()["results"][0]["id"] == key
    assert secret not in listed.content.decode()
    assert "digest" not in listed.content.decode()
    assert len(read_plan(home).keys) == 1
    assert admin.delete(f"/api/v1/keys/{key}").status_code == 200
    assert read_plan(home).keys == ()
    assert secret not in admin.get("/api/v1/audit").content.decode()


def test_guessing_passwords_is_slowed_down(visitor) -> None:
    body = {"username": "admin", "password": "a guess"}
    answers = [visitor.post("/api/v1/token", body, content_type="application/json") for _ in range(11)]
    assert {answer.status_code for answer in answers[:10]} == {401}
    assert answers[10].status_code == 429
    assert int(answers[10].headers["Retry-After"]) >= 1
    assert "a guess" not in "".join(answer.content.decode() for answer in answers)


def test_a_session_needs_the_csrf_token(home: Home, admin) -> None:
    from django.contrib.auth import get_user_model
    from django.test import Client

    client = Client(enforce_csrf_checks=True, headers=HOST)
    client.force_login(get_user_model().objects.get())
    answer = client.post("/api/v1/keys", {"principal": "x", "scopes": ["infer"]}, content_type="application/json")
    assert answer.status_code == 403
    assert not home.plan.exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/v1/keys", b"{", 400),
        ("POST", "/api/v1/keys", b"[]", 422),
        ("POST", "/api/v1/keys", b'{"principal": "x"}', 422),
        ("POST", "/api/v1/keys", b'{"principal": "x", "scopes": ["fly"]}', 422),
        ("POST", "/api/v1/runs", b'{"table": "../../etc/passwd", "name": "x", "target": "y"}', 422),
        ("POST", "/api/v1/runs", b'{"table": "nothing.csv", "name": "x", "target": "y"}', 404),
        ("POST", "/api/v1/runs", b"{}", 422),
        ("PATCH", "/api/v1/keys", b"{}", 405),
        ("GET", "/api/v1/nothing", b"", 404),
        ("GET", "/api/v1/models/x/versions", b"", 404),
        ("POST", "/api/v1/jobs/7/cancel", b"", 404),
        ("POST", "/api/v1/deployments", b'{"model": "nothing"}', 404),
    ],
)
def test_every_refusal_is_a_problem_document(admin, method: str, path: str, body: bytes, status: int) -> None:
    answer = admin.generic(method, path, body, content_type="application/json")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert {"type", "title", "status", "code", "detail"} <= set(document)
    assert document["status"] == status


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_each_of_our_errors_has_a_status(kind: type[ModelyardError]) -> None:
    from modelyard.control.problems import TITLES, status_of

    error = kind("what happened")
    assert 400 <= status_of(error) < 600
    assert kind.code in TITLES
    assert status_of(Undecodable("x")) == 400
    assert status_of(InvalidInput("x")) == 422


def test_a_strange_host_is_refused(home: Home) -> None:
    from django.test import Client

    assert Client(headers={"host": "evil.example"}).get("/healthz").status_code == 400
    assert Client(headers={"host": "127.0.0.1:8080"}).get("/healthz").json() == {"status": "ok"}


def test_the_admin_shows_everything_and_edits_nothing(admin, register) -> None:
    from django.contrib import admin as site

    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.services import configure, deploy, undeploy
    from modelyard.control.jobs.services import enqueue
    from modelyard.control.rollouts.services import start_rollout
    from modelyard.control.training.services import begin_run

    for seed in (1, 2):
        register(seed)
    deploy("scores", 1, by="test")
    start_rollout("scores", 2, by="test")
    configure("scores", "test", needs_approval=True)
    undeploy("scores", by="test")  # waits: a change to show
    create_key("somebody", ["infer"], by="test")
    enqueue("modelyard.control.training.work.table_job", {"run_id": 1, "by": "test"}, by="test")
    begin_run(by="test", model="scores", source="table.csv")
    page = admin.get("/admin/")
    assert page.status_code == 200
    for model in site.site._registry:
        if not model.__module__.startswith("modelyard"):
            continue
        base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        assert admin.get(base).status_code == 200, base
        detail = f"{base}{model.objects.first().pk}/change/"
        assert admin.get(detail).status_code == 200, detail
        for path in (detail, f"{base}add/", detail.removesuffix("change/") + "delete/"):
            assert admin.post(path, {}).status_code == 403, path


def test_the_admin_acts_through_services(admin, home: Home, register) -> None:
    from modelyard.control.accounts.models import AuditEvent, Key
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.services import deploy

    create_key("somebody", ["infer"], by="test")
    chosen = {"action": "revoke", "_selected_action": [Key.objects.get().pk]}
    assert admin.post("/admin/accounts/key/", chosen).status_code == 302
    assert read_plan(home).keys == ()
    assert AuditEvent.objects.first().principal == "admin"
    register()
    deploy("scores", by="test")
    chosen = {"action": "roll_back", "_selected_action": [Endpoint.objects.get().pk]}
    refused = admin.post("/admin/deployments/endpoint/", chosen, follow=True)
    assert "holds no version that served before" in refused.content.decode()


def test_pages_need_nothing_from_elsewhere(admin) -> None:
    for path in ("/admin/", "/api/v1/docs"):
        page = admin.get(path).content.decode()
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', page), path
    style = admin.get("/static/admin/css/base.css")
    script = admin.get("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js")
    assert (style.status_code, script.status_code) == (200, 200)
    for answer in (style, script):
        answer.close()


def test_an_own_fault_tells_nothing_of_the_inside(admin, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control.deployments import services

    def broken(name: str) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(services, "find_endpoint", broken)
    admin.raise_request_exception = False
    answer = admin.get("/api/v1/endpoints/scores")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.content.decode()
