"""The git revision of the working folder goes into a version's lineage, and a repository runs nothing of its own."""

import subprocess
from pathlib import Path

import pytest

from modelyard.contract.home import Home
from modelyard.control.registry.code_revision import CHANGED, git_revision


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "recipe.py").write_text("depth = 3\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_a_folder_stands_at_its_commit(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert git_revision(repository) == head
    (repository / "notes.txt").write_text("not known to git")
    assert git_revision(repository) == head
    (repository / "recipe.py").write_text("depth = 4\n")
    assert git_revision(repository) == head + CHANGED


def test_no_repository_no_commit_no_git_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision(tmp_path) == ""
    git(tmp_path, "init", "--quiet")
    assert git_revision(tmp_path) == ""
    monkeypatch.setenv("PATH", "")
    assert git_revision(tmp_path) == ""


def test_a_repository_runs_nothing_of_its_own(repository: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    git(repository, "config", "core.fsmonitor", f"touch {marker}; false")
    assert git_revision(repository)
    assert not marker.exists()


def test_the_variables_of_another_repository_do_not_mislead(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert git_revision(repository) == head


def test_a_registered_version_says_it(home: Home, register, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelyard.control.registry.models import Version

    monkeypatch.chdir(repository)
    register(1)
    row = Version.objects.get()
    assert row.code_revision == row.lineage["code_revision"] == git(repository, "rev-parse", "HEAD")
