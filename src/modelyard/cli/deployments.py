"""Verbs of what answers: `deploy`, `traffic`, `shadow`, `rollback`, `undeploy`, `endpoint …`, and approvals."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import Forbidden, InvalidInput, Unauthenticated

if TYPE_CHECKING:
    from modelyard.contract.plan import GatewayState

SERVED_WITHIN_S = 60.0


def add(verbs: Any) -> None:
    """The words of these verbs."""
    deploy = verbs.add_parser("deploy", help="put a version behind an endpoint")
    deploy.add_argument("name", metavar="NAME", help="of the model")
    deploy.add_argument("--version", metavar="N", help="number or alias (the newest)")
    deploy.add_argument("--endpoint", metavar="E", help="the name that callers use (the model's)")
    _add_force(deploy)
    _add_expect(deploy)
    deploy.set_defaults(run=run_deploy)
    traffic = verbs.add_parser("traffic", help="share an endpoint's calls among versions")
    traffic.add_argument("endpoint", metavar="ENDPOINT")
    traffic.add_argument("shares", metavar="N=PERCENT", nargs="+", type=share, help="number or alias; they sum to 100")
    sticky = traffic.add_mutually_exclusive_group()
    sticky.add_argument("--sticky-by", metavar="WHAT", help="a header, or column:NAME: same value, same version")
    sticky.add_argument("--not-sticky", action="store_true", help="each call by itself (as it was)")
    _add_force(traffic)
    _add_expect(traffic)
    traffic.set_defaults(run=run_traffic)
    shadow = verbs.add_parser("shadow", help="copy an endpoint's calls to a version, compare, never answer")
    shadow.add_argument("endpoint", metavar="ENDPOINT")
    shadow.add_argument("version", metavar="N", nargs="?", help="number or alias")
    shadow.add_argument("--percent", type=int, default=100, metavar="P", help="of the calls (100)")
    shadow.add_argument("--off", action="store_true", help="end it")
    _add_expect(shadow)
    shadow.set_defaults(run=run_shadow)
    rollback = verbs.add_parser("rollback", help="send all calls back to the version that served before")
    rollback.add_argument("endpoint", metavar="ENDPOINT")
    _add_expect(rollback)
    rollback.set_defaults(run=run_rollback)
    undeploy = verbs.add_parser("undeploy", help="take an endpoint away; its versions stay registered")
    undeploy.add_argument("endpoint", metavar="ENDPOINT")
    _add_expect(undeploy)
    undeploy.set_defaults(run=run_undeploy)
    _add_endpoint(verbs)
    _add_approvals(verbs)


def _add_endpoint(verbs: Any) -> None:
    group = verbs.add_parser("endpoint", help="how one endpoint stands, and its overrides")
    endpoint = group.add_subparsers(metavar="VERB", required=True)
    show = endpoint.add_parser("show", help="who answers, who may change it, and its revision")
    show.add_argument("endpoint", metavar="ENDPOINT")
    show.add_argument("--json", action="store_true", help="one JSON document")
    show.set_defaults(run=run_show)
    configure = endpoint.add_parser("configure", help="change overrides; what is not named stays")
    configure.add_argument("endpoint", metavar="ENDPOINT")
    configure.add_argument("--cutoff", type=_or_none(float), metavar="X", help="the cut-off; none: the version's own")
    configure.add_argument("--max-rows", type=_or_none(int), metavar="N", help="in one call; none: the gateway's limit")
    on_off = argparse.BooleanOptionalAction
    configure.add_argument("--default", action=on_off, default=None, help="answers paths that name no endpoint")
    configure.add_argument("--pinned", action=on_off, default=None, help="its versions stay in memory")
    configure.add_argument("--needs-approval", action=on_off, default=None, help="changes wait for another principal")
    _add_expect(configure)
    configure.set_defaults(run=run_configure)


def _add_approvals(verbs: Any) -> None:
    changes = verbs.add_parser("changes", help="changes that wait for approval")
    changes.add_argument("--all", action="store_true", help="those that were decided as well")
    changes.add_argument("--json", action="store_true", help="one JSON document")
    changes.set_defaults(run=run_changes)
    approve = verbs.add_parser("approve", help="do a change that waits; not for who asked")
    approve.add_argument("change", type=int, metavar="CHANGE", help="as `changes` shows it")
    approve.add_argument("--as", dest="name", required=True, metavar="NAME", help="the account that approves")
    approve.set_defaults(run=run_approve)
    reject = verbs.add_parser("reject", help="see that a change is never done, or withdraw one's own")
    reject.add_argument("change", type=int, metavar="CHANGE", help="as `changes` shows it")
    reject.add_argument("--as", dest="name", metavar="NAME", help="the account that rejects (none: withdraw)")
    reject.add_argument("--reason", default="", metavar="TEXT", help="why")
    reject.set_defaults(run=run_reject)


def _add_force(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--force", default="", metavar="REASON", help="though callers would break; the reason is kept")


def _add_expect(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--expect", type=int, metavar="N", help="only if that is still the endpoint's revision")


def share(text: str) -> tuple[str, int]:
    """`2=10` as a version and its percent."""
    version, _, percent = text.rpartition("=")
    if not version or not percent.isdecimal() or int(percent) > 100:
        raise argparse.ArgumentTypeError("a version and a percent, such as 2=10")
    return version, int(percent)


def _or_none(kind: type[int] | type[float]) -> Any:
    """A value of an override, or the word that takes it away."""

    def read(text: str) -> Any:
        try:
            return "none" if text == "none" else kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError("a number, or the word none") from None

    return read


def run_deploy(context: Context) -> int:
    """Returns once every worker serves it; without a running gateway, once it is planned."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.served import deploy_and_wait

    args = context.args
    asked = {"by": context.by, "wait_s": SERVED_WITHIN_S, "force": args.force, "expected": args.expect}
    return _say(context, deploy_and_wait(args.name, args.version, args.endpoint, **asked))


