"""The real chain: pages with Chinese and English text are drawn, read, and compared with what was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.images import files
from kit.ocr import LETTER, NOTICE, page, store_ocr
from modelyard.contract.home import Home
from modelyard.runtimes.load import LoadedModel, load

pytestmark = [pytest.mark.thirdparty, pytest.mark.xdist_group("ocr")]


@pytest.fixture(scope="module")
def ocr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    home = Home(tmp_path_factory.mktemp("home"))
    with load(home.shelf / store_ocr(home)) as model:
        yield model


def read(ocr: LoadedModel, *pages: bytes) -> list[list[dict[str, Any]]]:
    return [json.loads(lines) for lines in ocr.predict_tensors({"image": files(*pages)})["lines"]]


def plain(text: str) -> str:
    """Without spaces, and with the marks of one script: a recogniser of two may take the other's."""
    return text.replace(" ", "").translate(str.maketrans("：，。", ":,."))


@pytest.mark.parametrize("written", [LETTER, NOTICE], ids=["English", "Chinese"])
def test_what_was_written_is_read_line_by_line(ocr: LoadedModel, written: tuple[str, ...]) -> None:
    (lines,) = read(ocr, page(*written))
    assert [plain(line["text"]) for line in lines] == [plain(line) for line in written]
    assert min(line["confidence"] for line in lines) > 0.9
    tops = [min(y for _, y in line["box"]) for line in lines]
    assert tops == sorted(tops)


def test_boxes_lie_around_the_ink(ocr: LoadedModel) -> None:
    from PIL import Image

    from modelyard.runtimes.image_decode import decode_image

    data = page(*LETTER)
    (lines,) = read(ocr, data)
    dark = np.asarray(Image.fromarray(decode_image(data, "page", 0)).convert("L")) < 128
    covered = np.zeros_like(dark)
    for line in lines:
        (left, top), (right, bottom) = np.min(line["box"], axis=0), np.max(line["box"], axis=0)
        covered[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = True
    assert (dark & covered).sum() / dark.sum() > 0.98  # nearly all ink lies in a box
    assert covered.mean() < 0.5  # and the boxes are not the page


@pytest.mark.parametrize("angle", [8, 180])
def test_a_turned_page_is_read_too(ocr: LoadedModel, angle: float) -> None:
    (lines,) = read(ocr, page(*LETTER[:2], angle=angle))
    assert sorted(plain(line["text"]) for line in lines) == sorted(plain(line) for line in LETTER[:2])


def test_a_page_among_others_is_read_as_alone_and_a_blank_one_says_nothing(ocr: LoadedModel) -> None:
    pages = [page(LETTER[0]), page(*NOTICE[:2]), page("")]
    together = ocr.predict_tensors({"image": files(*pages)})
    alone = [ocr.predict_tensors({"image": files(one)}) for one in pages]
    assert together["text"].tolist() == [one["text"][0] for one in alone]
    for joined, single in zip(together["lines"], (one["lines"][0] for one in alone), strict=True):
        for ours, theirs in zip(json.loads(joined), json.loads(single), strict=True):
            assert ours["text"] == theirs["text"]
            assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-3)
            np.testing.assert_allclose(ours["box"], theirs["box"], atol=0.2)
    assert together["text"][2] == ""


def test_its_characters_are_in_the_version(ocr: LoadedModel) -> None:
    folder = Path(ocr._loaded.artifact.folder)
    steps = json.loads((folder / "pipeline.json").read_text())["steps"]
    (reader,) = [step["does"] for step in steps if step["name"] == "read"]
    assert len(reader["characters"]) == 6624
    assert reader["characters"][-1] == " "
    assert ocr.manifest.independent_rows
    assert not ocr.manifest.in_worker
