"""A contract as one TOML file that people edit, and back again with errors that say where."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.features import Contract

_HEAD = """\
# The data contract: what callers may send, and how a row becomes numbers.
# A column's role is feature (the model sees it), sensitive or unused (accepted and dropped).
# clip, fill, typical and bins are fitted in training; what is stated here is kept as it is.

"""


def to_toml(contract: Contract) -> str:
    """The contract as TOML; `from_toml` gives the same contract back."""
    return _HEAD + tomli_w.dumps(_bare(msgspec.to_builtins(contract)), multiline_strings=False)


def from_toml(text: str, name: str = "the contract") -> Contract:
    """The contract that a TOML text describes. Raises InvalidInput that names line, column and field."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{name}: not TOML: {error}") from None
    try:
        return msgspec.convert(values, Contract)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{name}: {_where(str(error), values, text)}") from None
    except ValueError as error:
        raise InvalidInput(f"{name}: {error}") from None


def read_contract(path: str | Path) -> Contract:
    """The contract in a TOML file. Raises NotFound, or InvalidInput as `from_toml` does."""
    path = Path(path)
    try:
        return from_toml(path.read_text("utf-8"), path.name)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path.name!r}; check the path") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path.name}: is not UTF-8 text") from None


def _bare(value: Any) -> Any:
    """The value without nulls, which TOML has not; an absent field is the same."""
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_bare(inner) for inner in value]
    return value


_PLACE = re.compile(r" - at `\$(.*)`$")
_COLUMN = re.compile(r"^\.columns\[(\d+)\]\.?(.*)$")


def _where(message: str, values: dict[str, Any], text: str) -> str:
    """The message with the column's name and the line instead of a path in brackets."""
    if not (place := _PLACE.search(message)):
        return message
    what = message[: place.start()]
    if not (inside := _COLUMN.match(place.group(1))):
        return f"{place.group(1).lstrip('.') or 'top level'}: {what}"
    position, field = int(inside.group(1)), inside.group(2)
    column = values["columns"][position]
    named = f"column {column.get('name', position + 1)!r}" if isinstance(column, dict) else f"column {position + 1}"
    line = _line(text, position, field.partition("[")[0] or (_unknown(what) or ""))
    return f"line {line}: {named}{f', {field}' if field else ''}: {what.removeprefix(f'{named}: ')}"


def _unknown(what: str) -> str | None:
    found = re.search(r"unknown field `(.*)`", what)
    return found.group(1) if found else None


def _line(text: str, position: int, field: str) -> int:
    """The line of a field in the column with that position; of the column's head if it has no such field."""
    head = seen = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip().startswith("[[columns]]"):
            if seen == position + 1:
                break
            seen += 1
            head = number
        elif seen == position + 1 and field and re.match(rf"\s*\"?{re.escape(field)}\"?\s*=", line):
            return number
    return head or 1