def run_traffic(context: Context) -> int:
    """Returns once every worker shares the calls so."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.contract.plan import TrafficSplit
    from modelyard.control.deployments.served import set_traffic_and_wait
    from modelyard.control.deployments.services import find_endpoint

    args = context.args
    endpoint = find_endpoint(args.endpoint)
    weights: dict[int, int] = {}
    for which, percent in args.shares:
        number = _number(endpoint.model.name, which)
        if number in weights:
            raise InvalidInput(f"version {number} is named twice")
        weights[number] = percent
    sticky_by = None if args.not_sticky else args.sticky_by or endpoint.sticky_by or None
    try:
        split = TrafficSplit(weights, sticky_by)
    except ValueError:
        raise InvalidInput(f"the percents sum to {sum(weights.values())}, not to 100") from None
    asked = {"by": context.by, "wait_s": SERVED_WITHIN_S, "force": args.force, "expected": args.expect}
    return _say(context, set_traffic_and_wait(endpoint.name, split, **asked))


def run_shadow(context: Context) -> int:
    """Returns once every worker copies calls, or no worker does any more."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.contract.plan import Shadow
    from modelyard.control.deployments.served import set_shadow_and_wait
    from modelyard.control.deployments.services import find_endpoint

    args = context.args
    if args.off == bool(args.version):
        raise InvalidInput("name the version that gets copies of the calls, or --off")
    if not 1 <= args.percent <= 100:
        raise InvalidInput("--percent lies between 1 and 100")
    endpoint = find_endpoint(args.endpoint)
    shadow = None if args.off else Shadow(_number(endpoint.model.name, args.version), args.percent)
    asked = {"by": context.by, "wait_s": SERVED_WITHIN_S, "expected": args.expect}
    return _say(context, set_shadow_and_wait(endpoint.name, shadow, **asked))


