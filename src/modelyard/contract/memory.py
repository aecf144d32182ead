"""How much memory there is, how much a process holds, and how often the kernel ran out of it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process runs in."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *(limit for folder in _own_cgroups() if (limit := _limit(folder)))])


def resident_bytes(pid: int) -> int | None:
    """The resident memory of a process; None where the kernel does not say (it is gone, or this is not Linux)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None


def tree_bytes(pid: int) -> int:
    """The resident memory of a process and of all that it started and that is still its own; 0 where nobody says."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    tree = [pid]
    for one in tree:
        tree += children.get(one, [])
    return sum(resident_bytes(one) or 0 for one in tree)


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory, in the whole machine; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _own_cgroups() -> list[Path]:
    """The control group of this process and those above it, innermost first (version 2 only)."""
    own = _CGROUPS / _own_entry().lstrip("/")
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(_CGROUPS)]


def _own_entry() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def _limit(folder: Path) -> int | None:
    try:
        text = (folder / "memory.max").read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
