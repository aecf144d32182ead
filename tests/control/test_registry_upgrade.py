"""A home of the first release: its versions get what their artifacts know, and the log begins with what is served."""

from datetime import UTC, datetime

import pytest

from kit.versions import store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

FIRST = [("registry", "0001_initial"), ("deployments", "0001_initial")]


@pytest.fixture
def first_release(home: Home) -> Home:
    """Two versions and an endpoint that shares its calls, as rows of the first release."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    digests = {number: store(Shelf(home.shelf), float(number)) for number in (1, 2)}
    MigrationExecutor(connection).migrate(FIRST)
    tables = MigrationExecutor(connection).loader.project_state(FIRST).apps
    model = tables.get_model("registry", "Model").objects.create(name="scores")
    versions = {}
    for number, digest in {**digests, 3: "0" * 64}.items():
        versions[number] = tables.get_model("registry", "Version").objects.create(
            model=model,
            number=number,
            digest=digest,
            task="binary",
            framework="logistic",
            lineage={"data_digest": "d" * 64, "code_revision": "modelyard 0.1.0"},
            contract_digest="0" * 64,
            created_by="li",
        )
    endpoint = tables.get_model("deployments", "Endpoint").objects.create(name="scores", model=model)
    for number, weight in ((1, 90), (2, 10)):
        tables.get_model("deployments", "Deployment").objects.create(
            endpoint=endpoint, version=versions[number], weight=weight
        )
    tables.get_model("deployments", "Publication").objects.create(pk=1, committed=7, published=7)
    return home


def test_what_was_there_is_there_and_the_log_begins(first_release: Home) -> None:
    from django.core.management import call_command
    from django.db import DatabaseError, transaction
    from django.db.models import QuerySet

    from modelyard.control.registry import history
    from modelyard.control.registry.models import Event, Version

    call_command("migrate", interactive=False, verbosity=0)
    one, two, lost = Version.objects.order_by("number")
    files = Shelf(first_release.shelf).describe(one.digest).manifest.files
    assert one.size_bytes == two.size_bytes == sum(entry.size for entry in files.values())
    assert lost.size_bytes is None
    assert (one.data_digest, one.code_revision, one.trusted) == ("d" * 64, "modelyard 0.1.0", False)
    (state,) = history.served_at(datetime.now(UTC), model="scores")
    assert (state.weights, state.revision, state.verb) == ({1: 90, 2: 10}, 7, "upgrade")
    for kind, change in ((Version, {"digest": "1" * 64}), (Event, {"by": "somebody else"})):
        with pytest.raises(DatabaseError), transaction.atomic():  # the guards are there after the rebuilding as well
            QuerySet.update(kind.objects.all(), **change)
