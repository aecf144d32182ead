"""Tasks of django-tasks, as an installed app may have them. Imported only where Django is set up."""

from typing import Any

from django_tasks import task
from django_tasks.base import TaskContext


@task
def add(a: int, b: int = 0) -> int:
    return a + b


@task(takes_context=True)
def attempt(context: TaskContext, word: str) -> dict[str, Any]:
    return {"attempt": context.attempt, "word": word}


@task
def fail() -> None:
    raise ValueError("on purpose")


@task
def grow(megabytes: int) -> int:
    held = bytearray(megabytes << 20)
    held[::4096] = b"x" * len(held[::4096])
    while True:  # until somebody ends it
        held[0] ^= 1
