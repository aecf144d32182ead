"""Changes through real processes: an approval is missing, then given; sticky callers move as told; two collide."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.gateway import until
from kit.product import Product

pytestmark = [pytest.mark.journey, pytest.mark.timeout(240)]

KIT = str(Path(__file__).parents[1])
PREPARE = """
import json
from pathlib import Path
from kit.graphs import heavy, store_graph
from modelyard.artifacts.store import Shelf
from modelyard.control.setup import start
settings = start()
from django.contrib.auth import get_user_model
from modelyard.control.accounts.services import create_token
from modelyard.control.deployments.services import deploy
from modelyard.control.registry.services import register_version
shelf = Shelf(Path(settings.home) / "shelf")
for graph in (heavy(0.0, 1), heavy(0.0, 2), heavy(0.0, 3)):
    digest = store_graph(shelf, graph, "sums")
    register_version(shelf.open(digest).manifest, digest, "test")
deploy("sums", 1, by="test")
users = [get_user_model().objects.create_superuser(name) for name in ("li", "wang")]
print(json.dumps({user.username: create_token(user)[1] for user in users}))
"""
CUSTOMERS = [f"customer-{number}" for number in range(80)]


class Desk(Product):
    """The product, and two people with tokens of its management API."""

    tokens: dict[str, str]

    def send(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request to the management API."""
        headers["Authorization"] = f"Bearer {self.tokens[who]}"
        return httpx.request(method, f"{self.control_url}/api/v1/{path}", json=body, headers=headers, timeout=60)

    def approve(self, number: int) -> None:
        """As wang, at the command line."""
        self.environment["MODELYARD_TOKEN"] = self.tokens["wang"]
        self.run("approve", str(number), "--as", "wang")
        del self.environment["MODELYARD_TOKEN"]

    def split(self) -> dict[str, int]:
        """Which version each customer gets."""
        with httpx.Client(timeout=20) as client:
            answers = {
                name: client.post(f"{self.url}/sums", json={"x": 1.0, "y": 1.0}, headers={"X-Customer": name})
                for name in CUSTOMERS
            }
        assert {answer.status_code for answer in answers.values()} == {200}
        return {name: answer.json()["version"] for name, answer in answers.items()}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Desk]:
    """Version 1 serves; everything runs."""
    desk = Desk(tmp_path_factory.mktemp("changes") / "home")
    desk.environment |= {"PYTHONPATH": KIT, "MODELYARD_DATABASE_URL": database_url}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE], env=desk.environment, check=True, timeout=120, capture_output=True, text=True
    )
    desk.tokens = json.loads(done.stdout)
    with desk.up():
        yield desk


class Callers:
    """Calls without pause, who say what they were answered."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[float, int, int]] = []  # when, status, version
        self._url = f"{url}/sums"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(3)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def since(self, moment: float) -> Counter[int]:
        """Which versions answered calls that were sent from then on."""
        return Counter(version for at, _, version in self.answers if at >= moment)

    def _call(self) -> None:
        with httpx.Client(timeout=20) as client:
            while not self._stop.is_set():
                at = time.monotonic()
                reply = client.post(self._url, json={"x": 2.0, "y": 1.0})
                self.answers.append((at, reply.status_code, reply.json().get("version", 0)))


def test_an_approval_is_missing_and_then_given(desk: Desk) -> None:
    desk.run("endpoint", "configure", "sums", "--needs-approval")
    with Callers(desk.url) as callers:
        said = desk.run("traffic", "sums", "1=50", "2=50").stdout
        (waiting,) = desk.json("changes")
        assert f"change {waiting['id']} waits" in said
        asked = time.monotonic()
        until(lambda: callers.since(asked).total() > 100, "calls while it waits")
        assert callers.since(asked).keys() == {1}
        refused = desk.send("li", "POST", "deployments", {"model": "sums", "version": "2"})
        assert refused.status_code == 202
        own = desk.send("li", "POST", f"changes/{refused.json()['id']}/approve")
        assert (own.status_code, own.json()["code"]) == (403, "forbidden")
        desk.approve(waiting["id"])
        given = time.monotonic()
        until(lambda: callers.since(given).total() > 200, "calls after the approval")
        assert callers.since(given).keys() == {1, 2}
        stale = desk.send("wang", "POST", f"changes/{refused.json()['id']}/approve")
        assert (stale.status_code, stale.json()["code"]) == (409, "conflict")
    assert {status for _, status, _ in callers.answers} == {200}
    events = desk.send("li", "GET", "models/sums/events").json()["results"]
    event = next(event for event in events if event["verb"] == "set_traffic")
    assert event["by"].startswith("local:")
    assert event["details"]["approved_by"] == "wang"
    off = desk.send("li", "PUT", "endpoints/sums", {"needs_approval": False})
    assert off.status_code == 202
    desk.approve(off.json()["id"])


def test_raising_a_share_moves_callers_to_it_and_nobody_else(desk: Desk) -> None:
    desk.run("traffic", "sums", "1=80", "2=20", "--sticky-by", "X-Customer")
    before = desk.split()
    assert before == desk.split()
    assert set(before.values()) == {1, 2}
    desk.run("traffic", "sums", "1=50", "2=50")
    half = desk.split()
    assert all(now == 2 for name, now in half.items() if now != before[name])
    desk.run("traffic", "sums", "1=30", "2=45", "3=25")
    third = desk.split()
    assert all(now == 3 for name, now in third.items() if now != half[name])
    assert 3 in third.values()


def test_of_two_who_change_the_same_one_is_told_and_nothing_is_lost(desk: Desk) -> None:
    tag = desk.send("li", "GET", "endpoints/sums").headers["ETag"]
    wanted = {"li": {"1": 90, "2": 10}, "wang": {"1": 60, "3": 40}}
    ready, said = threading.Barrier(2), dict[str, httpx.Response]()

    def change(who: str) -> None:
        ready.wait()
        said[who] = desk.send(who, "PUT", "endpoints/sums/traffic", {"weights": wanted[who]}, **{"If-Match": tag})

    threads = [threading.Thread(target=change, args=(who,)) for who in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(reply.status_code for reply in said.values()) == [200, 409]
    winner = next(who for who, reply in said.items() if reply.status_code == 200)
    loser = next(who for who in wanted if who != winner)
    assert said[loser].json()["code"] == "conflict"
    assert said[winner].json()["served"] is True
    now = desk.send("li", "GET", "endpoints/sums")
    assert {number: weight for number, weight in now.json()["weights"].items() if weight} == wanted[winner]
    again = desk.send(
        loser, "PUT", "endpoints/sums/traffic", {"weights": wanted[loser]}, **{"If-Match": now.headers["ETag"]}
    )
    assert again.status_code == 200
    seen = str(said[winner].json()["revision"])
    assert "was changed meanwhile" in desk.run("traffic", "sums", "1=100", "--expect", seen, expect=1).stderr


def test_a_shadow_never_changes_an_answer(desk: Desk) -> None:
    desk.run("deploy", "sums", "--version", "1")
    with Callers(desk.url) as callers:
        desk.run("shadow", "sums", "2")
        began = time.monotonic()
        until(lambda: callers.since(began).total() > 200, "calls with a shadow")
        desk.run("shadow", "sums", "--off")
    assert callers.since(0.0).keys() == {1}
    assert {status for _, status, _ in callers.answers} == {200}
