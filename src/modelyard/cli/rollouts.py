"""Verbs of guarded rollouts: `rollout start|list|show|watch|pause|resume|abort`."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import InvalidInput

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LOOK_S = 0.5
UNWATCHED = -1.0
STATES = {
    "running": "rollout_running",
    "paused": "rollout_paused",
    "finished": "rollout_finished",
    "rolled_back": "rollout_rolled_back",
    "aborted": "rollout_aborted",
}
WAITS = {"time": "waits_for_time", "calls": "waits_for_calls", "doubt": "waits_for_doubt"}
GUARDS = {"errors": "guard_errors", "latency": "guard_latency", "violations": "guard_violations"}


def add(verbs: Any) -> None:
    """The words of these verbs."""
    rollout = verbs.add_parser("rollout", help="give a version its calls step by step, guarded").add_subparsers(
        metavar="VERB", required=True
    )
    _add_start(rollout)
    listing = rollout.add_parser("list", help="every rollout, the newest first")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=run_list)
    for name, run, told in (
        ("show", run_show, "how one stands, what its guards see, and what happened to it"),
        ("watch", run_watch, "follow one to its end; status 0 if it is finished, 1 if not"),
        ("pause", run_pause, "keep the share as it is; the guards go on watching"),
        ("resume", run_resume, "go on with a paused one"),
        ("abort", run_abort, "give the champion all calls again"),
    ):
        verb = rollout.add_parser(name, help=told)
        verb.add_argument("which", metavar="ROLLOUT", help="its number, or the endpoint's name for its last one")
        if name in ("pause", "abort"):
            verb.add_argument("--reason", default="", metavar="TEXT", help="why; it is kept")
        verb.add_argument("--json", action="store_true", help="one JSON document")
        verb.set_defaults(run=run)


def _add_start(rollout: Any) -> None:
    start = rollout.add_parser("start", help="begin one")
    start.add_argument("endpoint", metavar="ENDPOINT")
    start.add_argument("version", metavar="VERSION", help="number or alias")
    start.add_argument("--steps", type=_percents, metavar="LIST", help="percents with commas (1,10,50,100)")
    start.add_argument("--step-minutes", type=float, metavar="M", help="at each step, at least (10)")
    start.add_argument("--min-calls", type=int, metavar="N", help="of the version at each step, at least (1000)")
    start.add_argument("--alpha", type=float, metavar="A", help="chance of rolling a good version back (0.05)")
    margin = "points by which it may be worse; none: not watched"
    start.add_argument("--errors", type=_points, metavar="P", help=f"percent of calls that err: {margin} (0.2)")
    start.add_argument("--latency", type=_points, metavar="P", help=f"percent of slow answers: {margin} (2)")
    start.add_argument("--slower", type=float, metavar="X", help="how many times as slow is still as fast (1.25)")
    start.add_argument("--fast-ms", type=float, metavar="MS", help="an answer within this is never slow (1)")
    start.add_argument("--violations", type=_points, metavar="P", help=f"percent of inputs refused: {margin} (0.5)")
    start.add_argument("--lease-seconds", type=float, metavar="S", help="how long the share outlives the runner (30)")
    start.add_argument("--force", default="", metavar="REASON", help="though callers would break; the reason is kept")
    start.add_argument("--json", action="store_true", help="one JSON document")
    start.set_defaults(run=run_start)


def _percents(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError("percents with commas, such as 1,10,50,100") from None


def _points(text: str) -> float:
    """Percent points as a share; `UNWATCHED` for a guard that is not wanted."""
    if text == "none":
        return UNWATCHED
    try:
        return float(text) / 100
    except ValueError:
        raise argparse.ArgumentTypeError("percent points such as 0.2, or the word none") from None


def run_start(context: Context) -> int:
    """Returns once it has begun; the runner of `modelyard up` does the rest."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.models import Change
    from modelyard.control.rollouts.services import LEASE_S, start_rollout

    args = context.args
    done = start_rollout(
        args.endpoint,
        args.version,
        _policy(args),
        by=context.by,
        lease_seconds=LEASE_S if args.lease_seconds is None else args.lease_seconds,
        force=args.force,
    )
    if not isinstance(done, Change):
        return _say(context, done)
    if context.wants_json:
        from modelyard.control.deployments.serializers import ChangeSerializer

        context.console.json(dict(ChangeSerializer(done).data))
    else:
        context.console.say("change_waits", change=done.pk, endpoint=done.endpoint)
    return Exit.OK


