"""Lists ask the database a fixed number of times, however many models there are, and come in pages."""

import time

import pytest

from modelyard.contract.errors import NotFound
from modelyard.contract.home import Home

HOST = {"host": "localhost:8080"}


def fill(models: int, versions: int) -> None:
    """Rows as registrations leave them, without their artifacts."""
    from modelyard.control.registry.models import Alias, Model, Tag, Version

    made = Model.objects.bulk_create(Model(name=f"model-{number:04d}") for number in range(models))
    rows = Version.objects.bulk_create(
        Version(
            model=model,
            number=number,
            digest=f"{model.name}-{number}".rjust(64, "0"),
            task="binary",
            framework="logistic",
            metrics={"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9},
            lineage={"recipe": {"seed": number}},
            contract_digest="0" * 64,
            size_bytes=1000,
            created_by="test",
        )
        for model in made
        for number in range(1, versions + 1)
    )
    Alias.objects.bulk_create(
        Alias(model=row.model, name=name, version=row)
        for row in rows
        if row.number == versions
        for name in ("champion", "challenger")
    )
    Tag.objects.bulk_create(Tag(model=model, key="team", value="risk") for model in made[::2])
    Tag.objects.bulk_create(
        Tag(model=row.model, version=row, key="stage", value="live") for row in rows if row.number == versions
    )


def queries(ask) -> int:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as asked:
        ask()
    return len(asked)


@pytest.fixture
def admin(home: Home):
    from django.contrib.auth import get_user_model
    from django.test import Client

    from modelyard.control.accounts.services import ensure_admin

    ensure_admin()
    client = Client(headers=HOST)
    client.force_login(get_user_model().objects.get())
    return client


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/models",
        "/api/v1/models?tag=team%3Drisk",
        "/api/v1/versions",
        "/api/v1/versions?tag=stage%3Dlive",
        "/api/v1/models/model-0000/versions",
        "/api/v1/models/model-0000",
        "/admin/registry/model/",
        "/admin/registry/version/",
        "/admin/registry/alias/",
    ],
)
def test_more_rows_are_not_more_queries(admin, path: str) -> None:
    fill(2, 2)
    few = queries(lambda: admin.get(path))
    from modelyard.control.registry.models import Alias, Model, Tag, Version

    for kind in (Tag, Alias, Version, Model):
        kind.objects.all().delete()
    fill(30, 30)
    asked = queries(lambda: admin.get(path))
    assert asked <= few
    assert asked < 20


def test_the_catalogue_is_a_handful_of_queries(home: Home) -> None:
    from modelyard.control.registry.reading import catalogue, tag_pairs

    fill(40, 5)
    assert queries(lambda: catalogue()) <= 6
    assert queries(lambda: catalogue(tags=tag_pairs(["team=risk", "stage=live"]))) <= 6
    assert queries(lambda: catalogue(limit=7)) <= 6
    found, left_out = catalogue(limit=7)
    assert [[row["number"] for row in one["versions"]] for one in found] == [[5, 4, 3, 2, 1], [5, 4]]
    assert left_out == 200 - 7
    assert catalogue(limit=200)[1] == 0
    assert (found[0]["aliases"], found[0]["tags"]) == ({"challenger": 5, "champion": 5}, {"team": "risk"})
    newest = found[0]["versions"][0]
    assert (newest["aliases"], newest["tags"]) == (["challenger", "champion"], {"stage": "live"})
    assert catalogue("model-0003")[0][0]["model"] == "model-0003"
    with pytest.raises(NotFound):
        catalogue("model-9999")


def test_a_thousand_models_are_listed_in_a_bounded_time(admin) -> None:
    from modelyard.control.registry.reading import catalogue

    fill(1_000, 10)
    began = time.perf_counter()
    answer = admin.get("/api/v1/models?limit=100&offset=900").json()
    page = admin.get("/api/v1/versions?limit=100&offset=9900").json()
    found, left_out = catalogue(limit=200)
    took = time.perf_counter() - began
    assert (answer["count"], len(answer["results"]), answer["next"]) == (1_000, 100, None)
    assert (page["count"], len(page["results"])) == (10_000, 100)
    assert (sum(len(one["versions"]) for one in found), left_out) == (200, 9_800)
    assert took < 10  # a tenth of a second each on a quiet machine
