"""Verbs that move versions between homes and clear the shelf: `models export`, `models import`, `gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit


def add(verbs: Any) -> None:
    """The words of `gc`; those below `models` are added by it."""
    gc = verbs.add_parser("gc", help="remove versions that nothing needs from the shelf")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    gc.add_argument("--keep", type=int, metavar="N", help="newest versions of each model that stay (5)")
    gc.add_argument("--older-than-days", type=float, metavar="D", help="younger ones stay (7)")
    gc.add_argument("--json", action="store_true", help="one JSON document")
    gc.set_defaults(run=run_gc)


def add_to_models(models: Any) -> None:
    """The words of `models export` and `models import`."""
    export = models.add_parser("export", help="one version as a signed file that registers elsewhere")
    export.add_argument("name", metavar="NAME[:VERSION]", help="a model, and a version or alias of it (the champion)")
    export.add_argument("file", type=Path, metavar="FILE", help="to write; it must not exist")
    export.add_argument("--json", action="store_true", help="one JSON document")
    export.set_defaults(run=run_export)
    bring = models.add_parser("import", help="register what another home exported")
    bring.add_argument("file", type=Path, metavar="FILE")
    bring.add_argument("--signer", metavar="FINGERPRINT", help="whose signature it must bear; the sender tells it")
    bring.add_argument("--trust", action="store_true", help="take a version that holds or names code")
    bring.add_argument("--json", action="store_true", help="one JSON document")
    bring.set_defaults(run=run_import)


def run_export(context: Context) -> int:
    """Write the file and say who signed it."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.archive.bundle import fingerprint
    from modelyard.control.archive.services import export_version

    args = context.args
    name, _, which = args.name.partition(":")
    label = export_version(name, which or None, args.file, context.by)
    signer = fingerprint(label.signer)
    if context.wants_json:
        context.console.json({**msgspec.to_builtins(label), "file": str(args.file), "fingerprint": signer})
    else:
        context.console.say("exported", model=label.model, version=label.version, file=args.file, signer=signer)
    return Exit.OK


def run_import(context: Context) -> int:
    """Check every byte, then register."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.cli.train import described
    from modelyard.control.archive.services import import_version

    args = context.args
    version = import_version(args.file, context.by, signer=args.signer, trust=args.trust)
    if context.wants_json:
        context.console.json(described(version))
    else:
        context.console.say(
            "imported", model=version.model.name, version=version.number, digest=version.digest[:12], note=version.note
        )
        context.console.note("next_deploy", model=version.model.name)
    return Exit.OK


def run_gc(context: Context) -> int:
    """What went (or would go), and why the rest stays."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.archive.services import collect

    args, console = context.args, context.console
    given = {"keep": args.keep, "older_than_days": args.older_than_days}
    given = {name: value for name, value in given.items() if value is not None}
    done = collect(context.by, dry_run=args.dry_run, **given)
    if context.wants_json:
        console.json({"dry_run": args.dry_run, "bytes": done.bytes, **msgspec.to_builtins(done)})
        return Exit.OK
    kept = [(f"{one.model}:{one.version}", f"{one.bytes:,}", one.reason) for one in done.kept]
    gone = [(f"{one.model}:{one.version}", f"{one.bytes:,}", console.text("would_go" if args.dry_run else "gone"))
            for one in done.removed]  # fmt: skip
    if kept or gone:
        console.table([console.text(heading) for heading in ("version", "bytes", "why")], [*gone, *kept])
    console.say(
        "collectable" if args.dry_run else "collected",
        count=len(done.removed), bytes=f"{done.bytes:,}", orphans=len(done.orphans),
    )  # fmt: skip
    return Exit.OK