def run_list(context: Context) -> int:
    """All of them, the newest first."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.rollouts.models import Rollout
    from modelyard.control.rollouts.report import described, report_of

    found = list(Rollout.objects.all())
    if context.wants_json:
        context.console.json([described(row) for row in found])
        return Exit.OK
    if not found:
        context.console.note("no_rollouts")
        return Exit.OK
    text = context.console.text
    context.console.table(
        [text(heading) for heading in ("rollout", "endpoint", "champion", "candidate", "percent", "state", "reason")],
        [
            (
                row.pk,
                row.endpoint,
                row.champion,
                row.candidate,
                report_of(row)["percent"],
                text(STATES[row.state]),
                row.reason,
            )
            for row in found
        ],
    )
    return Exit.OK


def run_show(context: Context) -> int:
    """Where it stands, each guard's evidence, and its history."""
    return _say(context, _found(context), history=True)


def run_pause(context: Context) -> int:
    """Its share stays; the guards may still roll it back."""
    row = _found(context)
    from modelyard.control.rollouts.services import pause

    return _say(context, pause(row.pk, context.by, context.args.reason))


def run_resume(context: Context) -> int:
    """The time of the pause does not count."""
    row = _found(context)
    from modelyard.control.rollouts.services import resume

    return _say(context, resume(row.pk, context.by))


def run_abort(context: Context) -> int:
    """The champion has all calls again within a second."""
    row = _found(context)
    from modelyard.control.rollouts.services import abort

    return _say(context, abort(row.pk, context.by, context.args.reason))


def run_watch(context: Context) -> int:
    """A line for each change; on a terminal bars in between. With --json the document that it ends as."""
    row = _found(context)
    from modelyard.control.rollouts.report import report_of
    from modelyard.control.rollouts.services import find_rollout

    said = ""
    with Bars(context) as bars:
        while True:
            report = report_of(row)
            line = _line(context, row, report)
            if line != said and not context.wants_json:
                bars.line(line)
                said = line
            if not row.is_active:
                break
            bars.show(report)
            time.sleep(LOOK_S)
            row = find_rollout(row.pk)
    if context.wants_json:
        _say(context, row)
    return Exit.OK if row.state == "finished" else Exit.FAILED


class Bars:
    """Time and calls of the present step, on a terminal's stderr. A context manager."""

    def __init__(self, context: Context) -> None:
        self._console = context.console
        self._bar: Bar | None = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        if self._console.is_interactive:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=32), TextColumn("{task.fields[said]}"))
            self._bar = Progress(*columns, console=self._console.err(), transient=True)
            self._tasks = {
                name: self._bar.add_task(self._console.text(word), total=1, said="")
                for name, word in (("seconds", "bar_time"), ("calls", "bar_calls"), ("evidence", "bar_evidence"))
            }
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """What is new, above the bars."""
        self._console.line(text)

    def show(self, report: dict[str, Any]) -> None:
        """How far the step is."""
        if self._bar is None:
            return
        for name in ("seconds", "calls"):
            done, wanted = report[name], report[f"min_{name}"]
            self._bar.update(
                self._tasks[name], completed=min(done, wanted), total=wanted or 1, said=f"{done:,.0f} / {wanted:,.0f}"
            )
        worst = max(report["findings"], key=lambda finding: finding["evidence"], default=None)
        if worst is not None:
            self._bar.update(
                self._tasks["evidence"],
                completed=min(worst["evidence"], worst["limit"]),
                total=worst["limit"],
                said=f"{worst['evidence']:.3g} / {worst['limit']:g}",
            )


# --- what is said -----------------------------------------------------------------------------------------------


