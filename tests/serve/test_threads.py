"""Workers times threads fit the cores, unless told otherwise; and then it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.gateway import gateway, plan
from kit.versions import store
from modelyard.artifacts.store import Shelf
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.serve.threads import oversubscription, threads_for


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "each", "is_said"),
    [
        (1, 0, 8, 8, False),
        (2, 0, 8, 4, False),
        (3, 0, 8, 2, False),
        (8, 0, 8, 1, False),
        (16, 0, 8, 1, True),  # more workers than cores were asked for
        (2, 4, 8, 4, False),
        (2, 5, 8, 5, True),
        (1, 0, 1, 1, False),
    ],
)
def test_an_equal_share_of_the_cores(workers: int, threads: int, cores: int, each: int, is_said: bool) -> None:
    settings = Settings(workers=workers, threads=threads)
    assert threads_for(settings, cores) == each
    assert bool(oversubscription(settings, cores)) is is_said


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (2, 2), (2, 5), (8, 3)])
def test_model_workers_of_one_version_share_the_cores_among_themselves(cores: int, processes: int) -> None:
    threads = threads_for(Settings(workers=4), cores, processes)
    assert threads == max(1, cores // processes)
    assert threads_for(Settings(workers=4, threads=3), cores, processes) == 3


def test_the_sentence_names_both_settings() -> None:
    assert "workers=4 with threads=3" in oversubscription(Settings(workers=4, threads=3), 8)


def test_a_gateway_with_more_threads_than_cores_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    with gateway(tmp_path, plan(1, {1: store(Shelf(home.shelf))}), workers=2, threads=200) as running:
        assert "threads=200" in running.log.read_text()
