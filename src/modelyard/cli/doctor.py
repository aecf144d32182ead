"""The verb `doctor`: looks at everything that serving leans on; each line says ok, warn or fail, and the next step."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, Literal

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import ModelyardError
from modelyard.contract.settings import Settings
from modelyard.contract.settings import cores as usable_cores

WARN_FREE_GB, FAIL_FREE_GB = 2.0, 0.2
CLOCK_FLOOR = 1_735_689_600  # 2025-01-01: a clock before it was never set
EXTRAS = {"control": "django", "train": "lightgbm"}

Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """What one look found."""

    check: str
    level: Level
    found: str
    next_step: str = ""


Check = Callable[[Context], Iterator[Finding]]


def add(verbs: Any) -> None:
    """The words of this verb."""
    doctor = verbs.add_parser("doctor", help="check machine, home, ports, plan and shelf; 1 if something fails")
    doctor.add_argument("--json", action="store_true", help="one JSON document")
    doctor.set_defaults(run=run_doctor)


def run_doctor(context: Context) -> int:
    """0 if nothing fails, 1 otherwise."""
    findings = [finding for check in CHECKS for finding in check(context)]
    if context.wants_json:
        context.console.json(findings)
    else:
        _show(context, findings)
    return Exit.FAILED if any(finding.level == "fail" for finding in findings) else Exit.OK


def python_version(context: Context) -> Iterator[Finding]:
    """The interpreter."""
    found = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "fail", found, "" if good else "install Python 3.11 or newer")


def packages(context: Context) -> Iterator[Finding]:
    """What is installed beyond the core."""
    absent = [extra for extra, module in EXTRAS.items() if find_spec(module) is None]
    if absent:
        yield Finding(
            "packages", "warn", f"without: {', '.join(absent)}", f"pip install 'modelyard[{','.join(absent)}]'"
        )
    else:
        yield Finding("packages", "ok", ", ".join(EXTRAS))


def cores(context: Context) -> Iterator[Finding]:
    """Workers and the cores that carry them."""
    count = usable_cores()
    workers = context.settings.worker_count
    if workers > count:
        yield Finding("cores", "warn", f"{count} cores, {workers} workers", "set workers = 0: one for each core")
    else:
        yield Finding("cores", "ok", f"{count} cores, {workers} workers")


def disk(context: Context) -> Iterator[Finding]:
    """Free space where the home is or will be."""
    folder = context.home.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    level: Level = "fail" if free < FAIL_FREE_GB else "warn" if free < WARN_FREE_GB else "ok"
    yield Finding(
        "disk", level, f"{free:.1f} GB free", "" if level == "ok" else "free some space, or move MODELYARD_HOME"
    )


def clock(context: Context) -> Iterator[Finding]:
    """A wrong clock makes keys expire early or never."""
    good = time.time() > CLOCK_FLOOR
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    yield Finding("clock", "ok" if good else "fail", shown, "" if good else "set the clock: keys expire by it")


def home_mode(context: Context) -> Iterator[Finding]:
    """Nobody else may read the home: it holds signing keys."""
    home = context.home
    if not home.root.exists():
        yield Finding("home", "warn", f"{home.root} does not exist", "run `modelyard init`")
        return
    open_to_others = [
        path
        for path in (home.root, home.keys, home.database, home.keys / "plan.key")
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077 and os.name == "posix"
    ]
    if not os.access(home.root, os.W_OK):
        yield Finding("home", "fail", f"{home.root} cannot be written", "run as its owner, or choose another --home")
    elif open_to_others:
        names = ", ".join(path.name for path in open_to_others)
        yield Finding("home", "fail", f"others may read: {names}", f"chmod -R go= {home.root}")
    else:
        yield Finding("home", "ok", str(home.root))


def database(context: Context) -> Iterator[Finding]:
    """What control remembers is reached, and of this release."""
    from modelyard.control.database import shown

    settings = context.settings
    place = shown(settings.database_url) if settings.database_url else "SQLite in the home"
    if find_spec("django") is None:
        return  # `packages` says so
    if not context.home.root.exists() or not (settings.database_url or context.home.database.exists()):
        yield Finding("database", "ok", f"{place}, made at the first start")
        return
    try:
        version, standing = _look_at_database(settings)
    except ModelyardError as error:
        step = "start it; gateways serve on meanwhile" if error.retryable else "correct it; docs/how-to/postgresql.md"
        yield Finding("database", "fail", str(error), step)
        return
    steps = {"older": "run `modelyard upgrade`", "newer": "install the newer release"}
    level: Level = "fail" if standing in steps else "ok"
    yield Finding("database", level, f"{place}, {version}, {standing}", steps.get(standing, ""))


def _look_at_database(settings: Settings) -> tuple[str, str]:
    """The server's version, and how its tables stand to this release."""
    from modelyard.control.database import reach
    from modelyard.control.setup import wake

    wake(settings)
    reach(settings)
    from django.db import connection

    from modelyard.control.release import standing

    version = ".".join(str(part) for part in connection.get_database_version())
    return version, str(standing())


