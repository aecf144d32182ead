"""Records on their way to disk: bounded in memory and on disk, private, and none is lost that was accepted."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from modelyard.contract.telemetry import Feedback, Record, frame, frames
from modelyard.serve import telemetry
from modelyard.serve.telemetry import RecordWriter


def record(number: int, size: int = 10) -> Feedback:
    return Feedback(f"id-{number}", number, "loans", "anna", "x" * size, number)


def on_disk(folder: Path) -> list[Record]:
    return [found for path in sorted(folder.glob("*.records")) for found in frames(path.read_bytes())]


def test_every_accepted_record_is_readable_after_closing(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    writer = RecordWriter(folder, 3, 1 << 30)
    sent = [record(number) for number in range(5000)]
    assert all(writer.put(frame(one)) for one in sent)
    writer.close()
    assert on_disk(folder) == sent
    (path,) = folder.iterdir()
    assert path.name.startswith("worker-3-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_to_say_writes_nothing(tmp_path: Path) -> None:
    RecordWriter(tmp_path / "records", 0, 1 << 20).close()
    assert not (tmp_path / "records").exists()


def test_a_full_buffer_drops_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "BUFFER_BYTES", 10_000)
    gate = threading.Event()
    write = RecordWriter._write

    def held(self: RecordWriter, data: bytes) -> None:
        gate.wait(30)
        write(self, data)

    monkeypatch.setattr(RecordWriter, "_write", held)  # a disk that hangs
    writer = RecordWriter(tmp_path, 0, 1 << 30)
    sent = [record(number, 100) for number in range(500)]
    accepted = [one for one in sent if writer.put(frame(one))]
    assert 0 < len(accepted) < len(sent)
    assert sum(len(frame(one)) for one in accepted) <= 10_000
    gate.set()
    writer.close()
    assert on_disk(tmp_path) == accepted


@pytest.mark.parametrize("budget", [40_000, 400_000])
def test_the_budget_removes_the_oldest_of_this_worker_only(tmp_path: Path, budget: int) -> None:
    other = RecordWriter(tmp_path, 1, budget)
    other.put(frame(record(-1)))
    other.close()
    sent: list[Feedback] = []
    for part in range(60):  # as many lives of the worker
        writer = RecordWriter(tmp_path, 0, budget)
        for number in range(50):
            sent.append(record(50 * part + number, 100))
            assert writer.put(frame(sent[-1]))
        writer.close()
    mine = sorted(tmp_path.glob("worker-0-*.records"))
    assert sum(path.stat().st_size for path in mine) <= budget
    kept = [found for path in mine for found in frames(path.read_bytes())]
    assert kept == sent[-len(kept) :], "the newest are kept, in order"
    assert sum(path.stat().st_size for path in mine) >= budget // 2, "and no more is removed than must be"
    assert len(list(tmp_path.glob("worker-1-*.records"))) == 1


def test_one_life_stays_within_its_budget_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_S", 0.001)
    budget = 40_000
    writer = RecordWriter(tmp_path, 0, budget)
    sent = [record(number, 100) for number in range(2000)]
    for one in sent:
        while writer._taken - writer._gone > 2_000:  # as calls arrive: not all in one flush
            pass
        assert writer.put(frame(one))
    writer.close()
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 1
    assert sum(path.stat().st_size for path in paths) <= budget + 4_000
    kept = on_disk(tmp_path)
    assert kept == sent[-len(kept) :]


def test_after_a_failed_write_a_new_segment_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failed = telemetry.os.write, threading.Event()

    def full_once(file: int, data: bytes) -> int:
        if not failed.is_set():
            failed.set()
            write(file, data[: len(data) // 2])  # what a full disk leaves: half a frame
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(telemetry.os, "write", full_once)
    writer = RecordWriter(tmp_path, 0, 1 << 30)
    writer.put(frame(record(1, 50)))
    assert failed.wait(10)
    later = [record(number) for number in range(2, 20)]
    assert all(writer.put(frame(one)) for one in later)
    writer.close()
    assert on_disk(tmp_path) == later
