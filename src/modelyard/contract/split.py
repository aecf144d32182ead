"""The hundred slots of a traffic split: which version has which, and how few of them move when shares change.

A sticky caller falls into one slot for ever. So whoever keeps his slot keeps his version: raising a canary's share
moves callers to it and nobody else, however many versions share the calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SLOTS = 100

Spans = tuple[tuple[int, int], ...]  # (version, so many slots), from slot 0 on


def widths(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """How many slots each version has."""
    found: dict[int, int] = {}
    for version, width in spans:
        found[version] = found.get(version, 0) + width
    return found


def move_slots(before: Sequence[tuple[int, int]], weights: Mapping[int, int]) -> Spans:
    """The slots shared anew as `weights` say (percents that sum to 100), moving as few as can be.

    A slot changes hands only if its version must give some up. `before` may be empty: slots then follow the numbers.
    """
    left = {version: weight for version, weight in sorted(weights.items()) if weight}
    slots: list[int | None] = []
    for version, width in before:
        kept = min(width, left.get(version, 0))
        slots += [version] * kept + [None] * (width - kept)
        if kept:
            left[version] -= kept
    slots += [None] * (SLOTS - len(slots))
    free = iter([version for version, width in left.items() for _ in range(width)])
    return _spans([next(free) if version is None else version for version in slots])


def _spans(slots: Sequence[int]) -> Spans:
    found: list[tuple[int, int]] = []
    for version in slots:
        if found and found[-1][0] == version:
            found[-1] = (version, found[-1][1] + 1)
        else:
            found.append((version, 1))
    return tuple(found)
