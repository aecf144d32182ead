"""The verb `demo`: from a raw table to an answered call, with every step visible."""

from __future__ import annotations

import os
from shlex import quote
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli import up
from modelyard.cli.console import json_text
from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import Internal, NotFound
from modelyard.contract.infer import Prediction

if TYPE_CHECKING:
    from modelyard.client.client import Client

NAME = "credit_scoring"
KEY_HOURS = 1


def add(verbs: Any) -> None:
    """The words of this verb."""
    demo = verbs.add_parser("demo", help="train, register, deploy, call and watch a credit score")
    up.add_server_flags(demo)
    demo.add_argument(
        "--control-port", type=int, metavar="PORT", help="of the management API and the admin pages (8080)"
    )
    demo.add_argument("--once", action="store_true", help="stop after the call, with status 0")
    demo.set_defaults(run=run_demo)


def run_demo(context: Context) -> int:
    """Train if need be, deploy, start, call; stay until Ctrl-C unless --once."""
    up.check_before_start(context)
    number = _model(context)
    _deploy(context, number)
    with up.standing(context) as running:
        if running is None:
            return Exit.FAILED
        if not running.stopping:
            _call(context)
        if context.args.once:
            context.console.note("demo_once", style="dim")
        else:
            context.console.note("stop_with_ctrl_c", style="dim")
            running.watch()
            context.console.note("stopping")
    context.console.note("stopped")
    return Exit.OK


def _model(context: Context) -> int:
    """The version to serve: trained now, or found where an earlier run left it."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.cli.progress import ShownProgress
    from modelyard.cli.train import SHOWN, metrics_text
    from modelyard.control.accounts.services import ensure_admin
    from modelyard.control.training.work import run_blueprint

    if password := ensure_admin():
        context.console.note("admin_made", style="bold", password=password)
    context.console.note("demo_begins", home=context.settings.home)
    with ShownProgress(context.console) as progress:
        version, _ = run_blueprint(NAME, progress, by=context.by)
    aliases = ", ".join(alias.name for alias in version.aliases.all())
    context.console.note("demo_version", model=NAME, version=version.number, aliases=aliases or "-")
    for measure in SHOWN:
        if measure in version.metrics:
            context.console.err().print(f"    {measure:<9} {metrics_text(version.metrics, measure)}", markup=False)
    return int(version.number)


def _deploy(context: Context, number: int) -> None:
    """The endpoint, unless it already serves some version of the model: a person may have chosen another."""
    from modelyard.control.deployments.services import deploy, find_endpoint

    try:
        endpoint = find_endpoint(NAME)
    except NotFound:
        endpoint = deploy(NAME, number, by=context.by)
    context.console.note("demo_deployed", endpoint=endpoint.name)


def _call(context: Context) -> None:
    """One real call with the endpoint's example, one for somebody who is declined, and the line to copy."""
    from modelyard.client.client import Client

    state = up.running_gateway(context)
    if state is None:
        raise Internal("the gateway went away before the call; `modelyard logs gateway` says why")
    url, say = up.reachable_url(state.url), context.console.say
    with Client(url, _key(context)) as client:
        example = client.endpoint(NAME).describe()["example"]
        answer = client.endpoint(NAME).predict(example, language=context.console.language)
        context.console.line()
        say("demo_request", url=f"{url}/{NAME}")
        context.console.line(json_text(example))
        say("demo_answer")
        context.console.line(json_text(_said(answer)))
        _show_declined(context, client)
    context.console.line()
    up.show_addresses(context)
    say("demo_describe", url=f"{url}/{NAME}")
    say("demo_copy")
    header = '-H "Authorization: Bearer $MODELYARD_KEY" ' if context.settings.require_keys else ""
    context.console.line(f"  curl -X POST {url}/{NAME} {header}-d {quote(msgspec.json.encode(example).decode())}")


def _show_declined(context: Context, client: Client) -> None:
    for row in _applicants(context):
        answer = client.endpoint(NAME).predict(row, language=context.console.language)
        if answer.reasons:
            shown = answer.probability or 0.0
            context.console.say(
                "demo_declined", decision=answer.decision, probability=f"{shown:.1%}", score=answer.score
            )
            for reason in answer.reasons:
                context.console.line(f"  • {reason.text}")
            return


def _applicants(context: Context) -> list[dict[str, Any]]:
    """Rows that the artifact carries as samples, the least safe one first."""
    from modelyard.artifacts.store import Shelf
    from modelyard.control.registry.services import find_version

    artifact = Shelf(context.home.shelf).open(find_version(NAME).digest)
    if "samples.json" not in artifact.manifest.files:
        return []
    samples = msgspec.json.decode(artifact.read("samples.json"), type=list[dict[str, Any]])
    return [sample["row"] for sample in sorted(samples, key=lambda sample: -sample["probability"])]


def _said(answer: Prediction) -> dict[str, Any]:
    """The answer as the gateway said it."""
    told = msgspec.to_builtins(answer)
    order = ("request_id", "model", "version", "decision", "probability", "score", "reasons")
    return {name: told[name] for name in order if name in told}


def _key(context: Context) -> str | None:
    """A key for the demo's own calls where the gateway wants one."""
    if not context.settings.require_keys:
        return None
    if given := os.environ.get("MODELYARD_KEY"):
        return given
    from datetime import UTC, datetime, timedelta

    from modelyard.cli.deployments import say_when_served
    from modelyard.control.accounts.services import create_key

    until = datetime.now(UTC) + timedelta(hours=KEY_HOURS)
    secret = create_key("demo", [f"infer:{NAME}"], by=context.by, expires_at=until)[1]
    say_when_served(context, quiet=True)
    return str(secret)
