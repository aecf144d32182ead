"""The verb `quality`: what a table is like before anybody learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit

if TYPE_CHECKING:
    from modelyard.data.quality import ColumnQuality

HEADINGS = (
    "quality_column",
    "quality_kind",
    "quality_missing",
    "quality_distinct",
    "quality_outliers_z",
    "quality_outliers_iqr",
    "quality_remarks",
)
FLAGS = ("constant", "identifier", "leaking", "equals_target", "sensitive")


def add(verbs: Any) -> None:
    """The words of this verb."""
    quality = verbs.add_parser("quality", help="report on a table: missing, odd, constant, leaking, sensitive")
    quality.add_argument("table", type=Path, metavar="TABLE", help=".csv, .parquet or .jsonl")
    quality.add_argument("--target", metavar="COLUMN", help="what is to be predicted; shows which columns leak it")
    quality.add_argument("--json", action="store_true", help="one JSON document")
    quality.set_defaults(run=run_quality)


def run_quality(context: Context) -> int:
    """A row for each column; the table itself is only read."""
    from modelyard.contract.errors import InvalidInput
    from modelyard.data.quality import quality_report
    from modelyard.data.sources import read_table

    args = context.args
    table = read_table(args.table)
    if args.target is not None and args.target not in table.columns:
        raise InvalidInput(f"{args.table} has no column {args.target!r}; it has: {', '.join(table.columns[:20])}")
    report = quality_report(table, args.target)
    if context.wants_json:
        context.console.json(report)
        return Exit.OK
    context.console.say("quality_rows", rows=report.rows, columns=len(table.columns), duplicates=report.duplicate_rows)
    if report.classes:
        shares = ", ".join(f"{name} {count / report.rows:.1%}" for name, count in report.classes.items())
        context.console.say("quality_classes", target=report.target, shares=shares, missing=report.target_missing)
    context.console.table([context.console.text(heading) for heading in HEADINGS], map(_row, report.columns))
    return Exit.OK


def _row(column: ColumnQuality) -> tuple[str, ...]:
    remarks = [flag.replace("_", " ") for flag in FLAGS if getattr(column, flag)]
    return (
        column.name,
        column.kind,
        f"{column.missing} ({column.missing_share:.1%})" if column.missing else "-",
        str(column.distinct),
        "-" if column.outliers_z is None else str(column.outliers_z),
        "-" if column.outliers_iqr is None else str(column.outliers_iqr),
        "; ".join([*remarks, *column.notes]),
    )
