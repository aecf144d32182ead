"""A connection's patience with what costs us more than its sender: pings, settings, empty frames, resets."""

from __future__ import annotations

import time

from modelyard.serve.http2_frames import ENHANCE_YOUR_CALM, ConnectionFault

PATIENCE = 1000  # idle frames (pings, settings, empty or tiny ones) that one connection may send at once ...
PATIENCE_PER_S = 100  # ... and how many more each second
PATIENCE_PER_ANSWER = 4  # and with each answer

_FRAME_NS = 1_000_000_000 // PATIENCE_PER_S
_ANSWER_NS = PATIENCE_PER_ANSWER * _FRAME_NS


class Patience:
    """A bucket of idle frames, kept as the moment at which it would be full again: nothing has to refill it."""

    __slots__ = ("_used_until_ns",)

    def __init__(self) -> None:
        self._used_until_ns = 0  # on the monotonic clock

    def use(self, frames: float) -> None:
        """Take so many idle frames out. Raises ConnectionFault where a peer does little else."""
        now = time.monotonic_ns()
        self._used_until_ns = max(self._used_until_ns, now) + int(frames * _FRAME_NS)
        if self._used_until_ns - now > PATIENCE * _FRAME_NS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many resets, pings, settings or empty frames")

    def answered(self) -> None:
        """Give some back: a peer that asks for answers may also ping."""
        self._used_until_ns -= _ANSWER_NS
