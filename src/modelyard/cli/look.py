"""Verbs that look: `status` of what runs, `logs` of what it said."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.plan import GatewayState, ServingPlan, SignedPlan

PROCESSES = ("gateway", "control", "jobs")


def add(verbs: Any) -> None:
    """The words of these verbs."""
    status = verbs.add_parser("status", help="what runs, what is served, how old the plan is")
    status.add_argument("--json", action="store_true", help="one JSON document")
    status.set_defaults(run=run_status)
    logs = verbs.add_parser("logs", help="what the processes of `up` said")
    logs.add_argument("process", nargs="?", choices=PROCESSES, help="one of them (all)")
    logs.add_argument("--follow", "-f", action="store_true", help="go on as lines come")
    logs.add_argument("--lines", "-n", type=int, default=40, metavar="N", help="how many to begin with (40)")
    logs.set_defaults(run=run_logs)


def run_status(context: Context) -> int:
    """0 if the gateway runs, 4 if it does not."""
    from modelyard.cli.tree import answers_at
    from modelyard.cli.up import known_control_url, running_gateway

    state = running_gateway(context)
    plan = plan_on_disk(context)
    control = {"url": known_control_url(context), "running": answers_at(known_control_url(context))}
    if context.wants_json:
        context.console.json(_as_json(context, state, plan, control))
    else:
        _gateway_lines(context, state, plan)
        context.console.say("control_runs" if control["running"] else "control_silent", url=control["url"])
        _plan_lines(context, plan)
    return Exit.OK if state else Exit.UNREACHABLE


def run_logs(context: Context) -> int:
    """The last lines of each file, and with --follow those that come."""
    from modelyard.cli.log_files import follow, last_lines

    chosen = [context.args.process] if context.args.process else list(PROCESSES)
    paths = [context.home.logs / f"{name}.log" for name in chosen]
    if not any(path.exists() for path in paths) and not context.args.follow:
        context.console.note("no_logs")
        return Exit.OK
    for path in paths:
        for line in last_lines(path, context.args.lines):
            _log_line(context, path.stem, line, len(paths) > 1)
    if context.args.follow:
        for path, line in follow(paths):
            _log_line(context, path.stem, line, len(paths) > 1)
    return Exit.OK


def plan_on_disk(context: Context) -> ServingPlan | None:
    """The plan that gateways of this home follow, as it lies there; None if there is none or it cannot be read."""
    try:
        signed = msgspec.json.decode(context.home.plan.read_bytes(), type=SignedPlan)
        return msgspec.json.decode(signed.plan, type=ServingPlan)
    except (FileNotFoundError, msgspec.MsgspecError, ValueError):
        return None


def age_text(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _gateway_lines(context: Context, state: GatewayState | None, plan: ServingPlan | None) -> None:
    if state is None:
        context.console.say("gateway_silent")
        return
    age = age_text(time.time() - state.started_at)
    context.console.say("gateway_runs", url=state.url, pid=state.pid, age=age, workers=len(state.workers))
    for worker in state.workers:
        if worker.reason:
            context.console.say("worker_refuses", worker=worker.worker, revision=worker.refused, reason=worker.reason)
        elif plan and worker.revision < plan.revision:
            context.console.say("worker_behind", worker=worker.worker, revision=worker.revision, wanted=plan.revision)
    for death in state.restarts[-3:]:
        context.console.say("worker_died", cause=death)
    for model in state.models:
        name = f"{model.digest[:16]}-{model.index}"
        context.console.say(
            "model_worker", digest=model.digest[:12], index=model.index, state=model.state, pid=model.pid,
            megabytes=model.rss_bytes >> 20, restarts=model.restarts,
        )  # fmt: skip
        if model.last_death:
            context.console.say("model_worker_died", cause=model.last_death, file=f"run/models/{name}.json")


def _plan_lines(context: Context, plan: ServingPlan | None) -> None:
    if plan is None or not plan.endpoints:
        context.console.say("nothing_deployed")
        return
    context.console.say("plan_line", revision=plan.revision, age=age_text(time.time() - plan.published_at))
    context.console.line()
    context.console.table(
        [context.console.text(heading) for heading in ("endpoint", "model", "version", "percent", "aliases")],
        [
            (
                endpoint.name,
                endpoint.model,
                planned.version,
                endpoint.split.weights.get(planned.version, 0),
                ", ".join(sorted(alias for alias, number in endpoint.aliases.items() if number == planned.version)),
            )
            for endpoint in plan.endpoints
            for planned in sorted(endpoint.versions, key=lambda held: -endpoint.split.weights.get(held.version, 0))
        ],
    )


def _as_json(
    context: Context, state: GatewayState | None, plan: ServingPlan | None, control: dict[str, Any]
) -> dict[str, Any]:
    return {
        "home": context.settings.home,
        "gateway": {"running": state is not None, **(msgspec.to_builtins(state) if state else {})},
        "control": control,
        "plan": plan
        and {
            "revision": plan.revision,
            "age_s": round(time.time() - plan.published_at, 1),
            "require_keys": plan.require_keys,
            "keys": len(plan.keys),
        },
        "endpoints": [
            {
                "name": endpoint.name,
                "model": endpoint.model,
                "versions": {str(number): percent for number, percent in endpoint.split.weights.items()},
                "aliases": endpoint.aliases,
            }
            for endpoint in (plan.endpoints if plan else ())
        ],
    }


def _log_line(context: Context, process: str, line: str, named: bool) -> None:
    context.console.line(f"{process:<8}│ {line}" if named else line)