def run_rollback(context: Context) -> int:
    """Returns once every worker serves the version that served before."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.served import rollback_and_wait

    args = context.args
    asked = {"by": context.by, "wait_s": SERVED_WITHIN_S, "expected": args.expect}
    return _say(context, rollback_and_wait(args.endpoint, **asked))


def run_undeploy(context: Context) -> int:
    """Returns once no worker answers for it."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.models import Change
    from modelyard.control.deployments.services import undeploy

    done = undeploy(context.args.endpoint, by=context.by, expected=context.args.expect)
    if isinstance(done, Change):
        return _say_waiting(context, done)
    context.console.say("undeployed", endpoint=context.args.endpoint)
    say_when_served(context)
    return Exit.OK


def run_show(context: Context) -> int:
    """Who answers and why, as the database says."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.services import find_endpoint

    endpoint = find_endpoint(context.args.endpoint)
    if context.wants_json:
        from modelyard.control.deployments.serializers import EndpointSerializer

        context.console.json(dict(EndpointSerializer(endpoint).data))
    else:
        _say_endpoint(context, endpoint)
        context.console.say("revision_line", revision=endpoint.revision)
    return Exit.OK


def run_configure(context: Context) -> int:
    """What is not named stays as it is, and nobody's change in between is lost."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.served import and_wait
    from modelyard.control.deployments.services import configure, find_endpoint

    args = context.args
    endpoint = find_endpoint(args.endpoint)
    overrides = {
        "cutoff": _override(args.cutoff, endpoint.cutoff),
        "max_rows": _override(args.max_rows, endpoint.max_rows),
        "is_default": endpoint.is_default if args.default is None else args.default,
        "is_pinned": endpoint.is_pinned if args.pinned is None else args.pinned,
        "needs_approval": args.needs_approval,
        "expected": endpoint.revision if args.expect is None else args.expect,
    }
    return _say(
        context, and_wait(lambda: configure(endpoint.name, context.by, **overrides), context.by, SERVED_WITHIN_S)
    )


def run_changes(context: Context) -> int:
    """Those that wait, or all, the newest first."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.approvals import list_changes
    from modelyard.control.deployments.models import Change

    found = list_changes() if context.args.all else list_changes().filter(status=Change.Status.WAITING)
    if context.wants_json:
        from modelyard.control.deployments.serializers import ChangeSerializer

        context.console.json([dict(row) for row in ChangeSerializer(found, many=True).data])
        return Exit.OK
    headings = ("change", "endpoint", "what", "asked_by", "created", "state", "decided_by")
    text = context.console.text
    context.console.table(
        [text(heading) for heading in headings],
        [
            (
                change.pk,
                change.endpoint,
                _told(change),
                change.by,
                f"{change.at:%Y-%m-%d %H:%M}",
                text(f"change_{change.status}"),
                change.decided_by,
            )
            for change in found
        ],
    )
    return Exit.OK


def run_approve(context: Context) -> int:
    """Returns once every worker serves what was asked for."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.served import approve_and_wait

    with _refusals():
        outcome = approve_and_wait(context.args.change, by=_proven(context), wait_s=SERVED_WITHIN_S)
    context.console.say("approved", change=outcome.change.pk, by=outcome.change.by, approver=outcome.change.decided_by)
    if outcome.endpoint is not None and outcome.endpoint.pk is not None:
        _say_endpoint(context, outcome.endpoint)
        say_state(context, outcome.state)
    return Exit.OK


def run_reject(context: Context) -> int:
    """With --as for another's change; without it, one's own is withdrawn."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.approvals import reject, withdraw

    args = context.args
    with _refusals():
        change = reject(args.change, _proven(context), args.reason) if args.name else withdraw(args.change, context.by)
    context.console.say("change_ended", change=change.pk, state=context.console.text(f"change_{change.status}"))
    return Exit.OK


def say_when_served(context: Context, quiet: bool = False) -> None:
    """Wait until every gateway worker has the plan that lies on disk. Raises NotReady with the worker's reason."""
    from modelyard.control.deployments.reading import read_plan
    from modelyard.control.deployments.wait import wait_until_served

    plan = read_plan(context.home)
    state = wait_until_served(context.home, plan.revision if plan else 0, SERVED_WITHIN_S)
    if not quiet:
        say_state(context, state)


