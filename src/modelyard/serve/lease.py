"""The lease of a canary: while the control plane lives its split holds; when it falls silent all calls fall back.

The sign of life is a file that control touches (`Home.control_beat`). It is looked at once a second, and only while the
plan holds a lease. Its age is the longer of two: since its time of modification, and since this worker first saw that
time. So a clock that is set back, or a time of modification that lies ahead, makes a silent control live for as long as
the lease lasts and no longer; a clock that is set forward may end a lease until the next touch.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.contract.plan import PlannedEndpoint, ServingPlan, TrafficSplit

LOOK_S = 1.0


class Beat:
    """The sign of life as one worker sees it."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._clock, self._monotonic = path, clock, monotonic
        self._touched = math.nan  # seconds since 1970, as the file says ...
        self._seen = 0.0  # ... and when that was first seen here

    def silence_s(self) -> float:
        """For how long control has said nothing; infinite where it never did."""
        try:
            touched = os.stat(self._path).st_mtime
        except OSError:
            return math.inf
        now = self._monotonic()
        if touched != self._touched:
            self._touched, self._seen = touched, now
        return max(self._clock() - touched, now - self._seen)


class Leases:
    """Which endpoints of the plan have lost their lease."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat
        self._due = 0.0  # on the loop's clock
        self.lapsed: frozenset[str] = frozenset()

    def look(self, plan: ServingPlan | None, now: float) -> bool:
        """Look, if it is time to; whether other endpoints than before have lost theirs. now: of a monotonic clock."""
        if now < self._due or plan is None:
            return False
        self._due = now + LOOK_S
        before = self.lapsed
        return self.follow(plan) != before

    def follow(self, plan: ServingPlan) -> frozenset[str]:
        """The endpoints of a plan that have lost theirs, as of now."""
        has_leases = any(endpoint.lease is not None for endpoint in plan.endpoints)
        self.lapsed = lapsed_at(plan, self._beat.silence_s()) if has_leases else frozenset()
        return self.lapsed


def lapsed_at(plan: ServingPlan, silence_s: float) -> frozenset[str]:
    """The endpoints whose lease is shorter than control has been silent."""
    return frozenset(
        endpoint.name
        for endpoint in plan.endpoints
        if endpoint.lease is not None and silence_s > endpoint.lease.seconds
    )


def fallen_back(endpoint: PlannedEndpoint) -> PlannedEndpoint:
    """The same endpoint whose fallback has all calls, sticky ones too. What is pinned is called as before."""
    if endpoint.lease is None:
        return endpoint
    return msgspec.structs.replace(endpoint, split=TrafficSplit({endpoint.lease.fallback: 100}))
