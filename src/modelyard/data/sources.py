"""Tables from files: CSV, Parquet and JSON lines behind one function.

Numbers come typed, text stays text with its edges stripped, and every customary word for "not there" is null. What
cannot be read says which file, why, and what to do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import polars as pl

from modelyard.contract.errors import InvalidInput, NotFound

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"})

_INTEGER = r"^[+-]?(0|[1-9]\d{0,17})$"  # 007 is a code, not a number; more digits than int64 holds are one too
_NUMBER = r"^[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d{1,3})?$"
_DIGIT = r"\d"


class Source(msgspec.Struct, frozen=True):
    """A table as it was read, and what had to be assumed to read it."""

    table: pl.DataFrame
    digest: str  # SHA-256 of the file's bytes
    notes: tuple[str, ...] = ()  # such as: not UTF-8, read as Latin-1


def read_table(path: str | Path) -> pl.DataFrame:
    """The table in a .csv, .tsv, .csv.gz, .parquet, .jsonl or .ndjson file.

    Raises NotFound (no such file) and InvalidInput (empty, no header, undecodable, unknown suffix).
    """
    return read_source(path).table


def read_source(path: str | Path) -> Source:
    """The table with its digest and the assumptions that reading it took. Raises as `read_table` does."""
    path = Path(path)
    reader = _reader(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path.name!r}; check the path") from None
    except OSError as error:
        raise InvalidInput(f"{path.name}: cannot be read: {error.strerror}") from None
    if not data.strip():
        raise InvalidInput(f"{path.name} is empty; a table with a header and rows is expected")
    notes: list[str] = []
    table = reader(data, path.name, notes)
    if not table.width:
        raise InvalidInput(f"{path.name} has no columns")
    if not table.height:
        raise InvalidInput(f"{path.name} has a header but no rows")
    return Source(tidy(table), hashlib.sha256(data).hexdigest(), tuple(notes))


def digest_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex. Raises NotFound."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise NotFound(f"there is no file {Path(path).name!r}; check the path") from None


def _reader(path: Path) -> Callable[[bytes, str, list[str]], pl.DataFrame]:
    name = path.name.lower()
    for suffix, reader in _READERS.items():
        if name.endswith(suffix):
            return reader
    raise InvalidInput(f"{path.name}: the suffix must be one of {', '.join(_READERS)}")


# --- CSV --------------------------------------------------------------------------------------------------------


def _read_csv_gz(data: bytes, name: str, notes: list[str]) -> pl.DataFrame:
    try:
        return _read_csv(zlib.decompress(data, wbits=31), name, notes)
    except zlib.error:
        raise InvalidInput(f"{name}: is not a whole gzip file; compress it again") from None


def _read_csv(data: bytes, name: str, notes: list[str]) -> pl.DataFrame:
    text = _decode(data, name, notes)
    separator = _separator(text)
    header = _header(text, separator, name)
    try:
        table = pl.read_csv(io.BytesIO(text.encode()), separator=separator, has_header=True, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{name}: a row does not fit the header: {_first_line(error)}") from None
    table.columns = header
    return table.select(_typed(table[column]) for column in header)


def _decode(data: bytes, name: str, notes: list[str]) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            notes.append(f"{name} is UTF-16")
            return _strictly(data, encoding, name)
    if b"\x00" in data:
        raise InvalidInput(f"{name}: holds zero bytes, so it is not text; is the suffix right?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.append(f"{name} is not UTF-8 and was read as Latin-1; check names with accents")
        return data.decode("latin-1")


def _strictly(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise InvalidInput(f"{name}: is not whole {encoding} text; save it as UTF-8") from None


def _separator(text: str) -> str:
    """The separator that splits the first line into most fields; a comma when none does."""
    first = text.lstrip("\r\n").partition("\n")[0]
    counts = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in ",;\t|"}
    return max(counts, key=lambda mark: (counts[mark], mark == ","))


def _header(text: str, separator: str, name: str) -> list[str]:
    names = [field.strip() for field in next(csv.reader(io.StringIO(text.lstrip("\r\n")), delimiter=separator), [])]
    if names and all(_is_number(field) for field in names):
        raise InvalidInput(f"{name}: the first row holds only numbers; a header with column names is expected")
    names = [field or ("rownames" if position == 0 else field) for position, field in enumerate(names)]
    if empty := [position + 1 for position, field in enumerate(names) if not field]:
        raise InvalidInput(f"{name}: column {empty[0]} has no name in the header")
    if doubled := sorted({field for field in names if names.count(field) > 1}):
        raise InvalidInput(f"{name}: the header names columns twice: {', '.join(doubled)}")
    return names


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


# --- the others -------------------------------------------------------------------------------------------------


def _read_parquet(data: bytes, name: str, notes: list[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"{name}: is not a whole Parquet file: {_first_line(error)}") from None


def _read_json_lines(data: bytes, name: str, notes: list[str]) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(_decode(data, name, notes).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(msgspec.json.decode(line.encode(), type=dict))
        except (msgspec.DecodeError, RecursionError):
            raise InvalidInput(f"{name}: line {number} is not one JSON object") from None
    names = list(dict.fromkeys(key for row in rows for key in row))
    return pl.DataFrame([_json_column(column, [row.get(column) for row in rows], name) for column in names])


def _json_column(column: str, values: list[object], name: str) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds & {dict, list}:
        raise InvalidInput(f"{name}: column {column!r} holds objects or lists; one value in each cell is expected")
    if kinds <= {int}:
        return pl.Series(column, values, dtype=pl.Int64, strict=False)
    if kinds <= {int, float}:
        return pl.Series(column, values, dtype=pl.Float64, strict=False)
    if kinds == {bool}:
        return pl.Series(column, values, dtype=pl.Boolean)
    return pl.Series(column, [None if value is None else str(value) for value in values], dtype=pl.String)


def _first_line(error: BaseException) -> str:
    # Only the reader's own first words: what follows may quote cells.
    return str(error).partition("\n")[0].partition("'")[0].strip()[:120] or type(error).__name__


# --- typing -----------------------------------------------------------------------------------------------------


def tidy(table: pl.DataFrame) -> pl.DataFrame:
    """A frame as every reader gives it: int64, float64, text and truth values; NaN and words for missing are null."""
    return table.select(_tidy_column(table[name]) for name in table.columns)


def _tidy_column(column: pl.Series) -> pl.Series:
    kind = column.dtype
    if kind.is_float():
        return column.cast(pl.Float64).fill_nan(None)
    if kind.is_integer():
        return column.cast(pl.Int64, strict=False)
    if kind.is_decimal():
        return column.cast(pl.Float64)
    if kind in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    return _stripped(column) if column.dtype == pl.String else column


def _stripped(column: pl.Series) -> pl.Series:
    text = column.str.strip_chars()
    return pl.select(pl.when(~text.is_in(list(MISSING))).then(text).alias(column.name)).to_series()


def _typed(column: pl.Series) -> pl.Series:
    """Text as the numbers or truth values that all of it spells; otherwise text, stripped."""
    text = _stripped(column)
    seen = text.drop_nulls()
    if not len(seen):
        return text
    if seen.str.contains(_INTEGER).all():
        return text.cast(pl.Int64)
    if (seen.str.contains(_NUMBER) & seen.str.contains(_DIGIT)).all():
        return text.cast(pl.Float64)
    if set(seen.unique().to_list()) <= {"true", "false", "True", "False", "TRUE", "FALSE"}:
        return text.str.to_lowercase() == "true"
    return text


_READERS: dict[str, Callable[[bytes, str, list[str]], pl.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_csv,
    ".csv.gz": _read_csv_gz,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}
