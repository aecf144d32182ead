"""Makes the backup of a home that this directory keeps for each release: run it with that release's own code.

    PYTHONPATH=RELEASE/src python tests/upgrade/make.py tests/upgrade/0.1.0.tar.gz

It speaks with that release through its command and services alone, and leaves a row in every table that people fill.
"""

import csv
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path


def main(target: Path) -> None:
    """Train, deploy, share traffic, make keys and users, queue a job; then back up."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MODELYARD_HOME": f"{folder}/home", "MODELYARD_GRPC_PORT": "0"}
        table = Path(folder) / "loans.csv"
        write_table(table)
        for seed in ("0", "1"):
            learn = ["--target", "bad", "--positive", "yes", "--candidates", "scorecard", "--seed", seed]
            command("train", str(table), "--name", "loans", *learn)
        command("deploy", "loans", "--version", "1")
        command("deploy", "loans", "--version", "2", "--endpoint", "public")
        rows()
        command("backup", str(target.absolute()))


def command(*words: str) -> None:
    """One verb, to its end."""
    subprocess.run([sys.executable, "-m", "modelyard.cli.main", *words], check=True, stdin=subprocess.DEVNULL)


def write_table(path: Path) -> None:
    """A table from which a small model learns something."""
    chance = random.Random(7)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "income", "bad"])
        for _ in range(400):
            age, income = chance.randint(18, 80), round(chance.gauss(100, 30), 1)
            writer.writerow([age, income, "yes" if chance.random() < 0.5 - (age - 45) / 100 else "no"])


def rows() -> None:
    """What only services fill."""
    from modelyard.control.setup import start

    start()
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission

    from modelyard.contract.plan import TrafficSplit
    from modelyard.control.accounts.services import create_key, create_token, ensure_admin, revoke_key
    from modelyard.control.deployments.services import configure, set_traffic
    from modelyard.control.jobs.services import enqueue
    from modelyard.control.registry.services import set_alias

    ensure_admin()
    clerk = get_user_model().objects.create_user("clerk", password="a long enough password")
    clerk.user_permissions.add(Permission.objects.get(content_type__app_label="registry", codename="view_model"))
    create_token(clerk)
    create_key("somebody", ["infer"], by="clerk", rows_per_second=10.0, burst_rows=50)
    revoke_key(create_key("somebody", ["infer", "explain"], by="clerk")[0].public_id, by="clerk")
    set_alias("loans", "stable", 1, by="clerk")
    set_traffic("public", TrafficSplit({1: 10, 2: 90}, "x-customer"), by="clerk")
    configure("public", by="clerk", max_rows=500, is_default=True)
    enqueue("modelyard.control.training.work.table_job", {"run_id": 99, "by": "clerk"}, by="clerk")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
