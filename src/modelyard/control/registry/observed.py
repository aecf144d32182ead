"""What gateways have seen of a version since they started: calls, errors, and how long answers took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from pathlib import Path

import msgspec

from modelyard.contract.counters import SECONDS, Counts, read_counts


class Observed(msgspec.Struct, frozen=True):
    """Of one version, over all endpoints and workers together."""

    calls: int
    errors: int  # that the version is to blame for
    violations: int  # inputs that its contract refused
    p50_ms: float | None  # at most; from a whole request to its answer. None: above the last bucket
    p95_ms: float | None


def observed(folder: Path, endpoints: Iterable[str]) -> dict[int, Observed]:
    """By version: what the gateway's slabs in `folder` have counted for these endpoints of one model."""
    counts: dict[int, list[Counts]] = {}
    for endpoint in endpoints:
        for version, found in read_counts(folder, endpoint).items():
            counts.setdefault(version, []).append(found)
    sums = {version: reduce(add, found) for version, found in counts.items()}
    return {
        version: Observed(
            sum_.answered, sum_.errors, sum_.violations, below(sum_.latency, 0.5), below(sum_.latency, 0.95)
        )
        for version, sum_ in sums.items()
        if sum_.answered or sum_.errors or sum_.violations
    }


def below(latency: Sequence[int], share: float) -> float | None:
    """Milliseconds that this share of the answers took at most, by the bucket's upper end; None: nobody can say."""
    wanted, running = share * sum(latency), 0
    for edge, count in zip(SECONDS, latency, strict=False):
        running += count
        if running and running >= wanted:
            return round(edge * 1e3, 4)
    return None
