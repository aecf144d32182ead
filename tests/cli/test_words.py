"""Every sentence exists in both languages, is used, and is filled with the same values."""

import re
from pathlib import Path
from string import Formatter

import pytest

import modelyard.cli
from modelyard.cli.words import STEPS, WORDS, deployments, models, operation

SOURCES = "\n".join(path.read_text("utf-8") for path in Path(modelyard.cli.__file__).parent.glob("*.py"))
BY_PATTERN = re.compile(
    r"next_(unreachable|unauthenticated|forbidden)|level_(ok|warn|fail)|key_(active|revoked|expired)"
    r"|change_(waiting|approved|rejected|stale|withdrawn)|state_(queued|running|succeeded|failed|cancelled)"
)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_say_it_with_the_same_values(key: str) -> None:
    english, chinese = WORDS[key]
    assert english.strip()
    assert chinese.strip()
    assert fields(english) == fields(chinese)


@pytest.mark.parametrize("key", WORDS)
def test_every_sentence_is_used(key: str) -> None:
    assert f'"{key}"' in SOURCES or BY_PATTERN.fullmatch(key)


def test_no_sentence_stands_in_two_rooms() -> None:
    assert len(WORDS) == sum(map(len, (operation.OPERATION, models.MODELS, deployments.DEPLOYMENTS)))


def test_every_sentence_that_is_said_exists() -> None:
    said = set(re.findall(r'(?:\.say|\.note|\.text|\bsay|\btext)\(\s*"([a-z_]+)"', SOURCES))
    assert len(said) > 30
    assert said <= WORDS.keys()


def test_chinese_is_chinese() -> None:
    same = {key for key, (english, chinese) in WORDS.items() if english == chinese}
    assert same <= {"demo_request"}
    assert all(re.search(r"[\u4e00-\u9fff]", step) for step in STEPS.values())
