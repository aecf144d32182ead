"""The whole product on PostgreSQL: it trains, deploys, answers, outlives its database, moves, and is upgraded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.callers import Callers
from kit.gateway import until
from kit.postgres import PASSWORD, Server, shared_server
from kit.product import Product

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

TABLE = Path(__file__).parents[2] / "src/modelyard/blueprints/credit_scoring/data/german_credit.csv"
OLDER = Path(__file__).parents[1] / "upgrade/0.1.0.tar.gz"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server of this story's own: it is stopped and started again."""
    return shared_server(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def product(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One model trained and deployed, with everything up."""
    product = Product(tmp_path_factory.mktemp("bank") / "home", server.url(server.create()))
    product.password = re.search(r"password (\S+)", product.run("init").stderr)[1]
    learn = ["--target", "creditability", "--candidates", "scorecard"]  # the quickest: this is not about quality
    product.run("train", str(TABLE), "--name", "german", *learn)
    product.run("deploy", "german")
    with product.up():
        yield product


@pytest.fixture(scope="module")
def manager(product: Product) -> Iterator[httpx.Client]:
    """The administrator, over the management API."""
    with httpx.Client(base_url=f"{product.control_url}/api/v1", timeout=30) as client:
        asked = client.post("/token", json={"username": "admin", "password": product.password})
        client.headers["Authorization"] = f"Bearer {asked.json()['token']}"
        yield client


@contextlib.contextmanager
def calling(product: Product, name: str) -> Iterator[list[int]]:
    """Four callers without pause; none of them may fail."""
    example = httpx.get(f"{product.url}/{name}").json()["example"]
    answers: list[int] = []

    def keep(status: int, body: Any, row: dict[str, Any]) -> None:
        answers.append(status)

    callers = Callers(product.gateway_port, f"/{name}", [example], keep).start(4)
    try:
        yield answers
        before = len(answers)
        until(lambda: len(answers) > before + 100, "calls go on")
    finally:
        callers.stop()
    assert callers.failures == []
    assert set(answers) == {200}


def test_it_is_all_in_the_database_and_nothing_in_a_file(product: Product, server: Server) -> None:
    name = product.environment["MODELYARD_DATABASE_URL"].rpartition("/")[2]
    assert server.sql("SELECT count(*) FROM registry_version", name) == [(1,)]
    assert not list(product.root.glob("*.sqlite3*"))
    assert product.post("/german", httpx.get(f"{product.url}/german").json()["example"]).status_code == 200


def test_nobody_tells_the_password(product: Product) -> None:
    url = product.environment["MODELYARD_DATABASE_URL"]
    escaped = re.search(r"yard:(.*)@", url)[1]
    said = [product.run(*words).stdout for words in (("config", "show"), ("config", "show", "--json"))]
    said += [product.run("doctor", "--json", expect=status).stdout for status in (0,)]
    said += [product.run("status", "--json").stdout]
    kept = [path for path in product.root.rglob("*") if path.is_file() and path.suffix not in (".key", ".pub")]
    said += [path.read_bytes().decode("utf-8", "replace") for path in kept]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            said.append(process.read_bytes().decode("utf-8", "replace"))
    assert len(said) > 20
    for text in said:
        assert PASSWORD not in text
        assert escaped not in text
    assert "postgres://***@127.0.0.1" in said[0]


def test_jobs_run_on_it(product: Product, manager: httpx.Client) -> None:
    tables = product.root / "tables"
    tables.mkdir(mode=0o700)
    (tables / "german.csv").write_bytes(TABLE.read_bytes())
    recipe = {"candidates": ["scorecard"], "seed": 3}
    asked = manager.post(
        "/runs", json={"table": "german.csv", "name": "german", "target": "creditability", "recipe": recipe}
    )
    assert asked.status_code in (201, 202), asked.text
    run = asked.json()["id"]
    until(lambda: manager.get(f"/runs/{run}").json()["status"] not in ("queued", "running"), "the run has ended", 120)
    assert manager.get(f"/runs/{run}").json()["status"] == "succeeded"


def test_the_database_stops_and_only_control_notices(product: Product, manager: httpx.Client, server: Server) -> None:
    pid = int((product.root / "run" / "control.pid").read_text())
    assert manager.get("/models").status_code == 200
    with calling(product, "german") as answers:
        server.stop()
        away = manager.get("/models")
        assert away.status_code == 503
        assert int(away.headers["Retry-After"]) >= 1
        assert away.json()["code"] == "not_ready"
        refused = product.run("deploy", "german", "--version", "1", expect=1)
        assert "does not answer" in refused.stderr
        assert "Traceback" not in refused.stderr
        findings = {line["check"]: line for line in product_json(product, "doctor", expect=1)}
        assert findings["database"]["level"] == "fail"
        assert findings["plan"]["level"] == "ok"
        before = len(answers)
        until(lambda: len(answers) > before + 500, "calls go on without a database")
        server.start()
        until(lambda: manager.get("/models").status_code == 200, "control is back", 30)
        product.run("deploy", "german", "--endpoint", "again")
        until(lambda: httpx.get(f"{product.url}/again").status_code == 200, "what was deployed is served", 10)
    assert int((product.root / "run" / "control.pid").read_text()) == pid  # it waited, it was not replaced
    jobs = (product.root / "logs" / "jobs.log").read_text()
    assert jobs.count("the database does not answer") == jobs.count("the database answers again") == 1
    assert "Traceback" not in jobs
    assert "Traceback" not in (product.root / "logs" / "control.log").read_text()


def product_json(product: Product, *words: str, expect: int) -> Any:
    import json

    return json.loads(product.run(*words, "--json", expect=expect).stdout)


def test_a_newer_release_comes_and_processes_of_this_one_leave(
    product: Product, manager: httpx.Client, server: Server
) -> None:
    name = product.environment["MODELYARD_DATABASE_URL"].rpartition("/")[2]
    control, jobs = (product.root / "logs" / f"{process}.log" for process in ("control", "jobs"))
    pid = int((product.root / "run" / "control.pid").read_text())
    with calling(product, "german"):
        step = "('jobs', '9999_later', now())"
        server.sql(f"INSERT INTO django_migrations (app, name, applied) VALUES {step}", name)  # noqa: S608
        until(lambda: "newer release" in jobs.read_text(), "jobs notices", 30)
        refused = manager.get("/models")
        assert refused.status_code == 503
        assert "newer release" in refused.json()["detail"]
        until(lambda: not product.is_ready(), "control ends", 30)
        assert "jobs.9999_later" in product.run("deploy", "german", expect=1).stderr
        server.sql("DELETE FROM django_migrations WHERE app = 'jobs' AND name = '9999_later'", name)
        until(product.is_ready, "a control process comes that knows every step", 60)
    assert int((product.root / "run" / "control.pid").read_text()) != pid
    for log in (control, jobs):
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_backup_of_it_serves_elsewhere(product: Product, server: Server, kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "yard.tar.gz"
    with calling(product, "german"):
        product.run("backup", str(archive))
    other = Product(tmp_path / "other", server.url(server.create()) if kind == "postgresql" else "")
    other.run("restore", str(archive))
    assert (other.root / "control.sqlite3").exists() == (kind == "sqlite")
    with other.up():
        example = httpx.get(f"{other.url}/german").json()["example"]
        mine, theirs = (one.post("/german", example).json() for one in (product, other))
        assert mine["probability"] == theirs["probability"]
        other.run("deploy", "german", "--version", "1")
        assert other.json("models", "list") == product.json("models", "list")


def test_it_comes_up_without_its_database_and_serves(server: Server, tmp_path: Path) -> None:
    product = Product(tmp_path / "home", server.url(server.create()))
    product.run("train", str(TABLE), "--target", "creditability", "--name", "german", "--candidates", "scorecard")
    product.run("deploy", "german")
    server.stop()
    with coming_up(product) as process:
        until(lambda: serves(product), "the gateway serves the plan that lies there", 60)
        example = httpx.get(f"{product.url}/german").json()["example"]
        assert product.post("/german", example).status_code == 200
        assert process.poll() is None
        server.start()
        until(product.is_ready, "control has come by itself", 60)
        product.run("deploy", "german", "--endpoint", "again")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_older_home_serves_while_it_is_upgraded(server: Server, kind: str, tmp_path: Path) -> None:
    product = Product(tmp_path / "home", server.url(server.create()) if kind == "postgresql" else "")
    product.run("restore", str(OLDER))
    key = product.run("keys", "list", expect=1)
    assert "modelyard upgrade" in key.stderr
    with coming_up(product) as process:
        until(lambda: serves(product), "the gateway serves the older release's plan", 60)
        with calling(product, "public"):
            said = product.run("upgrade")
            assert "done: registry.0002" in said.stdout
            until(product.is_ready, "control has come by itself", 60)
            product.run("deploy", "loans", "--version", "1", "--endpoint", "public")
        assert process.poll() is None
        assert product.json("keys", "list")
    saved = next((product.root / "backups").glob("before-upgrade-*.tar.gz"))
    assert saved.stat().st_mode & 0o777 == 0o600


def serves(product: Product) -> bool:
    """Whether the gateway answers."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{product.url}/readyz", timeout=5).status_code == 200
    return False


@contextlib.contextmanager
def coming_up(product: Product) -> Iterator[Any]:
    """`modelyard up`, without waiting for control."""
    import signal
    import subprocess

    from kit.product import COMMAND

    log = product.root.parent / "up.log"
    with open(log, "ab") as output:
        process = subprocess.Popen([COMMAND, "up"], env=product.environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
