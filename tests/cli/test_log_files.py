"""Logs stay small, keep their writer, and are read from the end."""

from pathlib import Path

from modelyard.cli.log_files import KEPT, follow, last_lines, open_log, rotate


def test_a_long_file_is_put_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "gateway.log"
    with open_log(path) as log:
        for turn in range(KEPT + 3):
            log.write(f"turn {turn}\n".encode())
            assert rotate(path, limit_bytes=3)
            assert not rotate(path, limit_bytes=3)
        log.write(b"last\n")
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert names == ["gateway.log", *(f"gateway.log.{number}" for number in range(1, KEPT + 1))]
    assert path.read_text() == "last\n"
    assert path.with_name("gateway.log.1").read_text() == f"turn {KEPT + 2}\n"
    assert all(entry.stat().st_mode & 0o077 == 0 for entry in path.parent.iterdir())


def test_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert last_lines(path, 5) == []
    path.write_text("".join(f"{number}\n" for number in range(100)))
    assert last_lines(path, 2) == ["98", "99"]
    assert last_lines(path, 0) == []


def test_follow_reads_on_over_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("old\n")
    lines = follow([path], pause_s=0)
    with open_log(path) as log:
        log.write(b"one\ntw")
        assert next(lines) == (path, "one")
        log.write(b"o\n")
        assert next(lines) == (path, "two")
        rotate(path, limit_bytes=0)
        log.write(b"3\n")
        assert next(lines) == (path, "3")
    lines.close()
