"""The verb `predict`: a file's rows through the running gateway, in order; refused rows are put aside, with reasons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import InvalidInput
from modelyard.contract.infer import Prediction
from modelyard.data.answers import ANSWERS, Answer, answer_cells, answer_columns, answer_each, why, without_clash

if TYPE_CHECKING:
    from modelyard.client.client import Endpoint

CHUNK_ROWS = 1_000
SHOWN_REFUSALS = 5


@dataclass(frozen=True)
class Answered:
    """One row of the file and what became of it."""

    number: int  # counts from 1, below the header
    row: dict[str, Any]
    answer: Answer


def add(verbs: Any) -> None:
    """The words of this verb."""
    predict = verbs.add_parser("predict", help="send a file's rows through the running gateway")
    predict.add_argument("name", metavar="NAME", help="of the endpoint")
    predict.add_argument("--data", required=True, type=Path, metavar="FILE", help=".csv, .csv.gz, .jsonl or .parquet")
    predict.add_argument("--output", type=Path, metavar="FILE", help="a .csv with the file's columns and the answers")
    predict.add_argument(
        "--reasons", choices=("all", "none"), help="for every row, or for none (those of the declined)"
    )
    predict.add_argument("--key", help="an API key; MODELYARD_KEY in the environment is better")
    predict.add_argument("--url", help="of the gateway (this home's)")
    predict.add_argument("--json", action="store_true", help="one JSON document on stdout")
    predict.set_defaults(run=run_predict)


def run_predict(context: Context) -> int:
    """0 if every row was answered, 3 if some were refused."""
    from modelyard.client.client import Client
    from modelyard.data.table_files import open_table

    args = context.args
    if args.output and args.output.suffix.lower() != ".csv":
        raise InvalidInput("--output is a .csv file; for JSON use --json")
    table = open_table(args.data)
    with Client(_url(context), args.key or os.environ.get("MODELYARD_KEY")) as client:
        endpoint = client.endpoint(args.name)
        kinds = _kinds(endpoint.describe(), table.columns, args.data.name)
        answered = _answers(endpoint, table.rows, kinds, args.reasons, context.console.language)
        if args.output and not args.json:
            return _to_file(context, table.columns, answered)
        return _to_screen(context, args.name, list(answered))


def _url(context: Context) -> str:
    from modelyard.cli.up import gateway_url, reachable_url, running_gateway

    if url := context.args.url or os.environ.get("MODELYARD_URL"):
        return str(url)
    state = running_gateway(context)
    return reachable_url(state.url) if state else gateway_url(context.settings)


def _kinds(description: dict[str, Any], columns: list[str], name: str) -> dict[str, str]:
    """The columns to send and their kinds: those that the version uses, and no others, leave this machine."""
    used = [column for column in description.get("columns", ()) if column.get("used", True)]
    if absent := [column["name"] for column in used if column.get("required") and column["name"] not in columns]:
        raise InvalidInput(f"{name} lacks columns that the endpoint requires: {', '.join(absent)}")
    return {column["name"]: column["kind"] for column in used if column["name"] in columns}


def _answers(
    endpoint: Endpoint, rows: Iterator[dict[str, Any]], kinds: dict[str, str], reasons: str | None, language: str
) -> Iterator[Answered]:
    """Every row of the file in order, each with its answer or with why it was refused."""
    from modelyard.data.table_files import value_of

    first = 1
    while chunk := list(islice(rows, CHUNK_ROWS)):
        sent = [{name: value_of(kind, row[name]) for name, kind in kinds.items() if name in row} for row in chunk]
        found = answer_each(sent, lambda rows: endpoint.predict(rows, reasons=reasons, language=language))
        for at, (row, answer) in enumerate(zip(chunk, found, strict=True)):
            yield Answered(first + at, row, answer)
        first += len(chunk)


def _to_file(context: Context, columns: list[str], answered: Iterator[Answered]) -> int:
    from modelyard.data.table_files import CsvOutput

    path = context.args.output
    aside = path.with_suffix(".rejected.csv")
    aside.unlink(missing_ok=True)  # of an earlier run: it would say that rows of this one were refused
    outputs: dict[str, None] = {}
    with CsvOutput(aside) as rejected:
        with CsvOutput(path) as output:
            for entry in answered:
                if isinstance(entry.answer, tuple):
                    rejected.begin(["row", "refused_because", *columns])
                    rejected.write([entry.number, why(entry.answer), *_cells(entry.row, columns)])
                    continue
                if not output.count:
                    outputs = dict.fromkeys(answer_columns(entry.answer))
                    output.begin([*columns, *without_clash(list(outputs), columns)])
                output.write([*_cells(entry.row, columns), *answer_cells(entry.answer, list(outputs))])
            if not output.count:
                output.begin([*columns, *without_clash(list(ANSWERS), columns)])
        context.console.say("predicted", count=f"{output.count:,}", file=path)
    if rejected.count:
        context.console.note("rows_refused", style="yellow", count=f"{rejected.count:,}", file=aside)
        return Exit.PARTLY_REFUSED
    return Exit.OK


def _to_screen(context: Context, name: str, answered: list[Answered]) -> int:
    refused = [entry for entry in answered if isinstance(entry.answer, tuple)]
    given = [(entry.number, entry.answer) for entry in answered if isinstance(entry.answer, Prediction)]
    if context.wants_json:
        context.console.json(
            {
                "endpoint": name,
                "predictions": [{"row": number, **_as_json(answer)} for number, answer in given],
                "refused": [{"row": entry.number, "violations": entry.answer} for entry in refused],
            }
        )
    elif given:
        columns = [column for column in answer_columns(given[0][1]) if column not in ANSWERS[-3:]]
        context.console.table(["row", *columns], [(number, *answer_cells(answer, columns)) for number, answer in given])
    for entry in refused[:SHOWN_REFUSALS]:
        context.console.note("row_refused", style="yellow", row=entry.number, why=why(entry.answer))  # type: ignore[arg-type]
    if len(refused) > SHOWN_REFUSALS:
        context.console.note("more_refused", style="yellow", count=f"{len(refused) - SHOWN_REFUSALS:,}")
    return Exit.PARTLY_REFUSED if refused else Exit.OK


def _as_json(answer: Prediction) -> dict[str, Any]:
    """The prediction's fields; `row` is the file's, not the request's."""
    said: dict[str, Any] = msgspec.to_builtins(answer)
    said["request_row"] = said.pop("row", 0)
    return said


def _cells(row: dict[str, Any], columns: list[str]) -> list[Any]:
    return [row.get(column) for column in columns]