def _found(context: Context) -> Any:
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.rollouts.services import find_rollout, newest_rollout

    which = context.args.which
    return find_rollout(int(which)) if which.isdecimal() else newest_rollout(which)


def _policy(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of steps and guards; the rest is as it is by default."""
    from modelyard.optimise.promotion import GUARDS as USUAL
    from modelyard.optimise.promotion import STEPS

    step: dict[str, Any] = {}
    if args.step_minutes is not None:
        step["min_seconds"] = args.step_minutes * 60
    if args.min_calls is not None:
        step["min_calls"] = args.min_calls
    percents = args.steps or [usual.percent for usual in STEPS]
    guards = []
    for usual in USUAL:
        margin = getattr(args, usual.kind)
        if margin == UNWATCHED:
            continue
        guard: dict[str, Any] = {"kind": usual.kind, "margin": usual.margin if margin is None else margin}
        if usual.kind == "latency" and args.slower is not None:
            guard["slower"] = args.slower
        if usual.kind == "latency" and args.fast_ms is not None:
            guard["fast_seconds"] = args.fast_ms / 1000
        guards.append(guard)
    if args.latency == UNWATCHED and (args.slower is not None or args.fast_ms is not None):
        raise InvalidInput("--slower and --fast-ms are for the guard on latency, and --latency none takes it away")
    policy: dict[str, Any] = {"steps": [{"percent": percent, **step} for percent in percents], "guards": guards}
    return policy if args.alpha is None else {**policy, "alpha": args.alpha}


def _say(context: Context, row: Any, history: bool = False) -> int:
    from django.utils import timezone

    from modelyard.control.rollouts.report import described, report_of
    from modelyard.control.rollouts.watch import warnings_of

    warnings = warnings_of(context.home, row.lease_seconds, timezone.now()) if row.is_active else []
    if context.wants_json:
        context.console.json({**described(row), "warnings": warnings})
        return Exit.OK
    report = report_of(row)
    context.console.line(_line(context, row, report))
    text = context.console.text
    if row.is_active:
        context.console.say(
            "rollout_step",
            seconds=f"{report['seconds']:.0f}",
            min_seconds=f"{report['min_seconds']:.0f}",
            calls=f"{report['calls']:,}",
            min_calls=f"{report['min_calls']:,}",
        )
    if row.approved_by:
        context.console.say("rollout_approved", by=row.by, approver=row.approved_by)
    if report["findings"]:
        context.console.line()
        context.console.table(
            [text(heading) for heading in ("guard", "candidate", "champion", "evidence", "believed_from")],
            [
                (
                    text(GUARDS[one["kind"]]),
                    _share(one["candidate_bad"], one["candidate_calls"]),
                    _share(one["champion_bad"], one["champion_calls"]),
                    f"{one['evidence']:.3g}",
                    f"{one['limit']:g}",
                )
                for one in report["findings"]
            ],
        )
    if history:
        context.console.line()
        context.console.table(
            [text(heading) for heading in ("at", "by", "what")],
            [(f"{event.at:%Y-%m-%d %H:%M:%S}", event.by, _told(event)) for event in reversed(row.events.all())],
        )
    for warning in warnings:
        context.console.note("rollout_warning", style="yellow", warning=warning)
    return Exit.OK


def _line(context: Context, row: Any, report: dict[str, Any]) -> str:
    """Where it stands, in one line."""
    text = context.console.text
    said = text(
        "rollout_line",
        rollout=row.pk,
        endpoint=row.endpoint,
        champion=row.champion,
        candidate=row.candidate,
        percent=report["percent"],
        state=text(STATES[row.state]),
    )
    if report["waits_for"] is not None and row.state == "running":
        said = f"{said}; {text(WAITS[report['waits_for']])}"
    return f"{said}: {row.reason}" if row.reason else said


def _told(event: Any) -> str:
    said = event.details
    more = {"advance": f"{said.get('percent')} %", "silence": f"{said.get('seconds')} s"}.get(event.verb)
    return f"{event.verb} {more or said.get('reason', '')}".strip()


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} % / {whole:,}" if whole else ""