def ports(context: Context) -> Iterator[Finding]:
    """Free, or held by this home's own processes."""
    from modelyard.cli.tree import answers, check_port
    from modelyard.cli.up import running_gateway

    settings = context.settings
    ours = running_gateway(context) is not None
    for name in ("gateway_port", "grpc_port", "control_port"):
        port = getattr(settings, name)
        if ours and answers(settings.host, port):
            yield Finding(name, "ok", f"{port}, in use by this home")
            continue
        try:
            check_port(settings.host, port, f"--{name.replace('_', '-')}", f"MODELYARD_{name.upper()}")
        except ModelyardError as error:
            yield Finding(name, "warn", f"{port} is taken", str(error))
        else:
            yield Finding(name, "ok", f"{port}, free")


def exposure(context: Context) -> Iterator[Finding]:
    """Who can reach what listens, and what they must show."""
    settings = context.settings
    if settings.is_loopback:
        yield Finding("exposure", "ok", f"{settings.host}: this machine only")
    elif not settings.require_keys:
        yield Finding("exposure", "fail", f"{settings.host} without keys", "set require_keys = true")
    elif not settings.tls_certificate:
        step = "set tls_certificate and tls_key, or put a proxy with TLS in front"
        yield Finding("exposure", "warn", f"{settings.host} without TLS", step)
    else:
        yield Finding("exposure", "ok", f"{settings.host} with keys and TLS")


def plan(context: Context) -> Iterator[Finding]:
    """The plan is there, is ours, and its artifacts are on the shelf."""
    from modelyard.artifacts.store import Shelf
    from modelyard.cli.look import age_text
    from modelyard.serve.plans import read_plan

    try:
        found = read_plan(context.home.plan, context.home.keys)
    except FileNotFoundError:
        yield Finding("plan", "ok", "none yet: nothing is deployed")
        return
    except ModelyardError as error:
        yield Finding("plan", "fail", str(error), "start `modelyard up`: control publishes it again")
        return
    age = time.time() - found.published_at
    shown = f"revision {found.revision}, {len(found.endpoints)} endpoints, {age_text(age)} old"
    if age < -60:
        yield Finding("plan", "warn", f"published {age_text(-age)} from now", "one of the clocks is wrong")
    else:
        yield Finding("plan", "ok", shown)
    on_shelf = set(Shelf(context.home.shelf).digests())
    absent = [
        f"{endpoint.name} version {version.version}"
        for endpoint in found.endpoints
        for version in endpoint.versions
        if version.digest not in on_shelf
    ]
    if absent:
        yield Finding(
            "plan_artifacts", "fail", f"not on the shelf: {', '.join(absent)}", "`modelyard restore` a backup"
        )


def shelf(context: Context) -> Iterator[Finding]:
    """Every artifact, every byte."""
    from modelyard.artifacts.store import Shelf

    store = Shelf(context.home.shelf)
    digests = store.digests()
    for digest in digests:
        try:
            store.open(digest)
        except ModelyardError as error:
            yield Finding("shelf", "fail", str(error), "`modelyard restore` a backup, or train that version again")
            return
    yield Finding("shelf", "ok", f"{len(digests)} artifacts, every byte verified")


CHECKS: tuple[Check, ...] = (
    python_version, packages, cores, disk, clock, home_mode, database, ports, exposure, plan, shelf,
)  # fmt: skip


def _show(context: Context, findings: list[Finding]) -> None:
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    out = context.console.out()
    for finding in findings:
        level = context.console.text(f"level_{finding.level}")
        out.print(
            Text.assemble((f"{level:<5}", colours[finding.level]), f"{finding.check:<15} {finding.found}"),
            soft_wrap=True,
        )
        if finding.next_step:
            out.print(Text(f"     → {finding.next_step}"), soft_wrap=True)
