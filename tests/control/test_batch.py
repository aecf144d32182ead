"""A table through a version: the endpoint's numbers, every row once, whatever is killed meanwhile."""

import csv
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kit.gateway import until
from kit.versions import expected, store
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import Conflict, InvalidInput, NotFound
from modelyard.contract.home import Home

ON_SQLITE = pytest.mark.parametrize("home", ["sqlite"], indirect=True)
ROWS = 2_500

DO = """
import json, sys
from modelyard.control.setup import start
start()
from modelyard.control.batch.work import batch_job
print(json.dumps(batch_job(**json.loads(sys.argv[1]))))
"""


def registered(home: Home, base: float = 0.0) -> int:
    from modelyard.control.registry.services import register_version

    shelf = Shelf(home.shelf)
    digest = store(shelf, base)
    return int(register_version(shelf.open(digest).manifest, digest, "test").number)


def some_rows(count: int = ROWS, seed: int = 7) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "id": at,
            "age": draw.choice([17, 25, 40, 60]) if at % 50 == 3 else draw.randint(18, 90),
            "income": draw.choice([None, 50.5, 120.0]),
            "home": draw.choice(["owner", "rent", None]),
            "job": draw.choice(["fixed", "freelance"]),
            "guarantor": draw.choice([True, False]),
        }
        for at in range(count)
    ]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = pl.DataFrame(rows)
    if path.suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predict(source: Path, output: Path, name: str = "loans", version: str | None = None, **given: Any) -> Any:
    from modelyard.control.batch.services import arguments_of
    from modelyard.control.batch.work import batch_job

    return batch_job(**arguments_of(name, version, source=source, output=output, **given))


@ON_SQLITE
@pytest.mark.parametrize(("into", "out"), [(".csv", ".csv"), (".parquet", ".parquet"), (".csv", ".parquet")])
def test_every_row_is_answered_or_refused_with_its_reason(home: Home, tmp_path: Path, into: str, out: str) -> None:
    registered(home)
    rows = some_rows()
    output = tmp_path / f"answers{out}"
    said = predict(written(tmp_path / f"rows{into}", rows), output, chunk_rows=400)
    wrong = [at for at, row in enumerate(rows) if row["age"] < 18]
    assert wrong
    assert (said["rows"], said["answered"], said["refused"]) == (ROWS, ROWS - len(wrong), len(wrong))
    answered = read(output)
    assert [int(row["id"]) for row in answered] == [at for at in range(ROWS) if at not in set(wrong)]
    for row in answered:
        asked = {name: value for name, value in rows[int(row["id"])].items() if name != "id"}
        assert float(row["probability"]) == pytest.approx(expected(asked), abs=1e-6)
        assert row["decision"] == ("decline" if float(row["probability"]) >= 0.3 else "approve")
    refused = read(tmp_path / "answers.rejected.csv")
    assert [int(row["row"]) - 1 for row in refused] == wrong
    assert all(row["refused_because"] == "age: must be at least 18" for row in refused)
    assert sorted(path.name for path in tmp_path.glob(".*")) == [], "parts are gone"


@ON_SQLITE
def test_an_endpoints_own_version_and_cut_off_count(home: Home, tmp_path: Path) -> None:
    from modelyard.control.deployments.services import configure, deploy

    registered(home)
    registered(home, base=1.0)
    deploy("loans", 1, by="test")
    configure("loans", "test", cutoff=0.9)
    predict(written(tmp_path / "rows.csv", some_rows(50)), tmp_path / "out.csv")
    answered = read(tmp_path / "out.csv")
    assert {row["version"] for row in answered} == {"1"}
    assert {row["decision"] for row in answered if 0.3 <= float(row["probability"]) < 0.9} == {"approve"}
    predict(tmp_path / "rows.csv", tmp_path / "two.csv", version="2")
    assert {row["version"] for row in read(tmp_path / "two.csv")} == {"2"}


