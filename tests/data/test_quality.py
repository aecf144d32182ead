"""The quality report sees what a careful person would see."""

import numpy as np
import polars as pl
import pytest

from modelyard.data.quality import area, class_names, is_sensitive, quality_report

ROWS = 600


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    y = rng.random(ROWS) < 0.3
    income = rng.normal(50, 5, ROWS)
    income[:4] = 5000
    return pl.DataFrame(
        {
            "customer_id": [f"c{i}" for i in range(ROWS)],
            "row": range(ROWS),
            "income": income,
            "gap": [None if i % 3 == 0 else float(i % 7) for i in range(ROWS)],
            "same": ["x"] * ROWS,
            "verdict": ["ja" if bad else "nein" for bad in y],
            "almost": y + rng.normal(0, 0.05, ROWS),
            "foreign_worker": rng.choice(["yes", "no"], ROWS),
            "age": rng.integers(18, 80, ROWS),
            "opened": ["2024-01-02", "2024-03-04"] * (ROWS // 2),
            "status": ["bad" if bad else "good" for bad in y],
        }
    )


def test_each_column_is_seen_for_what_it_is(table: pl.DataFrame) -> None:
    report = quality_report(table, "status")
    assert report.names("identifier") == ["customer_id", "row"]
    assert report.names("constant") == ["same"]
    assert report.names("leaking") == ["verdict", "almost"]
    assert report.names("equals_target") == ["verdict"]
    assert report.names("sensitive") == ["foreign_worker"]
    assert report.column("gap").missing == 200
    assert report.column("opened").kind == "date"
    assert report.column("income").outliers_z == 4
    assert report.column("income").outliers_iqr is not None
    assert report.column("income").outliers_iqr >= 4
    assert "age" in report.column("age").notes[0]
    assert sum(report.classes.values()) == ROWS


def test_duplicates_and_missing_outcomes_are_counted() -> None:
    table = pl.DataFrame({"a": [1, 1, 2, 3], "y": ["n", "n", None, "p"]})
    report = quality_report(table, "y")
    assert (report.duplicate_rows, report.target_missing) == (1, 1)


def test_missing_that_tells_the_outcome_is_a_leak() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(400) < 0.4
    table = pl.DataFrame({"recovered": [float(rng.random()) if bad else None for bad in y], "y": y})
    assert quality_report(table, "y").names("leaking") == ["recovered"]


@pytest.mark.parametrize(
    ("name", "sensitive"),
    [
        ("sex", True),
        ("applicantGender", True),
        ("personal_status_and_sex", True),
        ("foreign_worker", True),
        ("afam", True),
        ("客户性别", True),
        ("民族", True),
        ("Marital", False),
        ("Age", False),
        ("sextant", False),
        ("trace", False),
    ],
)
def test_sensitive_by_name(name: str, sensitive: bool) -> None:
    assert is_sensitive(name) is sensitive


def test_area_counts_ties_half() -> None:
    assert area(np.array([0.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0, 0.0])) == pytest.approx(3.5 / 4)


def test_class_names_of_numbers_have_no_point() -> None:
    assert class_names(pl.Series([0.0, 1.0, None])).to_list() == ["0", "1", None]
    assert class_names(pl.Series([True, False])).to_list() == ["true", "false"]
