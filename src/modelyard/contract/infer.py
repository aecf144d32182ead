"""What an endpoint answers, as values: the same over HTTP and in the caller's own process."""

from __future__ import annotations

from typing import Any

import msgspec

from modelyard.contract.decision import Reason


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer for one row. What the version does not give is None."""

    request_id: str  # under which the call was recorded; empty in the caller's own process
    version: int  # 0 where the version's number is not known, such as an artifact opened from a folder
    decision: str | None = None
    probability: float | None = None  # of the positive class
    score: int | None = None  # points; higher is better
    reasons: tuple[Reason, ...] = ()
    outputs: dict[str, Any] = {}  # of a version without a decision: its outputs by name
    model: str = ""
    row: int = 0  # which row of its request this is, as `feedback` wants to know


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much each column moved one row's log-odds. `base` and all contributions sum to the row's log-odds."""

    request_id: str
    version: int
    base: float
    contributions: dict[str, float]
    model: str = ""
    row: int = 0
