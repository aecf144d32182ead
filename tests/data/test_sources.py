"""Tables are read whole, or refused with a reason that helps."""

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.data.sources import digest_of, read_source, read_table

CSV = "name,age,income,member,zip\n Ann ,31,1.5,true,01234\nBob,NA,2,false,00001\n?,40,,TRUE,12345\n"


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_numbers_are_typed_and_text_is_stripped(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", CSV))
    assert table.to_dict(as_series=False) == {
        "name": ["Ann", "Bob", None],
        "age": [31, None, 40],
        "income": [1.5, 2.0, None],
        "member": [True, False, True],
        "zip": ["01234", "00001", "12345"],  # a leading zero makes it a code
    }


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path: Path, separator: str) -> None:
    table = read_table(write(tmp_path, "t.csv", CSV.replace(",", separator)))
    assert table.columns == ["name", "age", "income", "member", "zip"]


@pytest.mark.parametrize("token", ["", "NA", "N/A", "NaN", "nan", "null", "None", "?", "  ? "])
def test_every_word_for_missing_is_null(tmp_path: Path, token: str) -> None:
    assert read_table(write(tmp_path, "t.csv", f"a,b\n1,x\n{token},y\n"))["a"].to_list() == [1, None]


def test_all_suffixes_give_the_same_table(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", CSV))
    write(tmp_path, "t.csv.gz", gzip.compress(CSV.encode()))
    table.write_parquet(tmp_path / "t.parquet")
    table.write_ndjson(tmp_path / "t.jsonl")
    for suffix in ("csv.gz", "parquet", "jsonl"):
        assert read_table(tmp_path / f"t.{suffix}").equals(table), suffix


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "t.csv", b"\xef\xbb\xbfa,b\n1,2\n")).columns == ["a", "b"]


def test_latin_1_is_read_and_said_aloud(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, "t.csv", "stadt,n\nKöln,1\n".encode("latin-1")))
    assert source.table["stadt"].to_list() == ["Köln"]
    assert "Latin-1" in source.notes[0]
    assert source.digest == digest_of(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.csv", b"", "empty"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"a,a\n1,2\n", "twice: a"),
        ("t.csv", b"1,2\n3,4\n", "header"),
        ("t.csv", b"a,b\n1,2,3\n", "does not fit the header"),
        ("t.csv", b"a,b\x00\n1,2\n", "zero bytes"),
        ("t.csv", b"a,,b\n1,2,3\n", "column 2 has no name"),
        ("t.csv.gz", b"not gzip", "gzip"),
        ("t.parquet", b"PAR1 no", "Parquet"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', "line 2"),
        ("t.jsonl", b'{"a": {"b": 1}}\n', "objects or lists"),
        ("t.xlsx", b"x", "must be one of .csv"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_table(write(tmp_path, name, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.csv"):
        read_table(tmp_path / "gone.csv")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=20))
def test_floats_survive_the_journey_through_text(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("floats") / "t.csv"
    pl.DataFrame({"x": values, "k": ["a"] * len(values)}).write_csv(path)
    assert [float(value) for value in read_table(path)["x"].to_list()] == values
