"""Every link between our pages leads somewhere; and the reader of links sees a broken one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "docs"


def read_links(folder: Path) -> subprocess.CompletedProcess[str]:
    """The script's verdict on the pages of `folder`."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, encoding="utf-8", check=False
    )


def test_our_links_lead_somewhere() -> None:
    verdict = read_links(ROOT)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.mark.parametrize(
    ("link", "broken"),
    [
        ("[a](docs/b.md)", False),
        ("[a](docs/b.md#second-part)", False),
        ("[a](#top)", False),
        ("`[a](docs/missing.md)`", False),  # code is not a link
        ("[a](https://example.org/missing.md)", False),  # not ours to follow
        ("[a](docs/missing.md)", True),
        ("[a](docs/b.md#third-part)", True),
        ("[![badge](docs/missing.svg)](docs/b.md)", True),
        ("[a]: docs/missing.md", True),
        ("[a](../outside.md)", True),
    ],
)
def test_a_broken_link_is_seen(tmp_path: Path, link: str, broken: bool) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# B\n\n## Second part\n", encoding="utf-8")
    (tmp_path / "README.md").write_text(f"# Top\n\n{link}\n", encoding="utf-8")
    verdict = read_links(tmp_path)
    assert verdict.returncode == int(broken), verdict.stdout + verdict.stderr
