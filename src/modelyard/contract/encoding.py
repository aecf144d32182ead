"""A contract at work: JSON, rows or columns in; one float32 matrix, or every broken rule, out.

Two paths, one meaning. The fast one decodes and range-checks in C with types generated from the contract. Whatever it
does not accept goes the slow way, which decides alone: it takes what is right though unusual (30.0 for a whole
number), and names row, column and rule of what is wrong. No message repeats a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.contract.errors import InvalidInput, TooLarge, Undecodable, Violation
from modelyard.contract.features import Column, Contract
from modelyard.contract.tensor import Matrix

MAX_VIOLATIONS = 50  # broken rules listed in one answer; the rest are counted
_INT_MAX = 2**62  # whole numbers beyond take the slow way
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_ABSENT: Any = object()  # a key that is not there, which differs from null
_NAN = math.nan


class Encoder:
    """One contract, compiled once; safe to share, never changes.

    A matrix is float32[rows, features]: NaN is missing, a category is its position in the contract's list.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.features = contract.features
        self.names = tuple(column.name for column in self.features)
        self.known = frozenset(column.name for column in contract.columns)
        row: Any = _row_type(contract)
        self._decode = None if row is None else msgspec.json.Decoder(row | list[row]).decode
        self._flatten = _row_function(self.features)
        self._clip, self._fill = _cleaning(self.features)
        self._minimum, self._maximum, self._whole = _limits(self.features)
        # A caller who sends float32 means its 0.1, which lies above the maximum 0.1 that a person wrote.
        with np.errstate(over="ignore"):
            self._within32 = self._minimum.astype(np.float32), self._maximum.astype(np.float32)
            # Of other numbers, what fits these fits the limits themselves; the careful way decides the rest.
            self._inner32 = np.nextafter(self._within32[0], np.inf), np.nextafter(self._within32[1], -np.inf)
        private = np.array([column.pii != "none" for column in self.features])
        self.private = private if private.any() else None  # columns that no record may hold

    def decode_json(self, body: bytes | bytearray, max_rows: int) -> tuple[Matrix, bool]:
        """The matrix of one JSON object or a list of them, and whether it was a single object.

        Raises Undecodable (not JSON), InvalidInput (breaks the contract), TooLarge (more than `max_rows`).
        """
        if self._decode is None:
            return self._decode_carefully(body, max_rows)
        try:
            rows: Any = self._decode(body)
            if not isinstance(rows, list):
                return np.array([self._flatten(rows)], dtype=np.float32), True
            if 0 < len(rows) <= max_rows:
                return np.array([self._flatten(row) for row in rows], dtype=np.float32), False
        except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
            pass  # the slow way says what is wrong, or takes it after all
        return self._decode_carefully(body, max_rows)

    def encode_rows(self, rows: Sequence[Any]) -> Matrix:
        """The matrix of Python rows (dicts). Raises InvalidInput with every broken rule."""
        violations: list[Violation] = []
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                violations.append(Violation("type", "a row is an object of columns", row=index))
            elif unknown := [key for key in row if key not in self.known]:
                # A caller's key may itself be data: name it only if it looks like a column name.
                violations += [
                    Violation("unknown", "is not a column of this endpoint", _shown(key), index) for key in unknown
                ]
        if any(violation.rule == "type" for violation in violations):
            raise refusal(violations)
        columns = {name: [row.get(name, _ABSENT) for row in rows] for name in self.names}
        return self.encode_columns(columns, len(rows), violations)

    def encode_columns(
        self, columns: Mapping[str, Sequence[Any] | NDArray[Any]], count: int, violations: list[Violation] | None = None
    ) -> Matrix:
        """The matrix of whole columns, each of `count` values. Raises InvalidInput with every broken rule.

        Columns that the contract does not use are ignored here: a table may hold more than a caller may send.
        """
        found = list(violations or ())
        matrix = np.full((count, len(self.features)), np.nan, dtype=np.float32)
        with np.errstate(over="ignore"):
            for position, column in enumerate(self.features):
                values = columns.get(column.name, _ABSENT)
                if values is _ABSENT:
                    values = [_ABSENT] * count
                matrix[:, position] = _encode_column(column, values, found)
        if found:
            raise refusal(found)
        return matrix

    def encode_matrix(self, matrix: NDArray[Any]) -> Matrix:
        """A caller's own matrix, any numbers [rows, features], as ours. Raises InvalidInput with every broken rule.

        One look at the whole settles the common case; only what it does not settle is read column by column.
        """
        if matrix.dtype.kind in "fiu":
            if matrix.dtype == np.float32:
                short, (low, high) = matrix, self._within32
            else:
                with np.errstate(over="ignore"):
                    short, (low, high) = matrix.astype(np.float32), self._inner32
            every = np.logical_and.reduce  # a third of the time of `(a & b).all()`
            # NaN is never fit.
            is_fit = every(short >= low, axis=None) and every(short <= high, axis=None)
            if is_fit and (self._whole is None or not np.mod(matrix[:, self._whole], 1).any()):
                return short
        return self.encode_columns(dict(zip(self.names, matrix.T, strict=True)), len(matrix))

    def number_types(self) -> tuple[Any, ...] | None:
        """One msgspec type for each feature of a row, if every feature is a plain number; a decoder may use them."""
        if any(column.kind != "number" for column in self.features):
            return None
        return tuple(_fast_type(column) for column in self.features)

    def finish(self, matrix: Matrix) -> Matrix:
        """The fitted cleaning, once for each batch: clip, then fill. May return the same array."""
        if self._clip is not None:
            low, high = self._clip
            matrix = np.minimum(np.maximum(matrix, low), high)  # NaN stays NaN; np.clip costs four times this
        if self._fill is not None:
            matrix = np.where(np.isnan(matrix), self._fill, matrix)
        return matrix

    def _decode_carefully(self, body: bytes | bytearray, max_rows: int) -> tuple[Matrix, bool]:
        rows = decode_any(body)
        single = isinstance(rows, dict)
        if single:
            rows = [rows]
        if not isinstance(rows, list):
            raise InvalidInput("the body is one row (an object) or a list of rows")
        if not rows:
            raise InvalidInput("the list holds no row")
        if len(rows) > max_rows:
            raise TooLarge(f"{len(rows)} rows are above the limit max_rows={max_rows}; send them in parts")
        return self.encode_rows(rows), single


