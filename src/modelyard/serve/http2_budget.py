"""How much of its requests' bodies one connection may make us hold, and which stream goes on when it is all used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelyard.serve.http2_stream import Stream

MAX_HELD_BYTES = 32 * 1024 * 1024  # of one connection's bodies; above it only one stream at a time may go on sending


class BodyBudget:
    """Bytes of one connection's bodies that were not taken yet.

    Above the limit all streams but one wait for window, so that this one becomes whole and gives its bytes back.
    """

    __slots__ = ("favoured", "has_starved", "held")

    def __init__(self) -> None:
        self.held = 0
        self.has_starved = False  # some stream was not granted what it needs
        self.favoured: Stream | None = None  # the one that may go on above the limit

    def lets_go_on(self, stream: Stream) -> bool:
        """Whether a stream may get further window."""
        if self.held <= MAX_HELD_BYTES or stream is self.favoured:
            return True
        favoured = self.favoured
        if favoured is not None and not (favoured.is_closed or favoured.is_whole):
            self.has_starved = True
            return False
        self.favoured = stream
        return True

    def start_anew(self) -> None:
        """Favour nobody: every stream asks again."""
        self.has_starved, self.favoured = False, None
