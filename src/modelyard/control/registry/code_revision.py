"""Which revision of whose code made a version: the git revision of the folder where the work is done."""

import os
import subprocess
from pathlib import Path

import msgspec

from modelyard import __version__
from modelyard.artifacts.manifest import Manifest

GIT_S = 5.0  # what asking git may take; where it takes longer, the revision stays unknown
CHANGED = "+changed"  # files that git knows differ from that revision


def git_revision(folder: Path) -> str:
    """The commit that a folder stands at, `+changed` if its files do not; empty where there is no git or no commit."""
    head = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not head:
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules")
    if changed is None:
        return ""
    return head + CHANGED if changed else head


def with_code_revision(manifest: Manifest, folder: Path | None = None) -> Manifest:
    """The manifest with the revision of the working folder in its lineage, and the version of this package."""
    lineage = manifest.lineage
    revision = git_revision(folder or Path.cwd()) or lineage.code_revision
    packages = {"modelyard": __version__, **lineage.packages}
    lineage = msgspec.structs.replace(lineage, code_revision=revision, packages=packages)
    return msgspec.structs.replace(manifest, lineage=lineage)


def _git(folder: Path, *words: str) -> str | None:
    """What git says, or None. A repository's own settings must not make it run programs, nor write anything."""
    inert = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("GIT_", "MODELYARD_"))}
    try:
        done = subprocess.run(
            ["git", *inert, *words],
            cwd=folder,
            env=kept | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
