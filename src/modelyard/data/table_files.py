"""Rows out of a file, one by one, and rows into a CSV file that is whole or not there.

A long CSV is never held in memory. The words for "missing", the separator and the encoding are found as training
finds them (`data/sources.py`), so a file that trained also predicts.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from modelyard.contract.errors import InvalidInput, NotFound

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"})
TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_PEEK = 1024 * 1024
_PARQUET_ROWS = 50_000  # in memory at a time


@dataclass(frozen=True)
class TableFile:
    """The columns of a file and its rows, which can be read once."""

    columns: list[str]
    rows: Iterator[dict[str, Any]]


def open_table(path: Path) -> TableFile:
    """The table in a .csv, .tsv, .txt, .csv.gz, .jsonl, .ndjson or .parquet file. Raises NotFound and InvalidInput."""
    if not path.is_file():
        raise NotFound(f"there is no file {path.name!r}; check the path")
    name = path.name.lower()
    if name.endswith((".csv", ".tsv", ".txt", ".csv.gz")):
        return _csv(path)
    if name.endswith((".jsonl", ".ndjson")):
        return _json_lines(path)
    return _parquet(path)


def value_of(kind: str, cell: Any) -> Any:
    """A cell as the contract's kind of column wants it; what does not fit stays as it is, for the gateway to refuse."""
    if not isinstance(cell, str):
        return None if isinstance(cell, float) and math.isnan(cell) else cell
    text = cell.strip()
    if text in MISSING:
        return None
    if kind == "boolean":
        return TRUTHS.get(text, text)
    if kind not in ("number", "integer"):
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


class CsvOutput:
    """A CSV file that appears whole when its `with` block ends well, and not at all otherwise, or if never begun."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._staging = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file: IO[str] | None = None
        self.count = 0

    def __enter__(self) -> CsvOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        self._file.close()
        if kind is None:
            self._staging.replace(self._path)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._staging.unlink()

    def begin(self, columns: Sequence[str]) -> None:
        """The header; a second one changes nothing."""
        if self._file is None:
            self._file = open(self._staging, "w", newline="", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
            csv.writer(self._file).writerow(columns)

    def write(self, values: Sequence[Any]) -> None:
        """One row, after the header."""
        if self._file is None:
            raise ValueError("a CSV file begins with its header")
        csv.writer(self._file).writerow(["" if value is None else value for value in values])
        self.count += 1


def _parquet(path: Path) -> TableFile:
    import polars as pl

    try:
        table = pl.scan_parquet(path)
        return TableFile(table.collect_schema().names(), _parquet_rows(table))
    except pl.exceptions.PolarsError:
        raise InvalidInput(f"{path.name} is not a Parquet file") from None


def _parquet_rows(table: Any) -> Iterator[dict[str, Any]]:
    at = 0
    while (part := table.slice(at, _PARQUET_ROWS).collect()).height:
        yield from part.iter_rows(named=True)
        at += part.height


def _csv(path: Path) -> TableFile:
    encoding = _encoding(path)
    with _text(path, encoding) as stream:
        first = _first_line(stream)
    if not first:
        raise InvalidInput(f"{path.name} is empty; a table with a header and rows is expected")
    separator = _separator(first)
    header = [name.strip() for name in next(csv.reader([first], delimiter=separator))]
    header = [name or ("rownames" if position == 0 else name) for position, name in enumerate(header)]
    if "" in header or len(set(header)) < len(header):
        raise InvalidInput(f"{path.name}: every column needs a name of its own in the header")
    return TableFile(header, _csv_rows(path, encoding, header, separator))


def _csv_rows(path: Path, encoding: str, header: list[str], separator: str) -> Iterator[dict[str, Any]]:
    with _text(path, encoding) as stream:
        _first_line(stream)
        reader = csv.reader(stream, delimiter=separator)
        try:
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    at = reader.line_num + 1
                    raise InvalidInput(f"{path.name}: line {at} has {len(fields)} fields, the header has {len(header)}")
                yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise InvalidInput(f"{path.name}: line {reader.line_num + 1} is not CSV: {error}") from None


def _first_line(stream: IO[str]) -> str:
    """The header; empty lines before it do not count."""
    return next((line for line in iter(stream.readline, "") if line.strip()), "")


def _text(path: Path, encoding: str) -> IO[str]:
    return io.TextIOWrapper(_bytes(path), encoding=encoding, newline="")


def _json_lines(path: Path) -> TableFile:
    """Columns are those of all rows, so the file is read once before its rows are given."""
    columns: dict[str, None] = {}
    for row in _json_rows(path):
        columns.update(dict.fromkeys(row))
    if not columns:
        raise InvalidInput(f"{path.name} is empty; one JSON object in each line is expected")
    return TableFile(list(columns), _json_rows(path))


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise InvalidInput(f"{path.name}: line {number} is not one JSON object") from None


def _bytes(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def _encoding(path: Path) -> str:
    """UTF-16 by its mark, UTF-8 if all of the file is, else Latin-1, which reads anything."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        with _bytes(path) as file:
            part = file.read(_PEEK)
            if part.startswith((b"\xff\xfe", b"\xfe\xff")):
                return "utf-16"
            while part:
                decoder.decode(part)
                part = file.read(_PEEK)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "latin-1"
    except (gzip.BadGzipFile, EOFError):
        raise InvalidInput(f"{path.name}: is not a whole gzip file; compress it again") from None
    return "utf-8-sig"


def _separator(first: str) -> str:
    counts = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in ",;\t|"}
    return max(counts, key=lambda mark: (counts[mark], mark == ","))
