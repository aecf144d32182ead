"""RapidOCR, with the same graphs in its own environment, reads the same pages as the chain behind a gateway does."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from kit.apart import python_of
from kit.gateway import gateway, plan
from kit.ocr import LETTER, NOTICE, page, store_ocr
from modelyard.contract.home import Home

pytestmark = [pytest.mark.thirdparty, pytest.mark.xdist_group("ocr"), pytest.mark.timeout(700)]

PAGES = 8
# No two words drawn from these are a sentence, so that nothing but the signs themselves can be read.
WORDS = (
    "premium",
    "2026",
    "No. 17",
    "balance",
    "Zürich",
    "客户",
    "账户余额",
    "合计",
    "保险",
    "8,450.50",
    "ref-A9",
    "日期",
)


def drawn(seed: int) -> tuple[bytes, list[str]]:
    """A page of a few lines, of some size, sometimes turned a little."""
    chance = random.Random(seed)
    written = LETTER if seed == 0 else NOTICE if seed == 1 else tuple(
        " ".join(chance.sample(WORDS, chance.randint(2, 3))) for _ in range(chance.randint(2, 6))
    )  # fmt: skip
    angle = chance.choice((0.0, 0.0, 2.0, -3.0)) if seed > 1 else 0.0
    return page(*written, size=chance.choice((20, 26, 34)), angle=angle, wide=560), list(written)


def joined(lines: list[dict[str, Any]]) -> str:
    """All signs of a page in reading order, without spaces: who finds two boxes in a line reads the same text."""
    return "".join(line["text"] for line in lines).replace(" ", "")


def overlap(one: list[Any], other: list[Any]) -> float:
    """How much of both boxes' upright surroundings is shared, 0 to 1."""
    (a, b), (c, d) = (np.min(one, axis=0), np.max(one, axis=0)), (np.min(other, axis=0), np.max(other, axis=0))
    shared = float(np.prod(np.maximum(0.0, np.minimum(b, d) - np.maximum(a, c))))
    return shared / float(np.prod(b - a) + np.prod(d - c) - shared)


def distance(one: str, other: str) -> int:
    """Signs to change, take away or add (Levenshtein 1965)."""
    row = list(range(len(other) + 1))
    for at, sign in enumerate(one, start=1):
        before, row[0] = row[0], at
        for place, wanted in enumerate(other, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (sign != wanted))
    return row[-1]


def test_it_reads_what_rapidocr_reads(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    written = []
    for seed in range(PAGES):
        data, lines = drawn(seed)
        (folder / f"{seed:03d}.png").write_bytes(data)
        written.append("".join(lines).replace(" ", ""))
    home = Home(tmp_path / "home")
    digest = store_ocr(home)
    with gateway(home.root, plan(1, {1: digest}), workers=1) as running:
        ours = [_read(running.url, path) for path in sorted(folder.glob("*.png"))]
    done = subprocess.run(
        [python_of("rapidocr"), Path(__file__).with_name("rapidocr_session.py"), folder],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)["pages"]

    signs = sum(map(len, written))
    our_errors = sum(distance(joined(page), text) for page, text in zip(ours, written, strict=True))
    their_errors = sum(distance(joined(page), text) for page, text in zip(theirs, written, strict=True))
    apart = sum(distance(joined(one), joined(other)) for one, other in zip(ours, theirs, strict=True))
    shared = [
        max(overlap(line["box"], other["box"]) for other in page_) if page_ else 0.0
        for mine, page_ in zip(ours, theirs, strict=True)
        for line in mine
    ]
    print(f"{signs} signs: {our_errors} wrong here, {their_errors} there, {apart} between; boxes {np.mean(shared):.3f}")
    assert our_errors <= their_errors + 0.01 * signs
    assert apart <= 0.03 * signs
    assert np.mean(shared) > 0.75


def _read(url: str, path: Path) -> list[dict[str, Any]]:
    answer = httpx.post(f"{url}/loans", files={"image": (path.name, path.read_bytes(), "image/png")}, timeout=60)
    assert answer.status_code == 200, answer.text
    lines: list[dict[str, Any]] = answer.json()["lines"]
    return lines
