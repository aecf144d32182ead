"""Many waiting calls become one batch. Pure: no clock, no queue, no socket; `replica.py` owns those and asks here."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """What batching needs to know of a call, or of a part of one."""

    rows: int

    @property
    def group(self) -> object:
        """Only equal groups may be joined."""

    @property
    def priority(self) -> int:
        """Among its owner's own; 1 goes first."""

    @property
    def owner(self) -> str:
        """Whose turn it uses up."""


C = TypeVar("C", bound=Waiting)


def take_turn(waiting: Sequence[C], max_rows: int) -> tuple[list[C], list[C]]:
    """(the next batch, who still waits): at most `max_rows` rows of one group, drawn in turns over owners.

    Everybody of the first one's group goes when there is room; otherwise each owner gives one call a round, the most
    urgent first and those alike in order of arrival, so a caller with a thousand waiting calls cannot starve one with a
    single call, nor push ahead of others by calling all of them urgent. One larger than `max_rows` goes alone. Owners
    for whom there was no room come first the next time.
    """
    group = waiting[0].group if waiting else None
    alike = [call for call in waiting if call.group == group]
    if sum(call.rows for call in alike) <= max_rows:
        return alike, [call for call in waiting if call.group != group] if len(alike) < len(waiting) else []
    queues: dict[str, deque[C]] = {}
    for call in sorted(alike, key=lambda call: call.priority):
        queues.setdefault(call.owner, deque()).append(call)
    batch: list[C] = []
    room = max_rows
    turn = deque(queues.values())
    while turn:
        queue = turn.popleft()
        if queue[0].rows > room and batch:
            continue  # this owner's next call waits; others may still fit
        call = queue.popleft()
        room -= call.rows
        batch.append(call)
        if queue:
            turn.append(queue)
    chosen = set(map(id, batch))
    served = {call.owner for call in batch}
    left = [call for call in waiting if id(call) not in chosen]
    return batch, [call for call in left if call.owner not in served] + [call for call in left if call.owner in served]


def best_chunk(curve: Mapping[int, float]) -> int:
    """The batch size with the least time per row on a measured curve (size -> seconds).

    Larger is not always cheaper: a tree model may take another code path. Ties within 5 % go to the larger size.
    """
    per_row = {size: seconds / size for size, seconds in curve.items()}
    floor = min(per_row.values()) * 1.05
    return max(size for size, cost in per_row.items() if cost <= floor)


def predicted_cost(curve: Mapping[int, float], rows: int) -> float:
    """Seconds that `rows` rows will take in the best chunks, from the measured curve."""
    chunk = best_chunk(curve)
    whole, rest = divmod(rows, chunk)
    cost = whole * curve[chunk]
    if rest:
        cost += curve[min(size for size in curve if size >= rest)]
    return cost


def inline_rows(curve: Mapping[int, float], budget_s: float) -> int:
    """The most rows whose predicted cost fits the budget; 0 when even one row does not."""
    chunk = best_chunk(curve)
    if (chunks := int(budget_s / curve[chunk])) >= 1:
        return chunks * chunk
    return max((size for size, seconds in curve.items() if seconds <= budget_s), default=0)