def decode_any(body: bytes | bytearray) -> Any:
    """Any JSON value, or Undecodable that says where it broke."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise Undecodable("the JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise Undecodable("the body is not UTF-8") from None
    except msgspec.DecodeError as error:
        hint = (
            "; JSON has no NaN or Infinity, send null for a missing value"
            if b"NaN" in body or b"Infinity" in body
            else ""
        )
        raise Undecodable(f"{error}{hint}" if body else "the body is empty; a JSON row is expected") from None


def refusal(violations: list[Violation]) -> InvalidInput:
    """One error for many broken rules; the first is in its sentence."""
    first, more = violations[0], len(violations) - 1
    where = f"column {first.column!r} " if first.column is not None else ""
    at = f"row {first.row}: " if first.row is not None else ""
    tail = f" (and {more} more)" if more else ""
    return InvalidInput(f"{at}{where}{first.message}{tail}", tuple(violations[:MAX_VIOLATIONS]))


def counted_from(start: int, error: InvalidInput) -> InvalidInput:
    """The same refusal with rows counted as the caller's list does, not as the part of it that was refused."""
    if not start or not error.violations:
        return error
    moved = [
        violation if violation.row is None else msgspec.structs.replace(violation, row=violation.row + start)
        for violation in error.violations
    ]
    return refusal(moved)


def _shown(key: Any) -> str:
    text = str(key)
    return text if len(text) <= 64 and text.isprintable() else f"<a name of {len(text)} characters>"


# --- the fast way -----------------------------------------------------------------------------------------------


def _row_type(contract: Contract) -> Any:
    """The type of one row; None when a column's name has a sign that msgspec takes in no field's name."""
    if any(sign in '"\\' or sign < " " for column in contract.columns for sign in column.name):
        return None
    fields: list[Any] = []
    rename: dict[str, str] = {}
    for position, column in enumerate(contract.features):
        field = f"f{position}"
        rename[field] = column.name
        default = () if column.default is None else (column.default,)
        fields.append((field, _fast_type(column), *default))
    for position, column in enumerate(column for column in contract.columns if column.role != "feature"):
        rename[f"u{position}"] = column.name
        fields.append((f"u{position}", Any, None))
    return msgspec.defstruct("Row", fields, rename=rename, kw_only=True, forbid_unknown_fields=True, gc=False)


def _fast_type(column: Column) -> Any:
    if column.kind == "category":
        closed = column.unseen == "refuse"
        kind: Any = Literal[column.categories] if closed else Annotated[str, msgspec.Meta(min_length=1)]
    elif column.kind == "boolean":
        kind = bool
    elif column.kind == "integer":
        low = -_INT_MAX if column.minimum is None else _within(math.ceil(column.minimum), _INT_MAX)
        high = _INT_MAX if column.maximum is None else _within(math.floor(column.maximum), _INT_MAX)
        kind = Annotated[int, msgspec.Meta(ge=low, le=high)]
    else:
        least = -_FLOAT32_MAX if column.minimum is None else max(column.minimum, -_FLOAT32_MAX)
        most = _FLOAT32_MAX if column.maximum is None else min(column.maximum, _FLOAT32_MAX)
        kind = Annotated[float, msgspec.Meta(ge=least, le=most)]
    return kind | None if column.nullable else kind


def _within(bound: int, limit: int) -> int:
    """`bound`, or just outside `limit` where it is further out: msgspec compares in 64 bits."""
    return max(-limit - 1, min(bound, limit + 1))


