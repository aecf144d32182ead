"""Load new, swap, drain old: one step at a time, and never a moment without an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.serve.reconcile import Drain, Load, Swap, next_action

SETS = st.frozensets(st.sampled_from("abcdef"))


@pytest.mark.parametrize(
    ("wanted", "ready", "is_swapped", "step"),
    [
        ({"b"}, {"a"}, False, Load("b")),  # the new version comes up first
        ({"b"}, {"a", "b"}, False, Swap()),  # then calls go to it
        ({"b"}, {"a", "b"}, True, Drain("a")),  # only then does the old one go
        ({"b"}, {"b"}, True, None),  # settled: asking again changes nothing
        ({"a", "b"}, {"a"}, False, Load("b")),
        ({"b", "c"}, {"a"}, False, Load("b")),  # one at a time
        ({"a"}, {"a"}, False, Swap()),  # another split of the same versions
        (set(), {"a"}, False, Swap()),  # the last endpoint is taken away
        (set(), {"a"}, True, Drain("a")),
        (set(), set(), True, None),
    ],
)
def test_old_version_serves_until_the_new_one_is_ready(
    wanted: set[str], ready: set[str], is_swapped: bool, step: Load | Swap | Drain | None
) -> None:
    assert next_action(frozenset(wanted), frozenset(ready), is_swapped) == step


@given(SETS, SETS)
def test_it_settles_and_never_drains_before_the_swap(wanted: frozenset[str], running: frozenset[str]) -> None:
    ready, routed, is_swapped = set(running), set(running), False
    steps = 0
    while (step := next_action(wanted, frozenset(ready), is_swapped)) is not None:
        steps += 1
        assert steps <= len(wanted | running) + 1, "every step gets on"
        match step:
            case Load(digest):
                assert digest in wanted - ready
                assert not is_swapped
                ready.add(digest)
            case Swap():
                assert not is_swapped
                assert wanted <= ready, "every wanted version is warm"
                routed, is_swapped = set(wanted), True
            case Drain(digest):
                assert is_swapped
                assert digest not in routed
                ready.remove(digest)
        assert routed <= ready, "who may be called is there"
    assert ready == wanted
    assert is_swapped
