"""Verbs of models and endpoints: `models list|show|register`, `deploy`, `undeploy`, `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.cli.train import SHOWN, described, metrics_text

if TYPE_CHECKING:
    from modelyard.contract.plan import GatewayState

SERVED_WITHIN_S = 60.0


def add(verbs: Any) -> None:
    """The words of these verbs."""
    models = verbs.add_parser("models", help="what is registered").add_subparsers(metavar="VERB", required=True)
    listing = models.add_parser("list", help="every model and its versions")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=run_list)
    show = models.add_parser("show", help="one version: measures, columns, where it came from")
    show.add_argument("name", metavar="NAME[:VERSION]", help="a model, and a version or alias of it (the champion)")
    show.add_argument("--json", action="store_true", help="one JSON document")
    show.set_defaults(run=run_show)
    register = models.add_parser("register", help="bring a model of your own: ONNX, or what converts to it exactly")
    register.add_argument("file", type=Path, metavar="FILE", help=".onnx, LightGBM .txt, XGBoost .json or .ubj, …")
    register.add_argument("--name", required=True, metavar="NAME", help="of the model")
    register.add_argument("--sample", required=True, type=Path, metavar="TABLE", help="rows that it takes")
    register.add_argument("--target", metavar="COLUMN", help="of the sample: what the model predicts")
    register.add_argument("--trust", action="store_true", help="open a pickle: that runs whatever code is in it")
    register.add_argument("--json", action="store_true", help="one JSON document")
    register.set_defaults(run=run_register)

    deploy = verbs.add_parser("deploy", help="put a version behind an endpoint")
    deploy.add_argument("name", metavar="NAME", help="of the model")
    deploy.add_argument("--version", metavar="N", help="number or alias (the newest)")
    deploy.add_argument("--endpoint", metavar="E", help="the name that callers use (the model's)")
    deploy.set_defaults(run=run_deploy)
    undeploy = verbs.add_parser("undeploy", help="take an endpoint away; its versions stay registered")
    undeploy.add_argument("endpoint", metavar="ENDPOINT")
    undeploy.set_defaults(run=run_undeploy)
    rollback = verbs.add_parser("rollback", help="send all calls back to the version that served before")
    rollback.add_argument("endpoint", metavar="ENDPOINT")
    rollback.set_defaults(run=run_rollback)


def run_list(context: Context) -> int:
    """Every version of every model, newest first."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.registry.models import Model

    found = [_model(model) for model in Model.objects.prefetch_related("versions")]
    if context.wants_json:
        context.console.json(found)
    elif not found:
        context.console.note("no_models")
    else:
        headings = ("model", "version", "aliases", "framework", "auc", "created")
        context.console.table(
            [context.console.text(heading) for heading in headings],
            [
                (
                    model["model"],
                    version["number"],
                    ", ".join(version["aliases"]),
                    version["framework"],
                    version["metrics"].get("auc"),
                    version["created_at"][:16].replace("T", " "),
                )
                for model in found
                for version in model["versions"]
            ],
        )
    return Exit.OK


def run_show(context: Context) -> int:
    """One version in full, from its row and its artifact; as JSON beside all versions of its model."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.artifacts.store import Shelf
    from modelyard.control.registry.services import find_version

    name, _, which = context.args.name.partition(":")
    version = find_version(name, which or None)
    manifest = Shelf(context.home.shelf).open(version.digest).manifest
    if context.wants_json:
        context.console.json({**_model(version.model), **described(version), "manifest": msgspec.to_builtins(manifest)})
        return Exit.OK
    say, text = context.console.say, context.console.text
    say("version_title", model=name, version=version.number, framework=manifest.framework, digest=version.digest[:12])
    for measure in SHOWN:
        if measure in manifest.metrics:
            context.console.line(f"  {measure:<9} {metrics_text(manifest.metrics, measure)}")
    if manifest.parity:
        say("parity_line", rows=manifest.parity.rows, error=f"{manifest.parity.max_error:.2g}")
    if manifest.lineage.source:
        say("lineage_line", source=manifest.lineage.source, rows=f"{manifest.lineage.rows:,}")
    context.console.line()
    context.console.table(
        [text(heading) for heading in ("column", "kind", "role", "rules")],
        [(column.name, column.kind, column.role, _rules(column)) for column in manifest.contract.columns],
    )
    return Exit.OK


def run_register(context: Context) -> int:
    """Convert, prove, package, register; or say why not."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.registry.services import find_version
    from modelyard.control.registry.work import register_packaged
    from modelyard.optimise.register import package_model

    args = context.args
    manifest, files = package_model(args.file, args.sample, args.name, args.target, trust=args.trust)
    name, number = register_packaged(manifest, files, by="local", note=f"from {args.file.name}")
    if context.wants_json:
        context.console.json(described(find_version(name, number)))
    else:
        context.console.say("registered", model=name, version=number)
        context.console.note("next_deploy", model=name)
    return Exit.OK


