"""Files in, files out: the same cells as training reads, whole files or none."""

import csv
import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.data import sources
from modelyard.data.table_files import MISSING, CsvOutput, open_table, value_of

TEXT = 'name,"the age"\nAnna,35\n"O, Neil",\n'


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(open_table(path).rows)


def test_the_words_for_missing_are_trainings_own() -> None:
    assert MISSING == sources.MISSING


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", TEXT.encode()),
        ("a.csv", TEXT.encode("utf-8-sig")),
        ("a.csv", TEXT.encode("utf-16")),
        ("a.csv", TEXT.replace("\n", "\r\n").encode()),
        ("a.tsv", b'name\tthe age\nAnna\t35\n"O, Neil"\t\n'),
        ("a.txt", b'name;the age\nAnna;35\n"O, Neil";\n'),
        ("a.csv.gz", gzip.compress(TEXT.encode(), mtime=0)),
    ],
)
def test_every_customary_csv(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert open_table(path).columns == ["name", "the age"]
    assert rows_of(path) == [{"name": "Anna", "the age": "35"}, {"name": "O, Neil", "the age": ""}]


def test_latin_1_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("name\nJosé\n".encode("latin-1"))
    assert rows_of(tmp_path / "a.csv") == [{"name": "José"}]


def test_json_lines_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": null, "b": "x"}\n')
    assert open_table(tmp_path / "a.jsonl").columns == ["a", "b"]
    assert rows_of(tmp_path / "a.jsonl") == [{"a": 1}, {"a": None, "b": "x"}]
    pl.DataFrame({"a": [1, None]}).write_parquet(tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [{"a": 1}, {"a": None}]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,a\n1,2\n", "a name of its own"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the header has 2"),
        ("a.csv.gz", b"nothing zipped", "gzip"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "line 2 is not one JSON object"),
    ],
)
def test_what_is_no_table_is_said_by_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidInput, match=says):
        rows_of(tmp_path / name)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"rows\.csv"):
        open_table(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("number", " 1.50 ", 1.5),
        ("number", "1e3", 1000),
        ("integer", "30.0", 30),
        ("integer", "abc", "abc"),  # the gateway says what is wrong with it
        ("number", "NA", None),
        ("category", " fixed ", "fixed"),
        ("category", "007", "007"),
        ("category", "?", None),
        ("boolean", "TRUE", True),
        ("boolean", "maybe", "maybe"),
        ("number", 2.5, 2.5),
    ],
)
def test_a_cell_becomes_what_its_column_wants(kind: str, cell: Any, value: Any) -> None:
    assert value_of(kind, cell) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_being_text(number: float) -> None:
    assert value_of("number", repr(number)) == number


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(RuntimeError), CsvOutput(path) as output:  # noqa: PT012 - the failure comes after a row
        output.begin(["a"])
        output.write(["1"])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with CsvOutput(path) as output:
        pass
    assert list(tmp_path.iterdir()) == []
    with CsvOutput(path) as output:
        output.begin(["a", "b"])
        output.write(['x,"y"', None])
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["a", "b"], ['x,"y"', ""]]
    assert output.count == 1
