"""Verbs of API keys: `keys create`, `keys list`, `keys revoke`."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from modelyard.cli.context import Context
from modelyard.cli.deployments import say_when_served
from modelyard.cli.exits import Exit
from modelyard.secure.keys import SCOPES

_AGE = re.compile(r"(\d{1,5})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def add(verbs: Any) -> None:
    """The words of these verbs."""
    keys = verbs.add_parser("keys", help="API keys of the gateway").add_subparsers(metavar="VERB", required=True)
    create = keys.add_parser("create", help="a new key; its secret is printed once")
    create.add_argument("name", metavar="NAME", help="who calls: a person or a program")
    create.add_argument(
        "--scopes",
        default="infer",
        help=f"with commas: {', '.join(SCOPES)}; with :ENDPOINT for one endpoint only (infer)",
    )
    create.add_argument("--rate", type=float, metavar="ROWS", help="rows in a second")
    create.add_argument("--burst", type=int, metavar="ROWS", help="rows at once, above the rate")
    create.add_argument("--expires", type=lifetime, metavar="AGE", help="such as 12h, 30d, 8w (never)")
    create.add_argument("--json", action="store_true", help="one JSON document")
    create.set_defaults(run=run_create)
    listing = keys.add_parser("list", help="every key, never its secret")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=run_list)
    revoke = keys.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", metavar="ID", help="as `keys list` shows it")
    revoke.set_defaults(run=run_revoke)


def lifetime(text: str) -> timedelta:
    """`30d` as a length of time."""
    found = _AGE.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError("a number and h, d or w, such as 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def run_create(context: Context) -> int:
    """The secret goes to stdout, alone, so that a script can take it; words go to stderr."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.accounts.services import create_key

    args = context.args
    key, secret = create_key(
        args.name,
        [scope.strip() for scope in args.scopes.split(",") if scope.strip()],
        by=context.by,
        rows_per_second=args.rate,
        burst_rows=args.burst,
        expires_at=datetime.now(UTC) + args.expires if args.expires else None,
    )
    if context.wants_json:
        context.console.json({**_described(key), "key": secret})
    else:
        context.console.note("key_made", id=key.public_id, scopes=", ".join(key.scopes))
        context.console.line(secret)
    say_when_served(context, quiet=context.wants_json)
    return Exit.OK


def run_list(context: Context) -> int:
    """Every key, newest first."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.accounts.services import list_keys

    found = [_described(key) for key in list_keys()]
    if context.wants_json:
        context.console.json(found)
    elif not found:
        context.console.note("no_keys")
    else:
        headings = ("id", "principal", "scopes", "rows_per_second", "created", "expires", "state")
        context.console.table(
            [context.console.text(heading) for heading in headings],
            [
                (
                    key["id"],
                    key["principal"],
                    ", ".join(key["scopes"]),
                    key["rows_per_second"],
                    _minute(key["created_at"]),
                    _minute(key["expires_at"]),
                    context.console.text(f"key_{key['state']}"),
                )
                for key in found
            ],
        )
    return Exit.OK


def run_revoke(context: Context) -> int:
    """Returns when every worker refuses the key."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.accounts.services import revoke_key

    key = revoke_key(context.args.id, context.by)
    context.console.say("key_revoked_now", id=key.public_id)
    say_when_served(context)
    return Exit.OK


def _minute(moment: str | None) -> str:
    return (moment or "")[:16].replace("T", " ")


def _described(key: Any) -> dict[str, Any]:
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return {
        "id": key.public_id,
        "principal": key.principal.name,
        "scopes": key.scopes,
        "rows_per_second": key.rows_per_second,
        "burst_rows": key.burst_rows,
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "expires_at": key.expires_at.isoformat(timespec="seconds") if key.expires_at else None,
        "state": "revoked" if key.revoked_at else "expired" if expired else "active",
    }
