"""The bytes of bodies that wait in one worker, over all its connections, and the most that they may be.

A body waits until it is whole, and while it is whole and its connection's earlier requests are not answered. Callers
who begin bodies and do not end them share this much memory, however many connections they open.
"""

from __future__ import annotations

from modelyard.contract.errors import Overloaded


class PendingBytes:
    """The count. Each body that waits tells what it has grown to, and 0 when it waits no longer."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def replace(self, before: int, after: int) -> int:
        """Count `after` bytes where `before` were; what is counted then.

        Raises Overloaded where more would pass the limit: then nothing changes.
        """
        held = self.held + after - before
        if held > self.limit and after > before:
            raise Overloaded(
                f"the bodies that wait in this worker are at its limit max_pending_bytes={self.limit}; "
                "try again shortly, with the body in one piece"
            )
        self.held = held
        return after
