"""One quota for all workers of a host, in a table that no crash, clock or crowd corrupts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.race import race
from modelyard.contract.errors import Overloaded, QuotaExceeded
from modelyard.serve import rates
from modelyard.serve.rates import Quota, RateTable


@pytest.fixture
def table(tmp_path: Path) -> Iterator[RateTable]:
    made = RateTable(tmp_path / "rates.table")
    yield made
    made.close()


def passed(quota: Quota, rows: int = 1) -> bool:
    try:
        quota.charge(rows)
    except QuotaExceeded:
        return False
    return True


def test_a_burst_passes_and_then_the_rate(table: RateTable) -> None:
    quota = Quota(table, "key", 0.001, 10)  # one row in a thousand seconds: nothing comes back while we look
    assert [passed(quota) for _ in range(12)] == [True] * 10 + [False] * 2
    assert not passed(quota, 3)


def test_the_refusal_names_the_limit_and_the_wait(table: RateTable) -> None:
    quota = Quota(table, "key", 0.5, 1)
    quota.charge(1)
    with pytest.raises(QuotaExceeded, match=r"rows_per_second=0\.5 with burst_rows=1") as refusal:
        quota.charge(1)
    assert 1.5 < refusal.value.retry_after_s <= 2.0
    with pytest.raises(QuotaExceeded, match="fewer at a time"):
        quota.charge(2)


def test_what_was_leased_and_not_used_is_not_lost(table: RateTable) -> None:
    quota = Quota(table, "key", 10_000.0, 400)
    assert sum(passed(quota) for _ in range(400)) == 400
    assert passed(Quota(table, "another", 10_000.0, 400), 400), "keys have quotas of their own"


def test_the_table_is_its_owners_alone_and_survives_reopening(table: RateTable, tmp_path: Path) -> None:
    path = tmp_path / "rates.table"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    Quota(table, "key", 0.001, 1).charge(1)
    second = RateTable(path)
    assert not passed(Quota(second, "key", 0.001, 1)), "a restarted worker grants no second burst"
    second.close()


def test_a_full_table_is_said(table: RateTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "ENTRIES", 3)
    for name in "abc":
        table.entry(name)
    assert len({table.entry(name) for name in "abc"}) == 3
    with pytest.raises(Overloaded, match="3 keys"):
        table.entry("d")


PREPARE = """
import json, time
from pathlib import Path
from modelyard.contract.errors import QuotaExceeded
from modelyard.serve.rates import Quota, RateTable
quota = Quota(RateTable(Path(sys.argv[1])), "key", 500.0, 100)
"""
CALL = """
begun, until, passed = time.monotonic(), time.monotonic() + 1.0, 0
while time.monotonic() < until:
    try:
        quota.charge(1)
        passed += 1
    except QuotaExceeded:
        time.sleep(0.0005)
print(json.dumps([begun, time.monotonic(), passed]))
"""


def test_two_processes_share_one_quota(tmp_path: Path) -> None:
    told = [json.loads(line) for line in race(PREPARE, CALL, str(tmp_path / "rates.table"), count=2)]
    seconds = max(end for _, end, _ in told) - min(begun for begun, _, _ in told)
    total = sum(passed for _, _, passed in told)
    chunk = 10  # rows_per_second / 50
    assert total <= 100 + 500.0 * seconds + 2 * chunk
    assert total >= 0.8 * (100 + 500.0 * 1.0), "together they get what the key allows"


HOLD = """
with table.locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_killed_holder_lets_go_and_a_stopped_one_stops_nobody(table: RateTable, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom modelyard.serve.rates import RateTable\n"
        f"table = RateTable(Path(sys.argv[1]))\n{HOLD}"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "rates.table")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    begun = time.monotonic()
    with pytest.raises(Overloaded, match="does not run"):
        table.entry("key")
    assert time.monotonic() - begun < 1.0
    holder.kill()
    holder.communicate()
    assert table.entry("key")
    assert os.path.getsize(tmp_path / "rates.table") == rates.ENTRIES * 16


def test_a_holder_that_does_not_run_is_waited_for_once_and_not_by_every_call(tmp_path: Path) -> None:
    """The lock is held by another process, as by one that is stopped: siblings must go on."""
    table = RateTable(tmp_path / "rates.table")
    program = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "rates.table")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waits = []
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(Overloaded, match="quotas"), table.locked():
                pass
            waits.append(time.monotonic() - began)
        assert waits[0] >= 0.05 > max(sorted(waits[1:])[:2]), "the first waits, the next ones hardly"
    finally:
        holder.communicate(timeout=10)
    with table.locked():
        pass
    table.close()
