"""What the kernel tells of processes: their descendants, processor time and memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")


class Memory(msgspec.Struct, frozen=True):
    """Memory of several processes together, in bytes."""

    proportional: int  # what they share is counted once (PSS)
    resident: int  # what they share is counted for each (RSS)

    @classmethod
    def of(cls, pids: list[int]) -> Memory | None:
        """Of all these processes; None where the kernel does not tell."""
        found = [sizes for pid in pids if (sizes := _sizes(pid)) is not None]
        return cls(sum(p for p, _ in found), sum(r for _, r in found)) if found else None


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pids: list[int]) -> float | None:
    """Processor seconds that these processes have used; None where the kernel does not tell."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            if not Path("/proc/self/stat").exists():
                return None
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds; None where the kernel does not tell, or the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _sizes(pid: int) -> tuple[int, int] | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines[1:])
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("Pss", "Rss"))  # type: ignore[return-value]
