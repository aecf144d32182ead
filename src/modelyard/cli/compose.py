"""The verb `compose`: registered versions become one, an ensemble or a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit

if TYPE_CHECKING:
    from modelyard.optimise.parts import Composed


def add(verbs: Any) -> None:
    """The words of this verb."""
    compose = verbs.add_parser("compose", help="make one version of several").add_subparsers(
        metavar="KIND", required=True
    )
    ensemble = compose.add_parser("ensemble", help="several versions answer together")
    ensemble.add_argument("name", metavar="NAME", help="of the model that they become")
    ensemble.add_argument("--of", nargs="+", required=True, metavar="MODEL:VERSION", help="two or more versions")
    ensemble.add_argument("--by", choices=("mean", "vote", "stacking"), default="mean", help="how (mean)")
    ensemble.add_argument("--weights", nargs="+", type=float, default=(), metavar="W", help="one for each (equal)")
    ensemble.add_argument("--log-odds", action="store_true", help="mean of log-odds: it can be explained exactly")
    ensemble.add_argument("--table", type=Path, metavar="TABLE", help="to fit a stacking on, and to measure with")
    ensemble.add_argument("--target", metavar="COLUMN", help="of the table: the outcome (the members' target)")
    ensemble.add_argument("--cutoff", type=float, metavar="P", help="of the decision (the first member's)")
    ensemble.add_argument("--json", action="store_true", help="one JSON document")
    ensemble.set_defaults(run=run_ensemble)
    pipeline = compose.add_parser("pipeline", help="what one step gives, the next one takes")
    pipeline.add_argument("name", metavar="NAME", help="of the model that they become")
    pipeline.add_argument("file", type=Path, metavar="FILE", help="inputs, steps and outputs, as TOML")
    pipeline.add_argument("--json", action="store_true", help="one JSON document")
    pipeline.set_defaults(run=run_pipeline)
    part = compose.add_parser("part", help="bring a graph of tensors, such as one that takes images, for a pipeline")
    part.add_argument("name", metavar="NAME", help="of the model")
    part.add_argument("file", type=Path, metavar="FILE", help="an ONNX graph; it is served as it is")
    part.add_argument("--json", action="store_true", help="one JSON document")
    part.set_defaults(run=run_part)


def run_ensemble(context: Context) -> int:
    """Compose, prove, register; or say why not."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.optimise.compose import package_ensemble
    from modelyard.optimise.parts import part_named

    args = context.args
    parts = [part_named(context.home, name) for name in args.of]
    composed = package_ensemble(
        args.name, parts, args.by, weights=args.weights, log_odds=args.log_odds, table=args.table, target=args.target,
        cutoff=args.cutoff,
    )  # fmt: skip
    return _register(context, composed)


def run_pipeline(context: Context) -> int:
    """Check, measure, register; or say which step does not fit, and why."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.optimise.compose_pipeline import package_pipeline
    from modelyard.optimise.pipeline_file import read_pipeline

    args = context.args
    return _register(context, package_pipeline(args.name, read_pipeline(args.file), context.home, args.file.parent))


def run_part(context: Context) -> int:
    """Measure and register a graph whose inputs are no columns of a table."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.optimise.parts import Composed
    from modelyard.optimise.tensors import package_tensors

    return _register(context, Composed(*package_tensors(context.args.file, context.args.name)))


def _register(context: Context, composed: Composed) -> int:
    from modelyard.cli.train import described
    from modelyard.control.registry.services import find_version
    from modelyard.optimise.parts import register_composed

    name, number = register_composed(composed)
    if context.wants_json:
        context.console.json(described(find_version(name, number)))
        return Exit.OK
    context.console.say("registered", model=name, version=number)
    for manifest, _ in composed.before:
        context.console.note("composed_before", model=manifest.model)
    context.console.note("next_deploy", model=name)
    return Exit.OK
