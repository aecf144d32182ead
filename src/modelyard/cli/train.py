"""Verbs of training: `train` makes a version of a table, `contract` shows what would be asked of callers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.names import check_name

SHOWN = ("auc", "ks", "gini", "log_loss", "brier")


def add(verbs: Any) -> None:
    """The words of these verbs."""
    train = verbs.add_parser("train", help="make a registered version of a table")
    _add_table(train)
    train.add_argument("--name", required=True, metavar="NAME", help="of the model")
    train.add_argument(
        "--contract", type=Path, metavar="FILE", help="an edited contract, as `modelyard contract` prints it"
    )
    train.add_argument("--candidates", metavar="LIST", help="with commas: lightgbm, logistic, scorecard (all)")
    train.add_argument("--seed", type=int, metavar="N", help="of every random choice (0)")
    train.add_argument("--json", action="store_true", help="one JSON document on stdout; progress stays on stderr")
    train.set_defaults(run=run_train)
    contract = verbs.add_parser("contract", help="print the contract of a table as editable TOML")
    _add_table(contract)
    contract.set_defaults(run=run_contract)


def _add_table(verb: Any) -> None:
    verb.add_argument("table", type=Path, metavar="TABLE", help=".csv, .parquet or .jsonl")
    verb.add_argument("--target", required=True, metavar="COLUMN", help="what is to be predicted")
    verb.add_argument("--positive", metavar="VALUE", help="the class whose probability is given (the rarer one)")
    verb.add_argument(
        "--declare",
        metavar="COLUMNS",
        help="with commas: columns to keep though they look sensitive, leaking or like ids",
    )


def run_train(context: Context) -> int:
    """Train, prove, package, register."""
    from modelyard.control.setup import start

    start(context.settings)
    from modelyard.cli.progress import ShownProgress
    from modelyard.control.training.work import run_training
    from modelyard.data.contract_file import read_contract

    args = context.args
    check_name("model", args.name)
    given = {"contract": read_contract(args.contract)} if args.contract else {}
    with ShownProgress(context.console) as progress:
        version, _ = run_training(
            args.table,
            name=args.name,
            target=args.target,
            positive=args.positive,
            recipe=recipe_of(args),
            progress=progress,
            by=context.by,
            **given,
        )
    answer = described(version)
    if context.wants_json:
        context.console.json(answer)
        return Exit.OK
    context.console.say("trained", model=answer["model"], version=answer["version"], framework=answer["framework"])
    context.console.table(
        [context.console.text("measure"), context.console.text("held_out")],
        [(name, metrics_text(answer["metrics"], name)) for name in SHOWN if name in answer["metrics"]],
    )
    context.console.note("next_deploy", model=answer["model"])
    return Exit.OK


def run_contract(context: Context) -> int:
    """TOML on stdout; edit it and give it to `train --contract`."""
    from modelyard.data.contract_file import to_toml
    from modelyard.data.contracts import infer_contract
    from modelyard.data.sources import read_table

    args = context.args
    contract = infer_contract(read_table(args.table), args.target, args.positive, _listed(args.declare))
    context.console.line(to_toml(contract).rstrip())
    return Exit.OK


def recipe_of(args: Any) -> Any:
    """The recipe that the flags ask for. Raises InvalidInput that names what is wrong."""
    from modelyard.contract.errors import InvalidInput
    from modelyard.train.recipe import Recipe

    asked: dict[str, Any] = {}
    if args.candidates:
        asked["candidates"] = _listed(args.candidates)
    if args.declare:
        asked["declared"] = _listed(args.declare)
    if args.seed is not None:
        asked["seed"] = args.seed
    try:
        return msgspec.convert(asked, Recipe)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"--candidates, --declare or --seed: {error}") from None


def described(version: Any) -> dict[str, Any]:
    """A registered version as `--json` shows it."""
    return {
        "model": version.model.name,
        "version": version.number,
        "framework": version.framework,
        "digest": version.digest,
        "metrics": version.metrics,
        "parity": version.parity,
        "lineage": version.lineage,
    }


def metrics_text(metrics: dict[str, float], name: str) -> str:
    """A measure, with its interval where one was computed."""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = f"  [{low:.4f}, {high:.4f}]" if low is not None and high is not None else ""
    return f"{metrics[name]:.4f}{interval}"


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
