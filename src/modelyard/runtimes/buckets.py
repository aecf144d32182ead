"""Texts of like length are computed together: which rows share one run of an encoder. Pure.

A run pads its texts to the longest of them, so a short text beside a long one costs as much as the long one. Sorted by
length and kept within buckets, little is padded; and no run is larger than a budget, however many texts wait.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def runs(lengths: Sequence[int], buckets: Sequence[int], budget: int) -> list[list[int]]:
    """Positions in `lengths`, each exactly once, grouped into runs; within a run they ascend by length.

    lengths: tokens of each text. buckets: ascending upper edges; a text longer than the last has the bucket above it.
    Texts of one run share a bucket, and their count times the longest is at most `budget` tokens; a text that is
    longer than that alone runs alone. A budget of 0: every text runs alone.
    """
    found: list[list[int]] = []
    bucket = -1
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[position]
        mine = bisect_left(buckets, length)
        if found and mine == bucket and (len(found[-1]) + 1) * length <= budget:
            found[-1].append(position)
        else:
            found.append([position])
            bucket = mine
    return found
