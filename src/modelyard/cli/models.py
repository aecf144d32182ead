"""Verbs of models: `models list|show|register`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli import archive, registry
from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.cli.registry import minute, named, size_text, tags_text
from modelyard.cli.train import SHOWN, described, metrics_text

if TYPE_CHECKING:
    from modelyard.artifacts.manifest import Manifest

SHOWN_VERSIONS = 200  # that a person is shown, unless --limit says
CLASS = re.compile(r"[\w.]+:[\w.]+")


def add(verbs: Any) -> None:
    """The words of these verbs."""
    models = verbs.add_parser("models", help="what is registered").add_subparsers(metavar="VERB", required=True)
    listing = models.add_parser("list", help="every model and its versions")
    listing.add_argument("name", metavar="NAME", nargs="?", help="of one model alone")
    listing.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="with this tag; several: all of them"
    )
    listing.add_argument("--limit", type=_positive, metavar="N", help=f"at most so many versions ({SHOWN_VERSIONS})")
    listing.add_argument("--json", action="store_true", help="one JSON document, of all unless --limit says")
    listing.set_defaults(run=run_list)
    show = models.add_parser("show", help="one version: measures, columns, where it came from")
    show.add_argument("name", metavar="NAME[:VERSION]", help="a model, and a version or alias of it (the champion)")
    show.add_argument("--json", action="store_true", help="one JSON document")
    show.set_defaults(run=run_show)
    registry.add_to_models(models)
    archive.add_to_models(models)
    register = models.add_parser("register", help="bring a model of your own: ONNX, or what converts to it exactly")
    forms = ".onnx, .skops, LightGBM .txt, XGBoost .json or .ubj, the folder of a text encoder, PACKAGE:CLASS, …"
    register.add_argument("file", type=Path, metavar="FILE", help=forms)
    register.add_argument("--name", required=True, metavar="NAME", help="of the model")
    register.add_argument("--sample", type=Path, metavar="TABLE", help="rows that it takes; not for tensors or texts")
    register.add_argument("--target", metavar="COLUMN", help="of the sample: what the model predicts")
    register.add_argument("--runtime", choices=("onnx", "native"), help="convert it, or serve it as it is (onnx)")
    register.add_argument("--files", type=Path, metavar="DIR", help="of PACKAGE:CLASS: the folder for its `setup`")
    register.add_argument("--trust", action="store_true", help="open a pickle: that runs whatever code is in it")
    register.add_argument("--truncate", action="store_true", help="of a text encoder: cut longer texts, refuse none")
    register.add_argument("--max-length", type=int, metavar="TOKENS", help="of a text encoder: the longest text")
    register.add_argument("--json", action="store_true", help="one JSON document")
    register.set_defaults(run=run_register)


def run_list(context: Context) -> int:
    """Versions, newest first; on a terminal so many that a person can look through them."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.control.registry.reading import catalogue, tag_pairs

    args = context.args
    limit = args.limit or (None if context.wants_json else SHOWN_VERSIONS)
    found, left_out = catalogue(args.name, tag_pairs(args.tag), limit)
    if context.wants_json:
        context.console.json(found)
        return Exit.OK
    if not found:
        context.console.note("no_versions" if args.tag or args.name else "no_models")
        return Exit.OK
    headings = ("model", "version", "aliases", "tags", "framework", "auc", "created")
    context.console.table(
        [context.console.text(heading) for heading in headings],
        [_row(context, model, version) for model in found for version in model["versions"]],
    )
    if left_out:
        context.console.note("more_versions", count=f"{left_out:,}")
    return Exit.OK


def _row(context: Context, model: dict[str, Any], version: dict[str, Any]) -> tuple[Any, ...]:
    text = context.console.text
    remarks = [text("trusted_code")] if version["trusted"] else []
    remarks += {"removed": [text("removed")], "failed": [text("failed")]}.get(version["status"], [])
    return (
        model["model"],
        version["number"],
        ", ".join(version["aliases"]),
        tags_text({**model["tags"], **version["tags"]}),
        version["framework"] + (f" ({', '.join(remarks)})" if remarks else ""),
        version["metrics"].get("auc"),
        version["created_at"][:16].replace("T", " "),
    )


def run_show(context: Context) -> int:
    """One version in full, from its row and its artifact; as JSON beside all versions of its model."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.artifacts.store import Shelf
    from modelyard.control.registry.reading import card_of, catalogue, tags_of
    from modelyard.control.registry.services import find_version

    name, which = named(context.args.name)
    version = find_version(name, which)
    artifact = Shelf(context.home.shelf).open(version.digest)
    manifest, tags = artifact.manifest, tags_of(version)
    if context.wants_json:
        (model,), _ = catalogue(name)
        whole = {"version_tags": tags, "note": version.note, "card": card_of(artifact)}
        context.console.json({**model, **described(version), **whole, "manifest": msgspec.to_builtins(manifest)})
        return Exit.OK
    say, text = context.console.say, context.console.text
    say("version_title", model=name, version=version.number, framework=manifest.framework, digest=version.digest[:12])
    if version.note:
        context.console.line(f"  {version.note}")
    if tags:
        say("tags_line", tags=tags_text(tags))
    say("registered_line", at=minute(version.created_at), by=version.created_by, size=size_text(version.size_bytes))
    for measure in SHOWN:
        if measure in manifest.metrics:
            context.console.line(f"  {measure:<9} {metrics_text(manifest.metrics, measure)}")
    if manifest.parity:
        say("parity_line", rows=manifest.parity.rows, error=f"{manifest.parity.max_error:.2g}")
    if manifest.lineage.source and not manifest.lineage.rows:
        say("source_line", source=manifest.lineage.source)
    elif manifest.lineage.source:
        say("lineage_line", source=manifest.lineage.source, rows=f"{manifest.lineage.rows:,}")
    if manifest.lineage.data_digest:
        say("data_line", digest=manifest.lineage.data_digest[:12])
    if manifest.lineage.code_revision:
        say("code_line", revision=manifest.lineage.code_revision)
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
    name, number = register_packaged(manifest, files, by=context.by, note=f"from {args.file.name}")
    if context.wants_json:
        context.console.json(described(find_version(name, number)))
    else:
        context.console.say("registered", model=name, version=number)
        if manifest.task == "tensor" and args.file.suffix.lower() == ".onnx" and not args.sample:
            inputs = ", ".join(f"{one.name} {one.datatype} {[*one.shape]}" for one in manifest.signature.inputs)
            context.console.note("takes_tensors", inputs=inputs)
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
    if not args.sample and args.file.suffix.lower() != ".onnx":
        raise InvalidInput("--sample is missing: a table file with some rows that the model takes")
    runtime: Any = args.runtime or "onnx"
    return package_model(args.file, args.sample, args.name, args.target, trust=args.trust, runtime=runtime)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("a whole number above 0")
    return int(text)


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
