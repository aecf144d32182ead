"""A tool that is not ours reads the API document, calls every operation with what it allows and what it does not, and
holds each answer to it: status, headers, media type, body."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.apart import python_of
from kit.forms import a_plan, store_all
from kit.gateway import Gateway, gateway
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

pytestmark = [pytest.mark.journey, pytest.mark.thirdparty, pytest.mark.timeout(400)]

# Deadlines are sent too: then 504 is right. The protocols' requests have rules that no schema tells, such as a shape
# that must fit its data; that the schema of a *row* is exact is tests/serve/test_openapi.py's to show.
RULES = '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "4xx", 503, 504]\n'
# How lines are sent, which the tool does not know: as they are.
HOOKS = """
import json

import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return (value if isinstance(value, str) else json.dumps(value)).encode()
"""
NOT_ASKED = "positive_data_acceptance,negative_data_rejection"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    root = tmp_path_factory.mktemp("document") / "home"
    with gateway(root, a_plan(1, store_all(Shelf(Home(root).prepare().shelf)))) as one:
        yield one


@pytest.mark.parametrize(("name", "phases"), [("loans", "examples,coverage,fuzzing"), ("vectors", "examples,fuzzing")])
def test_every_answer_conforms(running: Gateway, tmp_path: Path, name: str, phases: str) -> None:
    tool = Path(python_of("schemathesis")).with_name("schemathesis")
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    (tmp_path / "hooks.py").write_text(HOOKS)
    command = [tool, "--config-file", rules, "run", f"{running.url}/{name}/openapi.json", "--url", running.url]
    command += ["--phases", phases, "--max-examples", "3", "--seed", "1", "--generation-database", "none", "--no-color"]
    command += ["--checks", "all", "--exclude-checks", NOT_ASKED, "--request-timeout", "30"]
    # Unloading would take away what the others ask; the pinned paths are the same operations again.
    command += ["--exclude-path-regex", "repository/models|versions/"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert 'code="internal"' not in running.get("/metrics").text  # no fault of ours among the refusals
