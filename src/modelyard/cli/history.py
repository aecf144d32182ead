"""Verbs that look back: `history` of a model, `trace` of one request."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit

if TYPE_CHECKING:
    from modelyard.control.registry.history import Served
    from modelyard.control.registry.tracing import Found, Put, Trace, Truth

SHOWN_EVENTS = 50
SAID = ("alias", "before", "endpoint", "weights", "shadow", "approved_by", "forced", "set", "removed", "text", "reason")


def add(verbs: Any) -> None:
    """The words of these verbs."""
    past = verbs.add_parser("history", help="what happened to a model; what served at an instant, by whose word")
    past.add_argument("name", metavar="NAME", help="of a model, or of an endpoint")
    past.add_argument("--at", metavar="TIME", help="what served then: ISO 8601, UTC unless it names a zone")
    past.add_argument("--limit", type=int, default=SHOWN_EVENTS, metavar="N", help=f"newest events ({SHOWN_EVENTS})")
    past.add_argument("--json", action="store_true", help="one JSON document")
    past.set_defaults(run=run_history)
    trace = verbs.add_parser("trace", help="where an answer came from: version, who put it there, its training")
    trace.add_argument("id", metavar="REQUEST", help="a request_id, or the X-Request-Id that the caller sent")
    trace.add_argument("--inputs", action="store_true", help="also what the model saw, less personal columns; audited")
    trace.add_argument("--json", action="store_true", help="one JSON document")
    trace.set_defaults(run=run_trace)


def run_history(context: Context) -> int:
    """The log, newest first; with --at how each endpoint stood then."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.registry import history

    args = context.args
    model, endpoint = history.whose(args.name)
    if args.at:
        found = history.served_at(history.instant(args.at), model=model, endpoint=endpoint)
        _show_served(context, found, endpoint or "")
        return Exit.OK
    events = [
        {
            "at": event.at.isoformat(timespec="milliseconds"),
            "by": event.by,
            "verb": event.verb,
            "model": event.model.name,
            "version": event.version,
            "endpoint": event.endpoint,
            "revision": event.revision,
            "details": event.details,
        }
        for event in history.events_of(model, endpoint)[: max(1, args.limit)]
    ]
    if context.wants_json:
        context.console.json(events)
        return Exit.OK
    headings = ("at", "by", "verb", "version", "revision", "details")
    context.console.table(
        [context.console.text(heading) for heading in headings],
        [
            (_second(event["at"]), event["by"], event["verb"], event["version"], event["revision"], _what(event))
            for event in events
        ],
    )
    return Exit.OK


def run_trace(context: Context) -> int:
    """0 if the id is one of this home's, or a caller's own that a record bears."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.accounts.audit import record
    from modelyard.control.registry.tracing import MAX_CALLER_ID, trace

    found = trace(context.args.id, inputs=context.args.inputs)
    if context.args.inputs:
        record(context.by, "trace_inputs", found.asked[:MAX_CALLER_ID])
    if context.wants_json:
        context.console.json(msgspec.to_builtins(found))
        return Exit.OK
    for one in found.requests:
        _show_trace(context, one)
    if not found.requests:
        _show_gone(context, found)
    return Exit.OK


def _show_served(context: Context, found: list[Served], endpoint: str) -> None:
    if context.wants_json:
        context.console.json(msgspec.to_builtins(found, str_keys=True))
        return
    if not found:
        context.console.note("nothing_served")
        return
    headings = ("endpoint", "model", "version", "percent", "since", "revision", "verb", "by", "approved_by", "forced")
    rows: list[tuple[Any, ...]] = []
    for state in found:
        whose = (_second(state.since), state.revision, state.verb, state.by, state.approved_by, state.forced)
        for version, percent in sorted(state.weights.items(), key=lambda share: -share[1]):
            rows.append((state.endpoint, state.model, version, str(percent), *whose))
        if state.shadow:
            copies = context.console.text("copies", percent=state.shadow["percent"])
            rows.append((state.endpoint, state.model, state.shadow["version"], copies, *whose))
    context.console.table([context.console.text(heading) for heading in headings], rows)


def _show_trace(context: Context, one: Trace) -> None:
    say = context.console.say
    say("trace_title", id=one.request_id)
    caller = f"  X-Request-Id {one.caller_id}" if one.caller_id else ""
    say("trace_answered", at=_second(one.at), ms=f"{one.duration_ms:g}", principal=one.principal, rows=one.rows)
    if caller:
        context.console.line(caller)
    say("trace_by", endpoint=one.endpoint, model=one.model or "?", version=one.version, revision=one.revision)
    if one.percent == 0:
        say("trace_held")
    elif one.put_there is None:
        say("trace_before_log")
    if one.put_there is not None:
        _say_put(context, "trace_put", one.put_there, one.version)
    if one.last_change is not None and one.last_change != one.put_there:
        _say_put(context, "trace_last", one.last_change, one.version)
    if one.origin is not None:
        origin = one.origin
        run = str(origin.run) if origin.run is not None else "-"
        say("trace_origin", digest=origin.digest[:12], by=origin.registered_by, at=_second(origin.registered_at))
        say("trace_training", run=run, source=origin.source or "-", data=origin.data_digest[:12] or "-")
        if origin.code_revision:
            say("code_line", revision=origin.code_revision)
    _say_truths(context, one.feedback)
    if one.seen is not None:
        _show_seen(context, one)


def _say_put(context: Context, key: str, put: Put, version: int) -> None:
    text = context.console.text
    said = text(
        key, verb=put.verb, percent=put.weights.get(version, 0), at=_second(put.at), by=put.by, revision=put.revision
    )
    said += text("trace_approved", by=put.approved_by) if put.approved_by else ""
    said += text("trace_forced", reason=put.forced) if put.forced else ""
    context.console.line(said)


def _say_truths(context: Context, truths: tuple[Truth, ...]) -> None:
    for truth in truths:
        context.console.say("trace_truth", row=truth.row, truth=truth.truth, at=_second(truth.at), by=truth.principal)


def _show_seen(context: Context, one: Trace) -> None:
    seen = one.seen
    if seen is None:
        return
    if seen.reason:
        context.console.say("trace_unseen", reason=seen.reason)
    if seen.withheld:
        context.console.say("trace_withheld", columns=", ".join(seen.withheld))
    answers = [*seen.outputs, *[None] * (len(seen.rows) - len(seen.outputs))]
    if seen.rows:
        context.console.table(
            [*seen.rows[0], "→"], [(*row.values(), answer) for row, answer in zip(seen.rows, answers, strict=False)]
        )
    elif seen.outputs:
        context.console.line(f"  → {', '.join(f'{answer:g}' for answer in seen.outputs)}")


def _show_gone(context: Context, found: Found) -> None:
    say = context.console.say
    if found.endpoint:
        say("trace_genuine", id=found.asked, principal=found.principal, endpoint=found.endpoint)
    else:
        say("trace_refused", id=found.asked)
    if found.written_between is not None:
        say("trace_between", start=_second(found.written_between[0]), end=_second(found.written_between[1]))
    if found.records_since is not None:
        say("trace_gone", since=_second(found.records_since))
    else:
        say("trace_no_records")
    _say_truths(context, found.feedback)


def _second(moment: datetime | str) -> str:
    return str(moment)[:19].replace("T", " ")


def _what(event: dict[str, Any]) -> str:
    """What an event says besides its own columns, in one line."""
    details = event["details"]
    parts = []
    for name in SAID:
        value = details.get(name)
        if value in (None, "", [], {}):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key}={content}" for key, content in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        parts.append(f"{name} {value}")
    return "; ".join(parts)