def say_state(context: Context, state: GatewayState | None) -> None:
    """Whether it is in force, and where."""
    if state is None:
        context.console.note("served_later")
    else:
        context.console.note("served_now", workers=len(state.workers), url=state.url)


# --- what is said -----------------------------------------------------------------------------------------------


def _say(context: Context, outcome: Any) -> int:
    """How the endpoint stands now, or which change waits."""
    if outcome.waits:
        return _say_waiting(context, outcome.change)
    _say_endpoint(context, outcome.endpoint)
    say_state(context, outcome.state)
    return Exit.OK


def _say_waiting(context: Context, change: Any) -> int:
    context.console.say("change_waits", change=change.pk, endpoint=change.endpoint)
    return Exit.OK


def _say_endpoint(context: Context, endpoint: Any) -> None:
    say = context.console.say
    rows = endpoint.deployments.select_related("version").filter(weight__gt=0).order_by("-weight", "-version__number")
    shares = [(row.version.number, row.weight) for row in rows]
    if len(shares) == 1:
        say("deployed", endpoint=endpoint.name, model=endpoint.model.name, version=shares[0][0])
    else:
        listed = ", ".join(f"{number}: {weight} %" for number, weight in shares)
        say("shared", endpoint=endpoint.name, model=endpoint.model.name, shares=listed)
    if endpoint.sticky_by and len(shares) > 1:
        say("sticky_line", what=endpoint.sticky_by)
    if endpoint.shadow is not None:
        say("shadow_line", version=endpoint.shadow.number, percent=endpoint.shadow_percent)
    if endpoint.lease_fallback is not None:
        say("lease_line", seconds=f"{endpoint.lease_seconds:g}", version=endpoint.lease_fallback.number)
    if endpoint.is_pinned:
        say("pinned_line")
    if endpoint.needs_approval:
        say("approval_line")


def _told(change: Any) -> str:
    """A verb and what it was given, in one cell."""
    given = change.arguments
    if change.verb == "set_traffic":
        return "traffic " + " ".join(f"{number}={weight}" for number, weight in given["split"]["weights"].items())
    if change.verb == "start_rollout":
        percents = ", ".join(str(step["percent"]) for step in given["policy"]["steps"])
        return f"rollout {given['version']}: {percents} %"
    words = [f"{name}={value}" for name, value in given.items() if name != "endpoint" and value not in (None, "")]
    return " ".join([change.verb, *words])


def _number(model: str, which: str) -> int:
    from modelyard.control.registry.services import find_version

    return int(find_version(model, which).number)


def _override(asked: Any, now: Any) -> Any:
    return now if asked is None else None if asked == "none" else asked


# --- who approves -----------------------------------------------------------------------------------------------


def _proven(context: Context) -> str:
    """The account of --as, proven by the token in MODELYARD_TOKEN or by its password, asked for on the terminal."""
    from modelyard.control.accounts.proof import prove

    name, token = context.args.name, os.environ.get("MODELYARD_TOKEN", "")
    if not token and not sys.stdin.isatty():
        raise InvalidInput(
            "put a token of that account into MODELYARD_TOKEN: no terminal is here to ask for a password"
        )
    password = "" if token else getpass.getpass(context.console.text("password_of", name=name))
    return str(prove(name, "deployments.approve_change", token=token, password=password).get_username())


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Who may not is told why; the next step for those codes speaks of the gateway's keys, which are not asked here."""
    try:
        yield
    except (Forbidden, Unauthenticated) as refusal:
        raise InvalidInput(str(refusal)) from refusal
