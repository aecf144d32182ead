"""Third-party clients in locked environments of their own, made the first time a test asks for one."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_of(lock: str) -> str:
    """The interpreter of the environment that `requirements/…/{lock}.txt` describes."""
    path = next((ROOT / "requirements").glob(f"*/{lock}.txt"))
    with open(ROOT / ".venv" / f".apart-{lock}.lock", "w") as gate:  # tests run in several processes
        fcntl.flock(gate, fcntl.LOCK_EX)
        subprocess.run([ROOT / "scripts/venv", path.relative_to(ROOT)], check=True, cwd=ROOT, timeout=600)
    return str(ROOT / ".venv/apart" / lock / "bin/python")
