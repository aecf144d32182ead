"""Verbs that name and compare versions: `alias`, `tag`, `models describe`, `models compare`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import InvalidInput

if TYPE_CHECKING:
    from modelyard.control.registry.comparison import Comparison, Measure, Side
    from modelyard.runtimes.timing import Timing


def add(verbs: Any) -> None:
    """The words of these verbs; those below `models` are added by it."""
    alias = verbs.add_parser("alias", help="point a name of a model at a version: champion, challenger, your own")
    alias.add_argument("model", metavar="MODEL")
    alias.add_argument("alias", metavar="NAME", help="of the alias")
    alias.add_argument("version", metavar="VERSION", nargs="?", help="number, or another alias")
    alias.add_argument("--remove", action="store_true", help="take the alias away; its version stays")
    alias.set_defaults(run=run_alias)
    tag = verbs.add_parser("tag", help="tags of a model or a version, to find it by")
    tag.add_argument("name", metavar="NAME[:VERSION]", help="a model, or a version or alias of it")
    tag.add_argument("tags", metavar="KEY=VALUE", nargs="*", help="to set; none: show what there is")
    tag.add_argument("--remove", action="append", default=[], metavar="KEY", help="take one away")
    tag.add_argument("--json", action="store_true", help="one JSON document")
    tag.set_defaults(run=run_tag)


def add_to_models(models: Any) -> None:
    """The words of `models compare` and `models describe`."""
    compare = models.add_parser("compare", help="two versions side by side: measures, contract, size, speed")
    compare.add_argument("name", metavar="NAME", help="of the model")
    compare.add_argument("a", metavar="A", help="number or alias")
    compare.add_argument("b", metavar="B", help="number or alias")
    compare.add_argument("--measure", action="store_true", help="load both and time them, in turns")
    compare.add_argument("--json", action="store_true", help="one JSON document")
    compare.set_defaults(run=run_compare)
    describe = models.add_parser("describe", help="say what a model is for, or note something on a version")
    describe.add_argument("name", metavar="NAME[:VERSION]", help="a model, or a version or alias of it")
    describe.add_argument("text", metavar="TEXT", help="replaces what stands there; an empty one takes it away")
    describe.set_defaults(run=run_describe)


def run_alias(context: Context) -> int:
    """The name moves in the registry, on the shelf and in what gateways answer to."""
    from modelyard.control.setup import start

    args = context.args
    if args.remove == (args.version is not None):
        raise InvalidInput("alias takes a VERSION to point at, or --remove")
    start(context.settings)
    from modelyard.control.registry.services import remove_alias, set_alias

    if args.remove:
        remove_alias(args.model, args.alias, context.by)
        context.console.say("alias_removed", model=args.model, alias=args.alias)
    else:
        row = set_alias(args.model, args.alias, args.version, context.by)
        context.console.say("alias_set", model=args.model, alias=args.alias, version=row.version.number)
    return Exit.OK


def run_tag(context: Context) -> int:
    """All tags afterwards."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.registry.reading import tag_pairs
    from modelyard.control.registry.services import set_tags

    args = context.args
    name, which = named(args.name)
    given = dict(tag_pairs(args.tags))
    if both := sorted(given.keys() & set(args.remove)):
        raise InvalidInput(f"tag {', '.join(both)} cannot be set and removed at once")
    tags = set_tags(name, {**given, **dict.fromkeys(args.remove)}, context.by, which)
    if context.wants_json:
        context.console.json(tags)
    elif not tags:
        context.console.note("no_tags")
    else:
        context.console.table([context.console.text(word) for word in ("key", "value")], list(tags.items()))
    return Exit.OK


def run_describe(context: Context) -> int:
    """What it said before stays in the log."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.registry.services import describe

    name, which = named(context.args.name)
    row = describe(name, context.args.text, context.by, which)
    context.console.say("described", name=str(row))
    return Exit.OK


def run_compare(context: Context) -> int:
    """What differs, and by how much; with --measure also the time that both take here and now."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.artifacts.store import Shelf
    from modelyard.control.registry.reading import compared

    args = context.args
    found = compared(args.name, args.a, args.b)
    timing = None
    if args.measure:
        from modelyard.runtimes.timing import measure

        timing = measure(Shelf(context.home.shelf), found.a.digest, found.b.digest)
    if context.wants_json:
        context.console.json({**msgspec.to_builtins(found), "timing": msgspec.to_builtins(timing)})
        return Exit.OK
    _say_sides(context, found)
    _say_measures(context, found)
    _say_contract(context, found)
    for part, (a, b) in found.decision.items():
        context.console.say("decision_line", part=part, a=_said(a), b=_said(b))
    for setting, (a, b) in found.recipe.items():
        context.console.say("recipe_line", setting=setting, a=_said(a), b=_said(b))
    if timing is not None:
        _say_timing(context, found, timing)
    return Exit.OK


