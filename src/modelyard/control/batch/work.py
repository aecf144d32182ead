"""What a batch prediction does: rows of a file through a version, chunk by chunk, with the endpoint's own numbers."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput
from modelyard.contract.infer import Prediction
from modelyard.control.batch.parts import Counted, Parts
from modelyard.control.setup import active_home
from modelyard.data.answers import answer_cells, answer_columns, answer_each, why, without_clash
from modelyard.data.table_files import TableFile, open_table, value_of
from modelyard.runtimes.load import LoadedModel
from modelyard.train.progress import Progress, Silent

NO_REQUEST = ("request_id", "request_row")  # a batch is no request
PEEK_BYTES = 1024 * 1024


def batch_job(
    progress: Progress | None = None, *, digest: str, version: int, source: str, output: str, rejects: str,
    chunk_rows: int, cutoff: float | None, reasons: str | None, language: str,
) -> dict[str, Any]:  # fmt: skip
    """Predict every row of `source` with one version and write the table `output`; refused rows go to `rejects`.

    Called again after it was killed, it goes on after the last whole chunk. What it counted comes back.
    Raises InvalidInput, NotFound, and Conflict while another batch writes the same output.
    """
    progress = progress or Silent()
    progress.step("loading", f"version {version}")
    artifact = Shelf(active_home().shelf).open(digest)
    progress.step("reading", Path(source).name)
    table, total, source_digest = open_table(Path(source)), *_measured(Path(source))
    identity = {
        "version": digest, "source": source_digest, "chunk_rows": chunk_rows, "cutoff": cutoff, "reasons": reasons,
        "language": language,
    }  # fmt: skip
    with LoadedModel(artifact, version, cutoff) as model, Parts(Path(output), Path(rejects), identity) as parts:
        answer = Answering(model, table, reasons, language)
        counts = _fill(parts, table, answer, chunk_rows, lambda rows: progress.tick(min(rows, total), total), progress)
        parts.join(len(counts), answer.refused_columns)
    answered, refused = sum(part.answered for part in counts), sum(part.refused for part in counts)
    progress.step("written", f"{answered} rows, {refused} refused")
    return {
        "rows": answered + refused, "answered": answered, "refused": refused, "output": output,
        "rejects": rejects if refused else None, "model": model.manifest.model, "version": version,
    }  # fmt: skip


def _fill(
    parts: Parts, table: TableFile, answer: "Answering", chunk_rows: int, told: Callable[[int], None],
    progress: Progress,
) -> list[Counted]:  # fmt: skip
    """Every chunk that is not there yet; what all of them hold."""
    counts: list[Counted] = []
    progress.step("predicting")
    first = 1
    for chunk in _chunks(table.rows, chunk_rows):
        counted = parts.counted(len(counts))
        if counted is None:
            counted = parts.write(len(counts), *answer.parts_of(chunk, first))
        counts.append(counted)
        first += len(chunk)
        told(first - 1)
    if not counts:
        raise InvalidInput("the table has a header but no rows")
    return counts


def _chunks(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(islice(rows, size)):
        yield chunk


class Answering:
    """One version that answers chunks of one file."""

    def __init__(self, model: LoadedModel, table: TableFile, reasons: str | None, language: str) -> None:
        contract = model.contract
        if not contract.columns:
            raise InvalidInput(f"{model.manifest.model} takes tensors; batches are tables of rows")
        self._model, self._reasons, self._language = model, reasons, language
        self._columns = table.columns
        self._kinds = {column.name: column.kind for column in contract.features if column.name in table.columns}
        self.refused_columns = ["row", "refused_because", *table.columns]

    def parts_of(self, rows: list[dict[str, Any]], first: int) -> tuple[list[str], list[list[Any]], list[list[Any]]]:
        """Columns and rows that were answered, and rows that were refused; `first` is the number of the first."""
        asked = [self._asked(row) for row in rows]
        answers = answer_each(asked, partial(self._model.predict, reasons=self._reasons, language=self._language))
        given = next((answer for answer in answers if isinstance(answer, Prediction)), None)
        names = [name for name in answer_columns(given) if name not in NO_REQUEST] if given else []
        answered, refused = [], []
        for at, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            cells = [row.get(column) for column in self._columns]
            if isinstance(answer, Prediction):
                answered.append([*cells, *answer_cells(answer, names)])
            else:
                refused.append([first + at, why(answer), *cells])
        return [*self._columns, *without_clash(names, self._columns)], answered, refused

    def _asked(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: value_of(kind, row[name]) for name, kind in self._kinds.items() if name in row}


def _measured(path: Path) -> tuple[int, str]:
    """About how many rows there are, for the progress alone; and the digest, by which a killed job knows its parts."""
    digest, lines = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while part := file.read(PEEK_BYTES):
            digest.update(part)
            lines += part.count(b"\n")
    if path.suffix.lower() == ".parquet":
        import polars as pl

        lines = int(pl.scan_parquet(path).select(pl.len()).collect().item()) + 1
    return max(1, lines - 1), digest.hexdigest()
