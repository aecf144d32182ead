"""The parts of a table that is being written: each whole or not there, so that a job that was killed goes on.

Parts lie in a folder beside the table until all are there; then they become the table, in one rename.
"""

import csv
import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from modelyard.contract.errors import Conflict, InvalidInput

SUFFIXES = (".csv", ".parquet")
IDENTITY = "identity.json"


class Counted(msgspec.Struct, frozen=True):
    """What one part holds; written last, so that it says that the part is whole."""

    answered: int
    refused: int
    columns: tuple[str, ...] = ()  # of its answered rows


class Parts:
    """The parts of one output and of what was refused. A context manager: one writer at a time."""

    def __init__(self, output: Path, rejects: Path, identity: dict[str, Any]) -> None:
        """identity: what the numbers depend on; parts of another identity are thrown away."""
        if output.suffix.lower() not in SUFFIXES:
            raise InvalidInput(f"the output is a {' or '.join(SUFFIXES)} file")
        if rejects.suffix.lower() != ".csv" or rejects == output:
            raise InvalidInput("the rejects are a .csv file of their own")
        self.output, self.rejects = output, rejects
        self.folder = output.with_name(f".{output.name}.parts")
        self._identity = msgspec.json.encode(identity, order="sorted")
        self._is_parquet = output.suffix.lower() == ".parquet"
        self._lock = -1

    def __enter__(self) -> "Parts":
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Conflict(f"another batch writes {self.output.name} just now; choose another output") from None
        known = self.folder / IDENTITY
        if not known.exists() or known.read_bytes() != self._identity:
            for path in self.folder.iterdir():
                if path.name != "lock":
                    path.unlink()
            _write(known, self._identity)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def counted(self, number: int) -> Counted | None:
        """What that part holds; None if it is not there yet."""
        try:
            return msgspec.json.decode(self._path(number, "json").read_bytes(), type=Counted)
        except FileNotFoundError:
            return None

    def write(self, number: int, columns: Sequence[str], rows: list[list[Any]], refused: list[list[Any]]) -> Counted:
        """Keep one part: the rows that were answered and those that were refused, in the order of the table."""
        _write_rows(self._path(number, "rejects"), refused)
        if self._is_parquet:
            staging = self._path(number, "staging")
            series = [pl.Series(name, [row[at] for row in rows], strict=False) for at, name in enumerate(columns)]
            pl.DataFrame(series).write_parquet(staging)
            staging.replace(self._path(number, "parquet"))
        else:
            _write_rows(self._path(number, "csv"), rows)
        counted = Counted(len(rows), len(refused), tuple(columns))
        _write(self._path(number, "json"), msgspec.json.encode(counted))
        return counted

    def join(self, count: int, refused_columns: Sequence[str]) -> None:
        """The parts become the table, and their folder goes."""
        counted = [self.counted(number) or Counted(0, 0) for number in range(count)]
        held = [number for number, part in enumerate(counted) if part.answered] or [0]  # others know no types
        staging, refused = self.folder / "whole", self.folder / "refused"
        if self._is_parquet:
            parts = [pl.scan_parquet(self._path(number, "parquet")) for number in held]
            pl.concat(parts, how="vertical_relaxed").sink_parquet(staging)
        else:
            self._concatenate("csv", held, counted[held[0]].columns, staging)
        if any(part.refused for part in counted):
            self._concatenate("rejects", range(count), refused_columns, refused)
            refused.replace(self.rejects)
        else:
            self.rejects.unlink(missing_ok=True)  # of an earlier run: it would say that rows of this one were refused
        staging.replace(self.output)
        (self.folder / IDENTITY).unlink()  # first: what a kill leaves of the folder is then no part of anything
        shutil.rmtree(self.folder)

    def _concatenate(self, kind: str, numbers: Sequence[int], columns: Sequence[str], target: Path) -> None:
        _write_rows(target, [columns])
        with open(target, "ab") as whole:
            for number in numbers:
                with open(self._path(number, kind), "rb") as part:
                    shutil.copyfileobj(part, whole, 1024 * 1024)

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:06}.{kind}"


def _write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    staging = path.with_name(f"{path.name}.new")
    with open(staging, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(["" if value is None else value for value in row] for row in rows)
    staging.replace(path)


def _write(path: Path, data: bytes) -> None:
    staging = path.with_suffix(".new")
    staging.write_bytes(data)
    staging.replace(path)