# --- what these verbs and `models` share ------------------------------------------------------------------------


def named(text: str) -> tuple[str, str | None]:
    """`NAME[:VERSION]` as name and version."""
    name, _, which = text.partition(":")
    return name, which or None


def tags_text(tags: dict[str, str]) -> str:
    """Tags in one line."""
    return ", ".join(f"{key}={value}" for key, value in sorted(tags.items()))


def size_text(count: int | None) -> str:
    """Bytes in their largest fitting unit."""
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def minute(moment: datetime) -> str:
    """A moment to the minute, UTC."""
    return f"{moment:%Y-%m-%d %H:%M}"


# --- a comparison in words --------------------------------------------------------------------------------------


def _say_sides(context: Context, found: Comparison) -> None:
    text = context.console.text
    trusted = text("trusted_code")
    facts: list[tuple[str, Callable[[Side], str]]] = [
        ("framework", lambda side: side.framework + (f" ({trusted})" if side.trusted else "")),
        ("artifact", lambda side: side.digest[:12]),
        ("size", lambda side: size_text(side.size_bytes)),
        ("created", lambda side: side.created_at[:16].replace("T", " ")),
        ("data", lambda side: f"{side.data_digest[:12]} ({side.rows:,})" if side.data_digest else ""),
        ("code", lambda side: side.code_revision),
        ("parity", lambda side: f"{side.parity['max_error']:.2g} / {side.parity['rows']}" if side.parity else ""),
        ("cutoff", lambda side: "" if side.cutoff is None else f"{side.cutoff:.4g}"),
        ("packaged_cost", lambda side: "" if side.row_cost_us is None else f"{side.row_cost_us:g} µs"),
        ("observed", lambda side: _observed(context, side)),
    ]
    context.console.table(
        [found.model, str(found.a.version), str(found.b.version)],
        [(text(word), fact(found.a), fact(found.b)) for word, fact in facts if fact(found.a) or fact(found.b)],
    )
    if found.same_artifact:
        context.console.say("same_artifact")
    elif found.same_data is False:
        context.console.say("other_data")


def _observed(context: Context, side: Side) -> str:
    if not side.observed:
        return ""
    seen = {name: "?" if value is None else value for name, value in side.observed.items()}
    return context.console.text("observed_line", calls=f"{seen.pop('calls'):,}", **seen)


def _say_measures(context: Context, found: Comparison) -> None:
    if not found.metrics:
        return
    text = context.console.text
    context.console.line()
    context.console.table(
        [text("measure"), str(found.a.version), str(found.b.version), text("difference"), text("better")],
        [
            (
                one.name,
                _with_interval(one.a, one.interval_a),
                _with_interval(one.b, one.interval_b),
                "" if one.difference is None else f"{one.difference:+.4g}",
                _better(context, found, one),
            )
            for one in found.metrics
        ],
    )


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if interval is None else f"{value:.6g}  [{interval[0]:.4f}, {interval[1]:.4f}]"


def _better(context: Context, found: Comparison, one: Measure) -> str:
    """The better version; where intervals overlap, that chance may explain it."""
    if one.better is None:
        return ""
    winner = str((found.a if one.better == "a" else found.b).version)
    return winner if one.apart is not False else context.console.text("perhaps", winner=winner)


def _say_contract(context: Context, found: Comparison) -> None:
    say, change = context.console.say, found.contract
    context.console.line()
    if change.is_same:
        say("same_contract")
    if change.added:
        say("columns_added", columns=", ".join(change.added))
    if change.removed:
        say("columns_removed", columns=", ".join(change.removed))
    if change.signature_changed:
        say("signature_changed")
    for column in change.changed:
        parts = [f"{field} {_said(a)} → {_said(b)}" for field, (a, b) in column.fields.items()]
        parts += [f"+ {', '.join(column.categories_added)}"] if column.categories_added else []
        parts += [f"- {', '.join(column.categories_removed)}"] if column.categories_removed else []
        say("column_changed", column=column.name, what="; ".join(parts))


def _say_timing(context: Context, found: Comparison, timing: Timing) -> None:
    text = context.console.text
    context.console.line()
    context.console.say("timing_real" if timing.real_rows else "timing_made_up")
    context.console.table(
        [text("rows"), text("calls"), f"{found.a.version} ms", f"{found.b.version} ms", text("ratio")],
        [
            (
                one.rows,
                one.calls,
                f"{one.a_ms:.4g} (p95 {one.a_p95_ms:.4g})",
                f"{one.b_ms:.4g} (p95 {one.b_p95_ms:.4g})",
                f"{one.ratio:.3f}  [{one.ratio_interval[0]:.3f}, {one.ratio_interval[1]:.3f}]",
            )
            for one in timing.sizes
        ],
    )


def _said(value: Any) -> str:
    return "-" if value is None or value == "" else f"{value:.12g}" if isinstance(value, float) else str(value)
