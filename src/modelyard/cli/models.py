"""Verbs of models and endpoints: `models list|show|register`, `deploy`, `undeploy`, `rollback`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.cli.train import SHOWN, described, metrics_text

if TYPE_CHECKING:
    from modelyard.artifacts.manifest import Manifest
    from modelyard.contract.home import Home
    from modelyard.contract.plan import GatewayState

SERVED_WITHIN_S = 60.0
CLASS = re.compile(r"[\w.]+:[\w.]+")


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
    forms = ".onnx, .skops, LightGBM .txt, XGBoost .json or .ubj, the folder of a text encoder, PACKAGE:CLASS, …"
    register.add_argument("file", type=Path, metavar="FILE", help=forms)
    register.add_argument("--name", required=True, metavar="NAME", help="of the model")
    register.add_argument("--sample", type=Path, metavar="TABLE", help="rows that it takes; a text encoder needs none")
    register.add_argument("--target", metavar="COLUMN", help="of the sample: what the model predicts")
    register.add_argument("--runtime", choices=("onnx", "native"), help="convert it, or serve it as it is (onnx)")
    register.add_argument("--files", type=Path, metavar="DIR", help="of PACKAGE:CLASS: the folder for its `setup`")
    register.add_argument("--trust", action="store_true", help="open a pickle: that runs whatever code is in it")
    register.add_argument("--truncate", action="store_true", help="of a text encoder: cut longer texts, refuse none")
    register.add_argument("--max-length", type=int, metavar="TOKENS", help="of a text encoder: the longest text")
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

    found = [_model(model, context.home) for model in Model.objects.prefetch_related("versions")]
    if context.wants_json:
        context.console.json(found)
    elif not found:
        context.console.note("no_models")
    else:
        headings = ("model", "version", "aliases", "framework", "auc", "created")
        trusted = context.console.text("trusted_code")
        context.console.table(
            [context.console.text(heading) for heading in headings],
            [
                (
                    model["model"],
                    version["number"],
                    ", ".join(version["aliases"]),
                    f"{version['framework']} ({trusted})" if version["trusted"] else version["framework"],
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
        model = _model(version.model, context.home)
        context.console.json({**model, **described(version), "manifest": msgspec.to_builtins(manifest)})
        return Exit.OK
    say, text = context.console.say, context.console.text
    say("version_title", model=name, version=version.number, framework=manifest.framework, digest=version.digest[:12])
    for measure in SHOWN:
        if measure in manifest.metrics:
            context.console.line(f"  {measure:<9} {metrics_text(manifest.metrics, measure)}")
    if manifest.parity:
        say("parity_line", rows=manifest.parity.rows, error=f"{manifest.parity.max_error:.2g}")
    if manifest.lineage.source and not manifest.lineage.rows:
        say("source_line", source=manifest.lineage.source)
    elif manifest.lineage.source:
        say("lineage_line", source=manifest.lineage.source, rows=f"{manifest.lineage.rows:,}")
    if manifest.trusted:
        say("trusted_line", what=manifest.code.entry if manifest.code else ", ".join(_models_of(manifest)))
    if not manifest.independent_rows:
        say("dependent_line")
    context.console.line()
    if manifest.contract.columns:
        context.console.table(
            [text(heading) for heading in ("column", "kind", "role", "rules")],
            [(column.name, column.kind, column.role, _rules(column)) for column in manifest.contract.columns],
        )
    else:
        sides = {"→": manifest.signature.inputs, "←": manifest.signature.outputs}
        context.console.table(
            [text(heading) for heading in ("direction", "tensor", "datatype", "shape")],
            [(side, one.name, one.datatype, str(list(one.shape))) for side, specs in sides.items() for one in specs],
        )
    return Exit.OK


def _models_of(manifest: Manifest) -> list[str]:
    return [name for name in manifest.files if name.startswith("model.")]


def run_register(context: Context) -> int:
    """Convert, prove, package, register; or say why not."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.registry.services import find_version
    from modelyard.control.registry.work import register_packaged

    args = context.args
    manifest, files = _packaged(args)
    name, number = register_packaged(manifest, files, by="local", note=f"from {args.file.name}")
    if context.wants_json:
        context.console.json(described(find_version(name, number)))
    else:
        context.console.say("registered", model=name, version=number)
        context.console.note("next_deploy", model=name)
    return Exit.OK


def _packaged(args: Any) -> tuple[Manifest, dict[str, bytes]]:
    from modelyard.contract.errors import InvalidInput

    if CLASS.fullmatch(str(args.file)) and not args.file.exists():
        return _packaged_class(args)
    if args.files is not None:
        raise InvalidInput("--files is for a class of your own, PACKAGE:CLASS")
    return _packaged_text(args) if args.file.is_dir() else _packaged_table(args)


def _packaged_class(args: Any) -> tuple[Manifest, dict[str, bytes]]:
    from modelyard.contract.errors import InvalidInput
    from modelyard.optimise.held import package_class

    if args.sample or args.target or args.trust or args.runtime or args.truncate or args.max_length is not None:
        raise InvalidInput("a class of your own says itself what it takes; leave all but --name and --files out")
    return package_class(str(args.file), args.name, args.files)


def _packaged_text(args: Any) -> tuple[Manifest, dict[str, bytes]]:
    from modelyard.contract.errors import InvalidInput
    from modelyard.optimise.text import package_text_model

    if args.sample or args.target or args.trust or args.runtime:
        raise InvalidInput("a folder is a text encoder; --sample, --target, --runtime and --trust are for other models")
    return package_text_model(args.file, args.name, max_length=args.max_length, truncate=args.truncate)


def _packaged_table(args: Any) -> tuple[Manifest, dict[str, bytes]]:
    from modelyard.contract.errors import InvalidInput
    from modelyard.optimise.register import package_model

    if args.truncate or args.max_length is not None:
        raise InvalidInput("--truncate and --max-length are for the folder of a text encoder")
    if not args.sample:
        raise InvalidInput("--sample is missing: a table file with some rows that the model takes")
    runtime: Any = args.runtime or "onnx"
    return package_model(args.file, args.sample, args.name, args.target, trust=args.trust, runtime=runtime)


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


def _model(model: Any, home: Home) -> dict[str, Any]:
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
                "trusted": _is_trusted(home, version.digest),
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


def _is_trusted(home: Home, digest: str) -> bool:
    """Whether a version holds or names code, as its manifest says; its other files are not read for that."""
    from modelyard.artifacts.store import MANIFEST

    try:
        return bool(msgspec.json.decode((home.shelf / digest / MANIFEST).read_bytes()).get("trusted"))
    except (FileNotFoundError, msgspec.MsgspecError):  # `models show` says what is wrong with it
        return False


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
