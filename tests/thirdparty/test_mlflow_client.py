"""MLflow's own scoring client gets the right answers from a gateway, however it writes its data."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from kit.apart import python_of
from kit.forms import a_plan, a_row, store_all
from kit.gateway import gateway
from kit.versions import expected
from modelyard import __version__
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home

pytestmark = [pytest.mark.thirdparty, pytest.mark.xdist_group("mlflow-client"), pytest.mark.timeout(700)]

ROWS = [a_row(random.Random(seed)) for seed in range(40)]


def test_mlflows_scoring_client_gets_every_answer(tmp_path: Path) -> None:
    root = tmp_path / "home"
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(ROWS))
    digests = store_all(Shelf(Home(root).prepare().shelf))
    with gateway(root, a_plan(1, digests)) as running:
        done = subprocess.run(
            [python_of("mlflow"), Path(__file__).with_name("mlflow_session.py"), "127.0.0.1", str(running.port), rows],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    right = [expected(row) for row in ROWS]
    for name in ("frame", "frame_with_params", "list", "array", "records", "instances", "columns"):
        assert said[name] == pytest.approx(right, abs=1e-6), name
    assert set(said["as_frame"]) == {"probability", "score", "decision"}
    assert said["version"] == __version__
    assert "error code 400" in said["wrong"]
    assert "must be at least 18" in said["wrong"]
    assert "'params' is left out or empty" in said["params"]
