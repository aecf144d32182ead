"""A long job's steps on a terminal: a bar while one runs, one line when it is done; plain lines in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelyard.cli.console import Console
from modelyard.cli.words import STEPS

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class ShownProgress:
    """The `Progress` that training reports to, on stderr. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""
        self._detail = ""
        self._bar: Bar | None = None
        self._task: Any = None

    def __enter__(self) -> ShownProgress:
        if self._console.is_interactive:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console.err(), transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close("✗" if kind else "✓")
        if self._bar is not None:
            self._bar.stop()

    def step(self, title: str, detail: str = "") -> None:
        """A new step begins; the same title again has something to say of the one that runs."""
        if title != self._title:
            self._close("✓")
            self._title, self._detail = title, ""
            if self._bar is not None:
                self._task = self._bar.add_task(self._named(title), total=None)
        if detail:
            self._detail = detail

    def tick(self, done: int, total: int) -> None:
        """So much of the step is done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def _close(self, sign: str) -> None:
        if not self._title:
            return
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        from rich.cells import cell_len
        from rich.text import Text

        named = self._named(self._title)  # Chinese signs are two columns wide
        line = Text.assemble(
            (f"{sign} ", "green" if sign == "✓" else "red"),
            named + " " * max(0, 15 - cell_len(named)),
            f" {self._detail}" if self._detail else "",
        )
        (self._bar.console if self._bar is not None else self._console.err()).print(line, soft_wrap=True)
        self._title = ""

    def _named(self, title: str) -> str:
        return STEPS.get(title, title) if self._console.language == "zh" else title
