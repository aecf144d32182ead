"""The verb `runtime check`: what the gateway will lean on, measured on a class of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit


def add(verbs: Any) -> None:
    """The words of this verb."""
    runtime = verbs.add_parser("runtime", help="what serves a version").add_subparsers(metavar="VERB", required=True)
    check = runtime.add_parser("check", help="measure whether a class of your own keeps what serving leans on")
    check.add_argument("entry", metavar="PACKAGE:CLASS", help="as installed, such as scores.model:Model")
    check.add_argument("--files", type=Path, metavar="DIR", help="the folder that its `setup` is given")
    check.add_argument("--json", action="store_true", help="one JSON document")
    check.set_defaults(run=run_check)


def run_check(context: Context) -> int:
    """0 if every promise is kept; 1 if one is broken, also when that only means that calls are never joined."""
    from modelyard.contract.errors import NotFound
    from modelyard.runtimes.conformance import OF_JOINING
    from modelyard.runtimes.examine import examine
    from modelyard.runtimes.python import check_entry

    args = context.args
    check_entry(args.entry)
    if args.files is not None and not args.files.is_dir():
        raise NotFound(f"there is no folder {args.files.name!r}; check the path")
    found = examine(args.entry, args.files)
    broken = found.broken
    if context.wants_json:
        context.console.json(
            {
                "entry": args.entry,
                "conforms": not broken,
                "signature": msgspec.to_builtins(found.signature),
                "independent_rows": found.joins and not any(promise.name in OF_JOINING for promise in broken),
                "streams": found.streams,
                "promises": [promise._asdict() for promise in found.promises],
                "printed": found.printed,
            }
        )
        return Exit.FAILED if broken else Exit.OK
    text = context.console.text
    context.console.table(
        [text("promise"), text("kept"), text("seen")],
        [(promise.name, text("yes" if promise.is_kept else "no"), promise.seen) for promise in found.promises],
    )
    if broken and found.printed:
        context.console.note("class_printed", printed=found.printed[-4000:])
    if broken and all(promise.name in OF_JOINING for promise in broken):
        context.console.note("never_joined", entry=args.entry)
    else:
        context.console.note("check_failed" if broken else "check_passed", entry=args.entry)
    return Exit.FAILED if broken else Exit.OK
