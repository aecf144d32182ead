"""How many threads each process computes with: workers times threads never exceed the cores unless somebody says so."""

from __future__ import annotations

from modelyard.contract.settings import Settings


def threads_for(settings: Settings, available: int, processes: int = 0) -> int:
    """Threads for the numeric libraries of each of `processes`: what was set, or an equal share of `available` cores.

    0 processes: the gateway's workers.
    """
    return settings.threads or max(1, available // (processes or settings.worker_count))


def oversubscription(settings: Settings, available: int) -> str:
    """What to say when more threads were asked for than there are cores; empty when they fit.

    Threads that wait for each other's cores make every answer slower, not only some.
    """
    threads = threads_for(settings, available)
    if settings.worker_count * threads <= available:
        return ""
    return (
        f"workers={settings.worker_count} with threads={threads} each are more than the {available} cores here; "
        "answers will be slower than with fewer"
    )
