"""The plan on disk: whole, signed, and with a revision that only grows, whoever publishes."""

import threading
from datetime import timedelta

import msgspec
import pytest

from modelyard.artifacts.names import write_whole
from modelyard.contract.errors import Conflict, InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan, Shadow, SignedPlan, TrafficSplit
from modelyard.contract.settings import Settings
from modelyard.control.deployments.reading import read_plan
from modelyard.control.setup import start
from modelyard.secure.signing import signer


def write_plan(home: Home, plan: ServingPlan) -> None:
    raw = msgspec.json.encode(plan)
    write_whole(home.plan, msgspec.json.encode(SignedPlan(msgspec.Raw(raw), signer(home.keys).sign(raw))))


def plan_of(home: Home) -> ServingPlan:
    plan = read_plan(home)
    assert plan is not None
    return plan


def test_each_change_is_a_revision(home: Home, register) -> None:
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.services import deploy, undeploy

    register()
    assert not home.plan.exists()
    deploy("scores", by="test")
    first = plan_of(home)
    create_key("somebody", ["infer"], by="test")
    second = plan_of(home)
    undeploy("scores", by="test")
    assert [first.revision, second.revision, plan_of(home).revision] == [1, 2, 3]
    assert home.plan.stat().st_mode & 0o777 == 0o600
    assert plan_of(home).endpoints == ()


