"""Verbs of the home: `init`, `backup`, `restore`, `upgrade`, `adopt`, `config show`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.settings import Settings


def add(verbs: Any) -> None:
    """The words of these verbs."""
    init = verbs.add_parser("init", help="make the home, its database and its administrator")
    init.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)
    init.set_defaults(run=run_init)
    backup = verbs.add_parser("backup", help="put the database, the shelf and the keys into one file")
    backup.add_argument("file", type=Path, metavar="FILE")
    backup.set_defaults(run=run_backup)
    restore = verbs.add_parser("restore", help="bring a home back from a backup")
    restore.add_argument("file", type=Path, metavar="FILE")
    restore.add_argument("--force", action="store_true", help="replace what the home holds now")
    restore.set_defaults(run=run_restore)
    upgrade = verbs.add_parser("upgrade", help="bring an older database to this release, after a backup")
    upgrade.add_argument("--backup", type=Path, metavar="FILE", help="where the backup goes (the home's `backups`)")
    upgrade.add_argument("--json", action="store_true", help="one JSON document")
    upgrade.set_defaults(run=run_upgrade)
    adopt = verbs.add_parser("adopt", help="rebuild an empty database from the plan and the shelf")
    adopt.set_defaults(run=run_adopt)
    config = verbs.add_parser("config", help="settings: values and where they come from")
    show = config.add_subparsers(metavar="VERB", required=True).add_parser("show", help="every setting")
    show.add_argument("--json", action="store_true", help="one JSON document")
    show.set_defaults(run=run_config_show)


def run_init(context: Context) -> int:
    """Harmless to repeat: what is there stays."""
    from modelyard.control.setup import start

    settings = start(context.settings)
    from modelyard.control.accounts.services import ensure_admin  # tables exist only from here on

    password = ensure_admin()
    if not context.args.quiet:
        context.console.say("home_ready", home=settings.home)
    if password:  # to the terminal of whoever made it, and nowhere else
        context.console.note("admin_made", style="bold", password=password)
    elif not context.args.quiet:
        context.console.note("admin_exists", style="dim")
    return Exit.OK


def run_backup(context: Context) -> int:
    """One file that `restore` takes."""
    from modelyard.control.backup import backup

    backup(context.settings, context.args.file)
    context.console.say("backup_made", file=context.args.file, size=f"{context.args.file.stat().st_size:,}")
    return Exit.OK


def run_restore(context: Context) -> int:
    """The home as it was."""
    from modelyard.control.restore import restore

    moved = restore(context.settings, context.args.file, force=context.args.force)
    context.console.say("restored", home=context.settings.home)
    for place in moved:
        context.console.note("moved_aside", folder=place)
    return Exit.OK


def run_upgrade(context: Context) -> int:
    """Nothing else changes a database that holds something."""
    from modelyard.control.setup import wake

    settings = wake(context.settings)
    from modelyard.control.upgrade import upgrade

    done = upgrade(settings, context.args.backup)
    if context.wants_json:
        context.console.json(done)
        return Exit.OK
    if done.backup:
        context.console.note("backup_made_first", file=done.backup)
    for step in done.steps:
        context.console.say("upgrade_step", step=step)
    context.console.say("upgraded" if done.steps else "up_to_date")
    return Exit.OK


def run_adopt(context: Context) -> int:
    """For a database that was lost: what serves goes on serving."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.adopt import adopt

    context.console.say("adopted", **adopt(context.by))
    return Exit.OK


def run_config_show(context: Context) -> int:
    """Every setting, its value, and where it came from; passwords are not shown."""
    settings, origins = context.loaded
    rows = [
        (field.name, _masked(settings, field.name), origins[field.name]) for field in msgspec.structs.fields(Settings)
    ]
    if context.wants_json:
        context.console.json({name: {"value": value, "from": origin} for name, value, origin in rows})
    else:
        headings = [context.console.text(key) for key in ("setting", "value", "from")]
        context.console.table(headings, [(name, _text(value), origin) for name, value, origin in rows])
    return Exit.OK


def _masked(settings: Settings, name: str) -> Any:
    value = getattr(settings, name)
    if name != "database_url" or not value:
        return value
    from modelyard.control.database import shown

    return shown(value)


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
