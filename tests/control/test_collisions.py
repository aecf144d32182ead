"""Several people and programs at once, each with a connection of their own: one is told, nothing is lost, none waits
for another that waits for it."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kit.gateway import until
from kit.postgres import Server
from modelyard.contract.errors import Conflict
from modelyard.contract.home import Home
from modelyard.contract.plan import TrafficSplit
from modelyard.control.deployments.reading import read_plan
from modelyard.control.setup import active_settings, environment_of

SPLITS = [TrafficSplit({1: 70, 2: 30}), TrafficSplit({1: 20, 2: 80})]


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Do them at one moment, each on a connection of its own; what each gave, or raised."""
    from django.db import connections

    together, given = threading.Barrier(len(acts)), [None] * len(acts)

    def run(number: int, act: Callable[[], Any]) -> None:
        try:
            together.wait(20)
            given[number] = act()
        except Exception as error:
            given[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return given


@pytest.fixture
def shared(home: Home, register) -> Home:
    """An endpoint with two versions."""
    from modelyard.control.deployments.services import deploy

    register(1)
    register(2)
    deploy("scores", 1, by="test")
    return home


def test_of_two_who_change_the_same_split_one_is_told(shared: Home) -> None:
    from modelyard.control.deployments.services import find_endpoint, set_traffic
    from modelyard.control.registry.models import Event

    before = Event.objects.filter(verb="set_traffic").count()
    for _ in range(8):
        seen = find_endpoint("scores").revision
        given = at_once(
            *(
                partial(set_traffic, "scores", split, by=f"person {number}", expected=seen)
                for number, split in enumerate(SPLITS)
            )
        )
        lost = [answer for answer in given if isinstance(answer, Exception)]
        assert [type(error) for error in lost] == [Conflict], given
        assert "changed meanwhile" in str(lost[0])
        winner = next(number for number, answer in enumerate(given) if not isinstance(answer, Exception))
        row, plan = find_endpoint("scores"), read_plan(shared)
        assert plan.endpoints[0].split.weights == SPLITS[winner].weights
        assert plan.revision == row.revision == given[winner].revision
        assert Event.objects.first().by == f"person {winner}"
    assert Event.objects.filter(verb="set_traffic").count() == before + 8


def test_two_who_do_not_look_are_both_done_one_after_the_other(shared: Home) -> None:
    from modelyard.control.deployments.services import find_endpoint, set_traffic
    from modelyard.control.registry.models import Event

    for _ in range(8):
        given = at_once(
            *(partial(set_traffic, "scores", split, by=f"person {number}") for number, split in enumerate(SPLITS))
        )
        assert not [answer for answer in given if isinstance(answer, Exception)]
        last = max((0, 1), key=lambda by: given[by].revision)
        assert read_plan(shared).endpoints[0].split.weights == SPLITS[last].weights
        assert find_endpoint("scores").revision == given[last].revision
        first, second = Event.objects.filter(verb="set_traffic")[:2]
        assert {first.by, second.by} == {"person 0", "person 1"}
        assert first.by == f"person {last}"
        assert first.details["before"] == {
            str(number): weight for number, weight in SPLITS[1 - last].weights.items()
        }  # who came second saw what the first had done


def test_an_endpoint_is_made_once(home: Home, register) -> None:
    from modelyard.control.deployments.models import Endpoint
    from modelyard.control.deployments.services import deploy

    register(1)
    for number in range(4):
        given = at_once(*[partial(deploy, "scores", 1, endpoint=f"new{number}", by="test")] * 3)
        assert not [answer for answer in given if isinstance(answer, Exception)]
        assert Endpoint.objects.filter(name=f"new{number}").count() == 1


def test_versions_are_numbered_without_gaps(home: Home, register) -> None:
    from modelyard.control.registry.models import Version

    register(0)
    given = at_once(*(partial(register, seed) for seed in range(1, 9)))
    assert sorted(given) == list(range(2, 10))
    assert sorted(Version.objects.values_list("number", flat=True)) == list(range(1, 10))


def test_a_key_is_not_lost_among_others(home: Home) -> None:
    from modelyard.control.accounts.services import create_key

    given = at_once(
        *(lambda number=number: create_key("somebody", ["infer"], by=f"person {number}") for number in range(6))
    )
    assert {key.public_id for key, _ in given} == {planned.id for planned in read_plan(home).keys}


@pytest.mark.parametrize("home", ["postgresql"], indirect=True)
def test_nobody_asks_for_the_model_after_the_publication(shared: Home, postgres: Server) -> None:
    """Or whoever holds the model and then asks for the publication would wait for who waits for the model."""
    from django.db import transaction

    from modelyard.control.deployments.publish import request_publication
    from modelyard.control.deployments.services import deploy, set_traffic
    from modelyard.control.registry.services import set_alias

    deploy("scores", 1, endpoint="public", by="test")
    held = threading.Event()
    name = active_settings().database_url.split("?")[0].rpartition("/")[2]
    waiting = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"  # noqa: S608

    def alias() -> int:
        with transaction.atomic():
            set_alias("scores", "champion", 1, by="somebody")  # takes the model, and finds nothing to do
            held.set()
            until(lambda: postgres.sql(waiting), "the other one waits", 20)
            return request_publication()

    def traffic() -> int:
        held.wait(20)
        return set_traffic("public", SPLITS[0], by="test").revision

    first, second = at_once(alias, traffic)
    assert second == first + 1
    assert read_plan(shared).revision == second


WORKER = """
import json, random, sys
from modelyard.control.setup import start
start()
from django.db import Error
from modelyard.contract.errors import ModelyardError
from modelyard.contract.plan import Shadow, TrafficSplit
from modelyard.control.accounts.services import create_key
from modelyard.control.archive.services import collect
from modelyard.control.database import error_of
from modelyard.control.deployments import services
from modelyard.control.deployments.publish import publish_if_needed
from modelyard.control.registry.services import describe, find_version, set_alias

chance = random.Random(int(sys.argv[1]))
by = f"person {sys.argv[1]}"
pairs = [(one, other) for one in range(1, 5) for other in range(1, 5) if one != other]
splits = [TrafficSplit({one: share, other: 100 - share}) for one, other in pairs for share in (1, 50)]
acts = {
    "set_traffic": lambda name: services.set_traffic(name, chance.choice(splits), by=by),
    "set_shadow": lambda name: services.set_shadow(name, Shadow(chance.randint(1, 4)), by=by),
    "deploy": lambda name: services.deploy("scores", chance.randint(1, 4), endpoint=name, by=by),
    "rollback": lambda name: services.rollback(name, by=by),
    "configure": lambda name: services.configure(name, by, is_default=chance.random() < 0.7),
    "set_alias": lambda name: set_alias("scores", chance.choice(["stable", "newest"]), chance.randint(1, 4), by=by),
    "describe": lambda name: describe("scores", f"text {chance.random()}", by=by),
    "create_key": lambda name: create_key("somebody", ["infer"], by=by),
    "collect": lambda name: collect(by, keep=1, older_than_days=0.0),
    "publish": lambda name: publish_if_needed(),
}
sys.stdin.readline()
done, refused, broken = 0, [], []
for _ in range(int(sys.argv[2])):
    verb = chance.choice(list(acts))
    try:
        acts[verb](chance.choice(["scores", "public", "other"]))
        done += 1
    except ModelyardError as error:
        refused.append([verb, error.code, str(error)])
    except Error as error:
        broken.append([verb, type(error).__name__, str(error), str(error_of(error))])
print(json.dumps({"done": done, "refused": refused, "broken": broken}))
"""


@pytest.mark.timeout(200)
def test_many_who_change_everything_never_wait_for_each_other(home: Home, register) -> None:
    from django.db import connection

    from modelyard.control.deployments.models import Deployment, Endpoint, Publication
    from modelyard.control.deployments.services import deploy

    for seed in (1, 2, 3, 4, 5):
        register(seed)
    for name in ("scores", "public", "other"):
        deploy("scores", 1, endpoint=name, by="test")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number), "50"],
            env=environment_of(active_settings()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    said = [json.loads(process.communicate("go\n", timeout=180)[0]) for process in processes]
    assert [report["broken"] for report in said] == [[]] * 4
    refusals = [refusal for report in said for refusal in report["refused"]]
    assert {code for _, code, _ in refusals} <= {"conflict", "not_found"}, (
        refusals
    )  # collected, or nothing to go back to
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            assert cursor.fetchone() == (0,)
    plan, publication = read_plan(home), Publication.objects.get()
    assert publication.committed == publication.published == plan.revision
    for endpoint in Endpoint.objects.all():
        rows = Deployment.objects.filter(endpoint=endpoint).values_list("version__number", "weight")
        weights = {number: weight for number, weight in rows if weight}
        assert sum(weights.values()) == 100
        assert next(one for one in plan.endpoints if one.name == endpoint.name).split.weights == weights
    assert Endpoint.objects.filter(is_default=True).count() <= 1


CLAIMER = """
import sys
from modelyard.control.setup import start
start()
from modelyard.control.jobs import services
sys.stdin.readline()
while (job := services.claim(f"runner {sys.argv[1]}")) is not None:
    print(job.pk, flush=True)
"""


def test_many_runners_in_processes_of_their_own_never_share_a_job(home: Home) -> None:
    from modelyard.control.jobs.models import Job
    from modelyard.control.jobs.services import enqueue

    wanted = [enqueue("modelyard.control.training.work.table_job", {}, by="test").pk for _ in range(60)]
    runners = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(number)],
            env=environment_of(active_settings()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    claimed = [int(line) for runner in runners for line in runner.communicate("go\n", timeout=90)[0].split()]
    assert [runner.returncode for runner in runners] == [0] * 4
    assert sorted(claimed) == sorted(wanted)
    assert set(Job.objects.values_list("attempt", flat=True)) == {1}
