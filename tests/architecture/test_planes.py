"""Each process is started for real, and must sleep through what the other planes need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lightgbm
import pytest

from kit.applicants import CODES, WHOLE, fitted
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.optimise.register import package_model

HEAVY = ["django", "pandas", "sklearn", "lightgbm", "xgboost", "skops", "torch", "polars"]
OTHER_ROOMS = ["modelyard.control", "modelyard.data", "modelyard.train", "modelyard.optimise"]


def modules_after(statement: str) -> set[str]:
    """The names in `sys.modules` of a new interpreter that ran `statement`."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "asleep"),
    [
        ("import modelyard.serve.main", ["rich", *HEAVY, *OTHER_ROOMS]),  # the gateway
        ("import modelyard.serve.fleet", ["onnxruntime", "rich", *HEAVY, *OTHER_ROOMS]),  # its parent computes nothing
        ("import modelyard.serve.worker", ["onnxruntime", "rich", *HEAVY, *OTHER_ROOMS]),  # unless its version asks
        ("import rich.console, modelyard.serve.log, rich.table", []),  # what hides from structlog is there for others
        ("import modelyard.client", [*HEAVY, *OTHER_ROOMS, "modelyard.serve", "onnxruntime"]),
        ("import modelyard", ["numpy", "onnxruntime", "httpx", *HEAVY]),  # the front door is lazy
        ("import modelyard.cli.main", ["onnxruntime", *HEAVY, "modelyard.serve", "modelyard.control"]),
    ],
    ids=["gateway", "gateway parent", "model worker", "who has a console", "client", "front door", "command line"],
)
def test_a_process_wakes_only_its_own_wing(statement: str, asleep: list[str]) -> None:
    assert sorted(modules_after(statement) & set(asleep)) == []


ASKED = """
from pathlib import Path
import numpy as np
from kit.model_workers import model_workers
with model_workers(Path({home!r})) as workers:
    version = workers.open({digest!r})
    version.predict(np.zeros((3, 2), dtype=np.float32))
    version.explain(np.zeros((3, 2), dtype=np.float32))
    version.close()
"""


def test_who_asks_a_model_worker_and_who_supervises_it_sleep_through_its_framework(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    model = fitted(lightgbm.LGBMClassifier(n_estimators=3, verbosity=-1), WHOLE, CODES)
    shelf = Shelf(Home(tmp_path).shelf)
    digest = shelf.put(*package_model(model, WHOLE, "loans", runtime="native"))
    woken = modules_after(ASKED.format(home=str(tmp_path), digest=digest))
    assert sorted(woken & {*HEAVY, *OTHER_ROOMS, "onnxruntime"}) == []
