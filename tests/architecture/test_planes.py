"""Each process is started for real, and must sleep through what the other planes need."""

import json
import subprocess
import sys

import pytest

HEAVY = ["django", "pandas", "sklearn", "lightgbm", "torch", "polars"]
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
        ("import modelyard.serve.main", [*HEAVY, *OTHER_ROOMS]),  # the gateway
        ("import modelyard.serve.fleet", ["onnxruntime", *HEAVY, *OTHER_ROOMS]),  # its parent computes nothing
        ("import modelyard.client", [*HEAVY, *OTHER_ROOMS, "modelyard.serve", "onnxruntime"]),
        ("import modelyard", ["numpy", "onnxruntime", "httpx", *HEAVY]),  # the front door is lazy
        ("import modelyard.cli.main", ["onnxruntime", *HEAVY, "modelyard.serve", "modelyard.control"]),
    ],
    ids=["gateway", "gateway parent", "client", "front door", "command line"],
)
def test_a_process_wakes_only_its_own_wing(statement: str, asleep: list[str]) -> None:
    assert sorted(modules_after(statement) & set(asleep)) == []
