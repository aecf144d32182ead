"""Deploying, sharing traffic, rolling back; and waiting for the gateway, which may refuse."""

import os
import time

import msgspec
import pytest

from modelyard.contract.errors import Conflict, InvalidInput, NotFound, NotReady
from modelyard.contract.features import Column
from modelyard.contract.home import Home
from modelyard.contract.plan import GatewayState, TrafficSplit, WorkerState
from modelyard.control.deployments.reading import read_plan
from modelyard.control.deployments.wait import Refused, wait_until_served


def served(home: Home, name: str = "scores") -> dict[int, int]:
    """Version -> percent, as the plan says; 0: held without traffic."""
    plan = read_plan(home)
    endpoint = next(endpoint for endpoint in plan.endpoints if endpoint.name == name)
    return {planned.version: endpoint.split.weights.get(planned.version, 0) for planned in endpoint.versions}


def test_the_version_before_stays_held(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, rollback

    for seed in (1, 2, 3):
        register(seed)
    deploy("scores", 1, by="test")
    assert served(home) == {1: 100}
    deploy("scores", 2, by="test")
    assert served(home) == {1: 0, 2: 100}
    deploy("scores", 3, by="test")
    assert served(home) == {2: 0, 3: 100}
    rollback("scores", by="test")
    assert served(home) == {2: 100, 3: 0}


def test_deploying_what_is_deployed_changes_nothing(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    before = home.plan.read_bytes()
    deploy("scores", 1, by="test")
    assert home.plan.read_bytes() == before


def test_traffic_is_shared_and_promoted(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, set_traffic

    for seed in (1, 2):
        register(seed)
    deploy("scores", 1, by="test")
    set_traffic("scores", TrafficSplit({1: 90, 2: 10}, "x-customer"), by="test")
    assert served(home) == {1: 90, 2: 10}
    assert read_plan(home).endpoints[0].split.sticky_by == "x-customer"
    set_traffic("scores", TrafficSplit({2: 100}), by="test")
    assert served(home) == {1: 0, 2: 100}


def test_the_database_refuses_an_impossible_share(home: Home, register) -> None:
    from django.db import IntegrityError

    from modelyard.control.deployments.models import Deployment
    from modelyard.control.deployments.services import deploy

    register()
    deploy("scores", by="test")
    with pytest.raises(IntegrityError, match="weight_is_a_percent"):
        Deployment.objects.update(weight=101)


def test_versions_that_ask_for_other_columns_do_not_share(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, rollback, set_traffic

    register(1)
    register(2, columns=(Column("age", "number"), Column("income", "number")))
    deploy("scores", 1, by="test")
    with pytest.raises(Conflict, match="requires column 'income'"):
        set_traffic("scores", TrafficSplit({1: 50, 2: 50}), by="test")
    with pytest.raises(Conflict, match=r"callers of 'scores' would break: version 2: it requires column 'income'"):
        deploy("scores", 2, by="test")
    assert served(home) == {1: 100}
    deploy("scores", 2, by="test", force="callers send it since May")  # a decision that a person may take
    assert served(home) == {1: 0, 2: 100}
    rollback("scores", by="test")  # the way back asks nobody
    assert served(home) == {1: 100, 2: 0}


def test_an_endpoint_belongs_to_one_model(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy

    register(1)
    register(2, name="others")
    deploy("scores", endpoint="public", by="test")
    with pytest.raises(Conflict, match="serves model 'scores'"):
        deploy("others", endpoint="public", by="test")
    with pytest.raises(NotFound):
        deploy("nothing", by="test")
    with pytest.raises(InvalidInput, match="reserved"):
        deploy("scores", endpoint="metrics", by="test")


def test_one_endpoint_is_the_default(home: Home, register) -> None:
    from modelyard.control.deployments.services import configure, deploy

    register()
    deploy("scores", by="test")
    deploy("scores", endpoint="again", by="test")
    configure("scores", by="test", is_default=True)
    configure("again", by="test", is_default=True, max_rows=5)
    plan = read_plan(home)
    assert plan.default_endpoint == "again"
    assert [endpoint.max_rows for endpoint in plan.endpoints if endpoint.name == "again"] == [5]


def test_a_rollback_ends_a_split_in_favour_of_who_has_most(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, rollback, set_traffic

    for seed in (1, 2):
        register(seed)
    deploy("scores", 1, by="test")
    set_traffic("scores", TrafficSplit({1: 90, 2: 10}), by="test")
    rollback("scores", by="test")
    assert served(home) == {1: 100, 2: 0}


def test_the_newest_version_is_deployed_and_becomes_the_champion(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy, rollback
    from modelyard.control.registry.services import find_version

    for seed in (1, 2):
        register(seed)
        deploy("scores", by="test")
        assert find_version("scores", "champion").number == seed
    assert served(home) == {1: 0, 2: 100}
    rollback("scores", by="test")
    assert find_version("scores").number == 1


def test_a_refused_version_is_not_the_champion(home: Home, register) -> None:
    from modelyard.control.deployments.served import deploy_and_wait
    from modelyard.control.registry.services import find_version

    for seed in (1, 2):
        register(seed)
    deploy_and_wait("scores", 1, by="test")
    write_state(home, WorkerState(0, 1, revision=1, refused=99, reason="no memory"))
    with pytest.raises(NotReady):
        deploy_and_wait("scores", by="test")
    assert find_version("scores").number == 1


def test_aliases_of_held_versions_travel_in_the_plan(home: Home, register) -> None:
    from modelyard.control.deployments.services import deploy
    from modelyard.control.registry.services import set_alias

    for seed in (1, 2, 3):
        register(seed)
    deploy("scores", 2, by="test")
    set_alias("scores", "stable", 2, by="test")
    set_alias("scores", "newest", 3, by="test")
    assert read_plan(home).endpoints[0].aliases == {"champion": 2, "stable": 2}


def write_state(home: Home, *workers: WorkerState, pid: int | None = None) -> None:
    state = GatewayState(pid or os.getpid(), "http://127.0.0.1:8000", time.time(), workers)
    home.gateway_state.write_bytes(msgspec.json.encode(state))


def test_nobody_is_waited_for_without_a_gateway(home: Home) -> None:
    assert wait_until_served(home, 1) is None
    write_state(home, pid=2**22 + 1)  # above any process id that Linux gives
    assert wait_until_served(home, 1) is None


def test_every_worker_is_waited_for(home: Home) -> None:
    write_state(home, WorkerState(0, 1, revision=3), WorkerState(1, 2, revision=2))
    steps = []

    def catch_up(pause_s: float) -> None:
        steps.append(pause_s)
        write_state(home, WorkerState(0, 1, revision=3), WorkerState(1, 2, revision=3))

    state = wait_until_served(home, 3, sleep=catch_up)
    assert state is not None
    assert len(steps) == 1


def test_a_refusal_is_told_in_the_workers_words(home: Home) -> None:
    write_state(home, WorkerState(0, 1, revision=2, refused=3, reason="the graph does not load"))
    with pytest.raises(Refused, match="the graph does not load"):
        wait_until_served(home, 3)
    with pytest.raises(NotReady, match="after 0 s"):
        wait_until_served(home, 4, timeout_s=0)


def test_a_refused_deployment_is_taken_back(home: Home, register) -> None:
    from modelyard.control.deployments.served import deploy_and_wait

    register(1)
    register(2)
    deploy_and_wait("scores", 1, by="test")
    write_state(home, WorkerState(0, 1, revision=1, refused=99, reason="no memory"))
    with pytest.raises(NotReady, match=r"no memory; the versions that served before still do"):
        deploy_and_wait("scores", 2, by="test")
    assert served(home) == {1: 100}


def test_a_first_deployment_that_is_refused_leaves_no_endpoint(home: Home, register) -> None:
    from modelyard.control.deployments.served import deploy_and_wait

    register()
    write_state(home, WorkerState(0, 1, refused=99, reason="no memory"))
    with pytest.raises(NotReady, match="taken away again"):
        deploy_and_wait("scores", 1, by="test")
    assert read_plan(home).endpoints == ()
