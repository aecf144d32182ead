"""Memory is counted as the kernel counts it, the limits of a container included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelyard.contract import memory


def test_a_process_that_takes_memory_is_seen_to() -> None:
    before = memory.resident_bytes(os.getpid())
    held = np.ones(10_000_000)
    after = memory.resident_bytes(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before > held.nbytes // 2


def test_a_process_that_is_gone_holds_nothing_that_is_known() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(30)
    assert memory.resident_bytes(process.pid) is None


def test_the_kernel_s_count_is_a_count() -> None:
    assert memory.oom_kills() >= 0


@pytest.mark.parametrize(
    ("own", "above", "limit"),
    [("max", "max", None), ("1048576", "max", 1 << 20), ("max", "2097152", 2 << 20), ("3145728", "2097152", 2 << 20)],
)
def test_the_smallest_limit_of_the_control_groups_counts(
    own: str, above: str, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "service" / "gateway"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(own + "\n")
    (folder.parent / "memory.max").write_text(above + "\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_own_entry", lambda: "/service/gateway")
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.machine_bytes() == (physical if limit is None else limit)
