"""More endpoints than SQLite takes conditions in one question: the plan, the lists and the pages bear it, on both."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from modelyard.contract.home import Home

MANY = 1_100
HOST = {"host": "localhost:8080"}


@pytest.fixture
def filled(home: Home) -> Home:
    """As many models with two versions, an alias, and an endpoint with a split, a shadow and a lease."""
    from modelyard.control.deployments.models import Deployment, Endpoint
    from modelyard.control.registry.models import Alias, Model, Version

    made = Model.objects.bulk_create(Model(name=f"model-{number:04d}") for number in range(MANY))
    common = {"task": "binary", "framework": "onnx", "contract_digest": "0" * 64, "created_by": "test"}
    rows = Version.objects.bulk_create(
        Version(model=model, number=number, digest=f"{model.name}-{number}".rjust(64, "0"), **common)
        for model in made
        for number in (1, 2)
    )
    first, second = rows[::2], rows[1::2]
    Alias.objects.bulk_create(Alias(model=row.model, name="champion", version=row) for row in first)
    endpoints = Endpoint.objects.bulk_create(
        Endpoint(
            name=row.model.name, model=row.model, shadow=row, shadow_percent=10, lease_seconds=30.0, lease_fallback=row
        )
        for row in first
    )
    for versions, weight in ((first, 90), (second, 10)):
        Deployment.objects.bulk_create(
            Deployment(endpoint=endpoint, version=row, weight=weight)
            for endpoint, row in zip(endpoints, versions, strict=True)
        )
    return home


def test_the_plan_of_many_endpoints_is_published(filled: Home) -> None:
    from modelyard.control.deployments.publish import publish_if_needed
    from modelyard.control.deployments.reading import read_plan

    assert publish_if_needed()
    plan = read_plan(filled)
    assert plan is not None
    assert len(plan.endpoints) == MANY
    for endpoint in (plan.endpoints[0], plan.endpoints[-1]):
        assert endpoint.split.weights == {1: 90, 2: 10}
        assert endpoint.aliases == {"champion": 1}
        assert (endpoint.shadow.version, endpoint.lease.fallback) == (1, 1)
    assert publish_if_needed() is None


def test_one_of_many_endpoints_is_changed(filled: Home) -> None:
    from modelyard.contract.plan import TrafficSplit
    from modelyard.control.deployments.publish import publish_if_needed
    from modelyard.control.deployments.reading import read_plan
    from modelyard.control.deployments.services import set_traffic

    publish_if_needed()
    set_traffic("model-0500", TrafficSplit({1: 50, 2: 50}), by="test")
    weights = {one.name: one.split.weights for one in read_plan(filled).endpoints}
    assert weights["model-0500"] == {1: 50, 2: 50}
    assert weights["model-0501"] == {1: 90, 2: 10}


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/endpoints?limit=1000",
        "/api/v1/models?limit=1000",
        "/admin/deployments/endpoint/?all=",
        "/admin/registry/model/?all=",
        "/admin/registry/version/?all=",
        "/admin/registry/alias/?all=",
    ],
)
def test_all_of_them_are_listed(filled: Home, path: str) -> None:
    from django.contrib.auth import get_user_model

    from modelyard.control.accounts.services import ensure_admin

    ensure_admin()
    client = Client(headers=HOST)
    client.force_login(get_user_model().objects.get())
    answer = client.get(path)
    assert answer.status_code == 200
    if path.startswith("/api"):
        assert answer.json()["count"] == MANY


def test_many_endpoints_are_listed_by_the_services(filled: Home) -> None:
    from modelyard.control.deployments.services import find_endpoint, list_endpoints

    assert len(list(list_endpoints())) == MANY
    assert find_endpoint("model-1099").deployments.count() == 2


def test_what_nothing_needs_is_looked_for_among_many(filled: Home) -> None:
    from modelyard.control.archive.garbage import verdicts

    found = verdicts(filled, 0, timedelta(0), datetime.now(UTC))
    assert len(found) == 2 * MANY
    assert all(one.reason for one in found), "each is deployed"