def test_a_revision_on_disk_is_never_repeated(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    ahead = msgspec.structs.replace(plan_of(home), revision=41)
    write_plan(home, ahead)  # as after a restore of an older database
    register(2)
    deploy("scores", 2, by="test")
    assert plan_of(home).revision > 41


def test_an_older_database_publishes_above_what_it_finds(home: Home, register) -> None:
    from modelyard.control.deployments.publish import publish_if_needed, publish_plan
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    write_plan(home, msgspec.structs.replace(plan_of(home), revision=7, endpoints=()))
    assert publish_plan() == 8
    assert [endpoint.name for endpoint in plan_of(home).endpoints] == ["scores"]
    assert publish_if_needed() is None


def test_an_empty_database_never_publishes_over_a_plan(home: Home, register, tmp_path) -> None:
    from modelyard.control.accounts.models import Key
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.publish import publish_if_needed, publish_plan
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    before = home.plan.read_bytes()
    lose_database(home)
    for attempt in (publish_plan, publish_if_needed, lambda: create_key("somebody", ["infer"], by="test")):
        with pytest.raises(Conflict, match=r"modelyard restore.*modelyard adopt"):
            attempt()
    assert home.plan.read_bytes() == before
    assert not Key.objects.exists()  # what cannot be published is not committed


def test_a_lost_database_does_not_number_versions_anew(home: Home, register) -> None:
    register()
    lose_database(home)
    with pytest.raises(Conflict, match="modelyard adopt"):
        register(2)


def test_adopting_brings_everything_back(home: Home, register) -> None:
    from modelyard.control.accounts.services import create_key, list_keys
    from modelyard.control.deployments.adopt import adopt
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.services import find_version, set_alias

    for seed in (1, 2, 3):
        register(seed)
    deploy("scores", 2, by="test")
    deploy("scores", 3, by="test")
    set_alias("scores", "stable", 2, by="test")
    key, _ = create_key("somebody", ["infer:scores"], by="test", rows_per_second=5.0)
    before, names = plan_of(home), home.names.read_bytes()
    lose_database(home)
    assert adopt(by="test") == {"versions": 3, "endpoints": 1, "keys": 1}
    after = plan_of(home)
    assert after.revision == before.revision + 1
    assert (after.endpoints, after.keys) == (before.endpoints, before.keys)
    assert home.names.read_bytes() == names
    assert find_version("scores", "stable").number == 2
    assert list_keys().get().public_id == key.public_id
    assert register(4) == 4
    with pytest.raises(Conflict, match="empty one"):
        adopt(by="test")


def test_adopting_brings_back_who_has_which_slot_the_shadow_and_the_lease(home: Home, register) -> None:
    from modelyard.control.deployments.adopt import adopt
    from modelyard.control.deployments.services import find_endpoint, set_lease, set_shadow, set_traffic

    for seed in (1, 2, 3):
        register(seed)
    deploy_one()
    set_traffic("scores", TrafficSplit({1: 60, 2: 40}, "column:age"), by="test")
    set_traffic("scores", TrafficSplit({1: 80, 2: 20}, "column:age"), by="test")
    set_shadow("scores", Shadow(3, 5), by="test")
    set_lease("scores", 30.0, by="test")
    before = plan_of(home)
    assert before.endpoints[0].split.spans == ((1, 60), (2, 20), (1, 20))
    lose_database(home)
    adopt(by="test")
    after = plan_of(home)
    assert after.endpoints == before.endpoints
    row = find_endpoint("scores")
    assert row.revision == after.revision
    assert list(row.deployments.values_list("version__number", flat=True)) == [1, 2]  # the shadow is no deployment
    set_traffic("scores", TrafficSplit({1: 70, 2: 30}, "column:age"), by="test")
    assert plan_of(home).endpoints[0].split.spans == ((1, 60), (2, 20), (1, 10), (2, 10))


def test_a_plan_of_an_earlier_release_is_adopted(home: Home, register) -> None:
    from modelyard.control.deployments.adopt import adopt
    from modelyard.control.deployments.services import find_endpoint, set_traffic

    for seed in (1, 2):
        register(seed)
    deploy_one()
    set_traffic("scores", TrafficSplit({1: 60, 2: 40}), by="test")
    now = plan_of(home)
    (endpoint,) = now.endpoints
    split = msgspec.structs.replace(endpoint.split, spans=())  # it knew neither slots nor shadow nor lease
    write_plan(home, msgspec.structs.replace(now, endpoints=(msgspec.structs.replace(endpoint, split=split),)))
    lose_database(home)
    adopt(by="test")
    assert plan_of(home).endpoints == now.endpoints
    assert find_endpoint("scores").spans == [[1, 60], [2, 40]]


def deploy_one() -> None:
    from modelyard.control.deployments.services import deploy

    deploy("scores", 1, by="test")


def test_two_publishers_agree(home: Home, register) -> None:
    from django.db import connections

    from modelyard.control.accounts.models import Key
    from modelyard.control.accounts.services import create_key

    seen: list[int] = []

    def publish(name: str) -> None:
        for _ in range(5):
            create_key(name, ["infer"], by="test")
            seen.append(plan_of(home).revision)
        connections.close_all()

    threads = [threading.Thread(target=publish, args=(f"p{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plan = plan_of(home)
    assert plan.revision == 15 == max(seen)
    assert {key.id for key in plan.keys} == set(Key.objects.values_list("public_id", flat=True))


def test_what_was_not_written_is_written_later(home: Home, register) -> None:
    from modelyard.control.deployments.publish import publish_if_needed
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    assert publish_if_needed() is None
    home.plan.unlink()
    assert publish_if_needed() == 2
    home.plan.write_bytes(b"torn")
    assert publish_if_needed() == 3
    assert plan_of(home).revision == 3


def test_a_publisher_that_dies_after_its_first_plan_locks_nobody_out(home: Home) -> None:
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.models import Publication
    from modelyard.control.deployments.publish import publish_if_needed

    create_key("somebody", ["infer"], by="test")
    Publication.objects.update(published=0)  # it died between the file and the row
    create_key("another", ["infer"], by="test")
    assert plan_of(home).revision == 2
    assert publish_if_needed() is None


def test_an_expired_key_leaves_the_plan(home: Home) -> None:
    from django.utils import timezone

    from modelyard.control.accounts.models import Key
    from modelyard.control.accounts.services import create_key
    from modelyard.control.deployments.publish import publish_if_needed

    create_key("somebody", ["infer"], by="test", expires_at=timezone.now() + timedelta(hours=1))
    assert len(plan_of(home).keys) == 1
    Key.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert publish_if_needed() == 2
    assert plan_of(home).keys == ()


def test_only_the_long_running_control_plane_decides_whether_keys_are_required(home: Home, register) -> None:
    from modelyard.control.deployments.publish import accept_settings
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    accept_settings(Settings(home=str(home.root), require_keys=True))
    assert plan_of(home).require_keys
    register(2)
    deploy("scores", 2, by="test")  # a command in a shell that knows nothing of it
    assert plan_of(home).require_keys


def test_a_plan_that_was_tampered_with_is_not_believed(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    home.plan.write_bytes(
        home.plan.read_bytes().replace(b'"require_keys"', b'"x"').replace(b'"revision":1', b'"revision":9')
    )
    with pytest.raises(InvalidInput, match="not signed"):
        read_plan(home)


def lose_database(home: Home) -> None:
    """Remove the database under the control plane, and start again as a new process would."""
    from django.db import connections

    connections.close_all()
    for suffix in ("", "-wal", "-shm"):
        home.database.with_name(home.database.name + suffix).unlink(missing_ok=True)
    start(Settings(home=str(home.root)))
