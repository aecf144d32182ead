"""Processes that start a step at one instant: what a race between them leaves behind."""

from __future__ import annotations

import subprocess
import sys

_START = "print('ready', flush=True); sys.stdin.readline()\n"


def race(prepare: str, step: str, *arguments: str, count: int = 4) -> list[str]:
    """The line that each of `count` processes prints in `step`; all prepare first, then start together."""
    program = f"import sys\n{prepare}\n{_START}{step}\n"
    command = [sys.executable, "-c", program, *arguments]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * count
    return lines
