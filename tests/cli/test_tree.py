"""A tree of real processes: they come up, come back, and go."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.cli.tree import Child, Tree, check_port, pause_before
from modelyard.contract.errors import Conflict, Internal

STEADY = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"
)
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)
HEARS_CTRL_C = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, flush=True); signal.pause()"

Deaths = list[tuple[str, int]]


def tree_of(tmp_path: Path, drain_s: float = 10.0, **programs: str) -> tuple[Tree, Deaths]:
    deaths: Deaths = []
    children = [
        Child(name, [sys.executable, "-c", program], tmp_path / f"{name}.log", essential=True)
        for name, program in programs.items()
    ]
    return Tree(children, dict(os.environ), drain_s, lambda child, status: deaths.append((child.name, status))), deaths


def says_up(child: Child) -> bool:
    return child.log.exists() and "up" in child.log.read_text()


def test_all_come_up_and_none_outlives_the_tree(tmp_path: Path) -> None:
    tree, deaths = tree_of(tmp_path, one=STEADY, two=STEADY)
    with tree:
        assert tree.watch(until=lambda: all(says_up(child) for child in tree.children), timeout_s=30)
    assert [child.process.returncode for child in tree.children if child.process] == [0, 0]
    assert deaths == []


def test_a_child_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.cli.tree.FIRST_PAUSE_S", 0.01)
    tree, deaths = tree_of(tmp_path, one=STEADY)
    (child,) = tree.children
    with tree:
        assert tree.watch(until=lambda: says_up(child), timeout_s=30)
        assert child.process
        before = child.process.pid
        os.kill(before, signal.SIGKILL)
        assert tree.watch(until=lambda: child.log.read_text().count("up") == 2, timeout_s=30)
        assert child.process
        assert child.process.pid != before
    assert deaths == [("one", -signal.SIGKILL)]


def test_one_that_never_comes_up_is_an_error_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.cli.tree.FIRST_PAUSE_S", 0.01)
    tree, _ = tree_of(tmp_path, good=STEADY, bad="raise SystemExit('no model, no gateway')")
    with pytest.raises(Internal, match=r"bad does not start \(exit status 1\)") as caught, tree:
        tree.watch(until=lambda: False, timeout_s=30)
    assert "no model, no gateway" in str(caught.value)
    assert not any(child.is_running for child in tree.children)


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Whatever runs the tests in the background has Ctrl-C ignored, and a tree heeds that, as under nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_signal_ends_the_watch_and_a_second_one_the_patience(tmp_path: Path) -> None:
    tree, _ = tree_of(tmp_path, drain_s=600.0, one=STUBBORN)
    (child,) = tree.children
    before = signal.getsignal(signal.SIGTERM)
    with tree:
        assert tree.watch(until=lambda: says_up(child), timeout_s=30)
        os.kill(os.getpid(), signal.SIGTERM)
        assert tree.watch(timeout_s=30) is False
        assert tree.stopping
        os.kill(os.getpid(), signal.SIGINT)
    assert child.process
    assert child.process.returncode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGTERM) is before


def test_children_leave_ctrl_c_to_the_parent(tmp_path: Path) -> None:
    tree, _ = tree_of(tmp_path, one=HEARS_CTRL_C)
    (child,) = tree.children
    with tree:
        assert tree.watch(until=lambda: child.log.exists() and child.log.read_text() == "True\n", timeout_s=30)


def test_the_pause_grows_to_a_limit() -> None:
    pauses = [pause_before(failures) for failures in range(1, 20)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 30.0)


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} .*--gateway-port.*MODELYARD_GATEWAY_PORT"):
            check_port("127.0.0.1", port, "--gateway-port", "MODELYARD_GATEWAY_PORT")
    check_port("127.0.0.1", port, "--gateway-port", "MODELYARD_GATEWAY_PORT")
    check_port("127.0.0.1", 0, "--gateway-port", "MODELYARD_GATEWAY_PORT")