@ON_SQLITE
def test_a_job_that_is_killed_goes_on_and_loses_or_doubles_no_row(home: Home, tmp_path: Path) -> None:
    import json

    from modelyard.control.batch.services import arguments_of

    registered(home)
    source = written(tmp_path / "rows.csv", some_rows())
    predict(source, tmp_path / "whole.csv", chunk_rows=100)
    output = tmp_path / "killed.csv"
    arguments = json.dumps(arguments_of("loans", source=source, output=output, chunk_rows=100))
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
    environment |= {"MODELYARD_HOME": str(home.root)}
    parts, draw = output.with_name(".killed.csv.parts"), random.Random(3)
    killed = 0
    for _ in range(12):
        job = subprocess.Popen([sys.executable, "-c", DO, arguments], env=environment, stdout=subprocess.PIPE)
        enough = len(list(parts.glob("[0-9]*.json"))) + draw.randint(1, 4)

        def is_far_enough(job: Any = job, enough: int = enough) -> bool:
            return job.poll() is not None or len(list(parts.glob("[0-9]*.json"))) >= enough

        until(is_far_enough, "some more parts are written")
        if job.poll() is not None:
            break
        os.kill(job.pid, signal.SIGKILL)
        job.communicate(timeout=30)
        killed += 1
    else:
        job = subprocess.Popen([sys.executable, "-c", DO, arguments], env=environment, stdout=subprocess.PIPE)
    said = json.loads(job.communicate(timeout=60)[0])
    assert killed >= 3
    assert job.returncode == 0
    assert said["rows"] == ROWS
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "killed.rejected.csv").read_bytes() == (tmp_path / "whole.rejected.csv").read_bytes()


@ON_SQLITE
def test_parts_of_another_table_or_version_are_not_used(home: Home, tmp_path: Path) -> None:
    from modelyard.control.batch.parts import Parts

    output = tmp_path / "out.csv"
    with Parts(output, tmp_path / "no.csv", {"version": "a"}) as parts:
        parts.write(0, ["x"], [[1]], [])
    with Parts(output, tmp_path / "no.csv", {"version": "a"}) as parts:
        assert parts.counted(0) is not None
        with pytest.raises(Conflict, match="another batch"), Parts(output, tmp_path / "no.csv", {"version": "a"}):
            pass
    with Parts(output, tmp_path / "no.csv", {"version": "b"}) as parts:
        assert parts.counted(0) is None


@ON_SQLITE
def test_what_is_left_of_a_folder_that_was_being_removed_is_not_used(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelyard.control.batch import parts as room

    registered(home)
    source, output = written(tmp_path / "rows.csv", some_rows(300)), tmp_path / "out.csv"

    def half(folder: Path) -> None:
        for path in sorted(folder.glob("*.csv"))[:1]:
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            predict(source, output, chunk_rows=100)
    whole = output.read_bytes()
    predict(source, output, chunk_rows=100)
    assert output.read_bytes() == whole


@ON_SQLITE
def test_what_cannot_be_done_is_said_before_anything_is_written(home: Home, tmp_path: Path) -> None:
    registered(home)
    rows = written(tmp_path / "rows.csv", some_rows(5))
    for error, name, output, given in [
        (NotFound, "nobody", "out.csv", {}),
        (InvalidInput, "loans", "out.txt", {}),
        (InvalidInput, "loans", "out.csv", {"chunk_rows": 0}),
        (InvalidInput, "loans", "out.csv", {"reasons": "some"}),
        (InvalidInput, "loans", "out.csv", {"rejects": tmp_path / "out.csv"}),
    ]:
        with pytest.raises(error):
            predict(rows, tmp_path / output, name, **given)
    with pytest.raises(NotFound):
        predict(tmp_path / "none.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_batch_is_queued_with_its_version_settled(home: Home, tmp_path: Path) -> None:
    from modelyard.control.batch.services import arguments_of, request_batch
    from modelyard.control.registry.services import find_version

    registered(home)
    source = written(tmp_path / "rows.csv", some_rows(5))
    job = request_batch(arguments_of("loans", source=source, output=tmp_path / "out.csv"), by="ada")
    assert job.created_by == "ada"
    assert job.arguments["digest"] == find_version("loans").digest