def _row_function(features: tuple[Column, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a decoded row to its numbers, written out once: a loop over columns costs five times as much."""
    names: dict[str, Any] = {"nan": _NAN}
    parts = []
    for position, column in enumerate(features):
        if column.kind == "category":
            names[f"codes{position}"] = {category: float(code) for code, category in enumerate(column.categories)}.get
            parts.append(f"codes{position}(row.f{position}, nan)")
        else:
            parts.append(f"row.f{position}")  # None becomes NaN when numpy makes a float of it
    source = f"lambda row: ({''.join(part + ',' for part in parts)})"
    return eval(source, names)  # type: ignore[no-any-return]  # noqa: S307 - only positions are in the source


# --- the slow way: the rules, written once ----------------------------------------------------------------------


def _encode_column(column: Column, values: Sequence[Any] | NDArray[Any], found: list[Violation]) -> NDArray[np.float64]:
    before = len(found)
    is_short = isinstance(values, np.ndarray) and values.dtype == np.float32
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu" and column.kind != "category":
        numbers = values.astype(np.float64)
    else:
        numbers = np.array([_number(column, value, row, found) for row, value in enumerate(values)], dtype=np.float64)
    wrong = {violation.row for violation in found[before:]}

    def check(bad: NDArray[np.bool_], rule: str, message: str) -> None:
        for row in np.flatnonzero(bad).tolist() if bad.any() else ():
            if row not in wrong:
                wrong.add(row)
                found.append(Violation(rule, message, column.name, row))

    if not column.nullable and not (column.kind == "category" and column.unseen == "missing"):
        check(np.isnan(numbers), "missing", "must not be missing")
    if column.kind == "category":
        return numbers
    check(np.isinf(numbers) | (np.abs(numbers) > _FLOAT32_MAX), "finite", "must be a finite number")
    if column.kind == "boolean":
        check(~np.isnan(numbers) & (numbers != 0) & (numbers != 1), "type", "must be true or false")
    if column.kind == "integer":
        check(np.isfinite(numbers) & (numbers != np.floor(numbers)), "whole", "must be a whole number")
    if column.minimum is not None:
        check(numbers < _as_sent(column.minimum, is_short), "minimum", f"must be at least {column.minimum:.12g}")
    if column.maximum is not None:
        check(numbers > _as_sent(column.maximum, is_short), "maximum", f"must be at most {column.maximum:.12g}")
    return numbers


def _as_sent(limit: float, is_short: bool) -> float:
    """A limit as a caller of float32 would write it."""
    with np.errstate(over="ignore"):
        return float(np.float32(limit)) if is_short else limit


def _number(column: Column, value: Any, row: int, found: list[Violation]) -> float:
    """One value as its number; a broken rule is noted and NaN returned."""
    if value is _ABSENT:
        if column.default is None:
            found.append(Violation("required", "is required", column.name, row))
            return _NAN
        value = column.default
    if value is None or value == "" or (isinstance(value, float | np.floating) and math.isnan(value)):
        if column.kind == "category" and column.unseen == "missing" and not column.nullable:
            found.append(Violation("missing", "must not be missing", column.name, row))
        return _NAN
    if column.kind == "category":
        return _code(column, value, row, found)
    if isinstance(value, bool | np.bool_):
        if column.kind == "boolean":
            return float(value)
    elif isinstance(value, int | float | np.number):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    wanted = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}[column.kind]
    found.append(Violation("type", f"must be {wanted}", column.name, row))
    return _NAN


def _code(column: Column, value: Any, row: int, found: list[Violation]) -> float:
    if not isinstance(value, str):
        found.append(Violation("type", "must be text", column.name, row))
        return _NAN
    try:
        return float(column.categories.index(value))
    except ValueError:
        if column.unseen == "refuse":
            listed = ", ".join(column.categories[:12]) + (", ..." if len(column.categories) > 12 else "")
            found.append(Violation("category", f"must be one of: {listed}", column.name, row))
        return _NAN


def _limits(
    features: tuple[Column, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp] | None]:
    """Each feature's least and largest number, and which features hold whole numbers only."""
    least, most = [], []
    for column in features:
        codes = {"category": (0.0, -1.0), "boolean": (0.0, 1.0)}  # no number is a category: those are read one by one
        low, high = codes.get(column.kind, (column.minimum, column.maximum))
        least.append(-_FLOAT32_MAX if low is None else low)
        most.append(_FLOAT32_MAX if high is None else high)
    whole = [position for position, column in enumerate(features) if column.kind in ("integer", "boolean")]
    return np.array(least), np.array(most), np.array(whole, dtype=np.intp) if whole else None


def _cleaning(features: tuple[Column, ...]) -> tuple[tuple[Matrix, Matrix] | None, Matrix | None]:
    low = np.array([column.clip[0] if column.clip else -np.inf for column in features], dtype=np.float32)
    high = np.array([column.clip[1] if column.clip else np.inf for column in features], dtype=np.float32)
    fill = np.array([_NAN if column.fill is None else column.fill for column in features], dtype=np.float32)
    clips, fills = bool(np.isfinite(low).any() or np.isfinite(high).any()), bool(np.isfinite(fill).any())
    return ((low, high) if clips else None), (fill if fills else None)
