"""What a person sees: sentences in their language, tables, colours on a terminal, JSON for programs.

Results go to stdout, everything else to stderr, so that a pipe carries only what was asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

import msgspec

from modelyard.cli.words import WORDS
from modelyard.contract.errors import ModelyardError

if TYPE_CHECKING:
    from rich.console import Console as Rich
    from rich.table import Table

PIPE_WIDTH = 200  # columns where no terminal says how wide it is


class Console:
    """The two streams of one command, in one language."""

    def __init__(self, language: str = "en") -> None:
        self.language = language if language in ("en", "zh") else "en"

    @property
    def is_interactive(self) -> bool:
        """Whether a person watches stderr."""
        return sys.stderr.isatty()

    def text(self, key: str, /, **values: Any) -> str:
        """The sentence of that key."""
        english, chinese = WORDS[key]
        return (chinese if self.language == "zh" else english).format(**values)

    def say(self, key: str, /, **values: Any) -> None:
        """A result, in words, to stdout."""
        self.out().print(self.text(key, **values), markup=False, soft_wrap=True)

    def note(self, key: str, /, style: str = "", **values: Any) -> None:
        """What happens meanwhile, to stderr."""
        self.err().print(self.text(key, **values), markup=False, style=style or None, soft_wrap=True)

    def line(self, text: str = "", style: str = "") -> None:
        """A line that is data, to stdout."""
        self.out().print(text, markup=False, style=style or None, soft_wrap=True)

    def json(self, value: Any) -> None:
        """Exactly one JSON document, to stdout."""
        sys.stdout.write(json_text(value) + "\n")
        sys.stdout.flush()

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table to stdout; numbers stand right."""
        self.out().print(table(headings, list(rows)))

    def error(self, error: BaseException) -> None:
        """What went wrong, and what to do next, to stderr."""
        from rich.text import Text

        message = Text.assemble((self.text("error") + ": ", "bold red"), str(error) or type(error).__name__)
        self.err().print(message, soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            self.err().print(Text(f"  {note}", "dim"), soft_wrap=True)
        if isinstance(error, ModelyardError) and f"next_{error.code}" in WORDS:
            self.err().print(Text("  " + self.text(f"next_{error.code}")), soft_wrap=True)

    def out(self) -> Rich:
        """Rich's view of stdout; colours only on a terminal, and not where NO_COLOR is set."""
        return _rich(sys.stdout)

    def err(self) -> Rich:
        """Rich's view of stderr."""
        return _rich(sys.stderr)


def language_of(asked: str | None, configured: str) -> str:
    """The flag, else the setting, else the terminal's language."""
    for choice in (asked, configured, os.environ.get("LC_ALL"), os.environ.get("LC_MESSAGES"), os.environ.get("LANG")):
        if choice:
            return "zh" if choice.lower().startswith("zh") else "en"
    return "en"


def json_text(value: Any) -> str:
    """Indented JSON of plain values and structs, in its own letters."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode()


def table(headings: Sequence[str], rows: list[Sequence[Any]]) -> Table:
    """The rows as a table without lines."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for position, heading in enumerate(headings):
        numeric = bool(rows) and all(isinstance(row[position], int | float | None) for row in rows)
        made.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(shown(value)) for value in row))
    return made


def shown(value: Any) -> str:
    """One cell: short numbers, nothing for nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rich(stream: IO[str]) -> Rich:
    from rich.console import Console as Rich

    class Terminal(Rich):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # for `main` to end quietly; rich would end with status 1

    return Terminal(file=stream, highlight=False, emoji=False, width=None if stream.isatty() else PIPE_WIDTH)