def run_deploy(context: Context) -> int:
    """Returns once every worker serves it; without a running gateway, once it is planned."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.rollout import deploy_and_wait

    args = context.args
    endpoint, state = deploy_and_wait(args.name, args.version, args.endpoint, by="local", wait_s=SERVED_WITHIN_S)
    number = _serving(endpoint)
    context.console.say("deployed", endpoint=endpoint.name, model=endpoint.model.name, version=number)
    _say_state(context, state)
    return Exit.OK


def run_undeploy(context: Context) -> int:
    """Returns once no worker answers for it."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.services import undeploy

    undeploy(context.args.endpoint, by="local")
    context.console.say("undeployed", endpoint=context.args.endpoint)
    say_when_served(context)
    return Exit.OK


def run_rollback(context: Context) -> int:
    """Returns once every worker serves the version that served before."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.deployments.services import rollback

    endpoint = rollback(context.args.endpoint, by="local")
    context.console.say("deployed", endpoint=endpoint.name, model=endpoint.model.name, version=_serving(endpoint))
    say_when_served(context)
    return Exit.OK


def say_when_served(context: Context, quiet: bool = False) -> None:
    """Wait until every gateway worker has the plan that lies on disk. Raises NotReady with the worker's reason."""
    from modelyard.control.deployments.reading import read_plan
    from modelyard.control.deployments.wait import wait_until_served

    plan = read_plan(context.home)
    state = wait_until_served(context.home, plan.revision if plan else 0, SERVED_WITHIN_S)
    if not quiet:
        _say_state(context, state)


def _say_state(context: Context, state: GatewayState | None) -> None:
    if state is None:
        context.console.note("served_later")
    else:
        context.console.note("served_now", workers=len(state.workers), url=state.url)


def _serving(endpoint: Any) -> int:
    """The version that gets most calls."""
    return int(endpoint.deployments.select_related("version").order_by("-weight").first().version.number)


def _model(model: Any) -> dict[str, Any]:
    """A model with its versions, newest first, as `--json` shows it."""
    aliases = {alias.name: alias.version.number for alias in model.aliases.select_related("version")}
    return {
        "model": model.name,
        "aliases": aliases,
        "versions": [
            {
                "number": version.number,
                "aliases": sorted(alias for alias, number in aliases.items() if number == version.number),
                "status": version.status,
                "framework": version.framework,
                "digest": version.digest,
                "metrics": version.metrics,
                "parity": version.parity,
                "lineage": version.lineage,
                "note": version.note,
                "created_at": version.created_at.isoformat(timespec="seconds"),
                "created_by": version.created_by,
            }
            for version in model.versions.all()
        ],
    }


def _rules(column: Any) -> str:
    """What a column asks, in a few words."""
    if column.role != "feature":
        return str(column.note)
    if column.categories:
        shown = ", ".join(column.categories[:6])
        return f"{shown}{', …' if len(column.categories) > 6 else ''}{' or missing' if column.nullable else ''}"
    ends = ["" if end is None else f"{end:.12g}" for end in (column.minimum, column.maximum)]
    span = f"{ends[0]} … {ends[1]}" if any(ends) else ""
    return f"{span}{' ' + column.unit if column.unit else ''}{' or missing' if column.nullable else ''}".strip()
