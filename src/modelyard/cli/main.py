"""The `modelyard` command: reads the command line, wakes one verb, and turns its end into an exit status."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from modelyard import __version__
from modelyard.cli import (
    archive,
    batch,
    compose,
    demo,
    deployments,
    doctor,
    history,
    home,
    jobs,
    keys,
    look,
    models,
    predict,
    quality,
    registry,
    rollouts,
    runtime,
    train,
    up,
)
from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import ModelyardError

# In the order of the help.
GROUPS = (
    demo,
    home,
    quality,
    train,
    models,
    registry,
    history,
    runtime,
    compose,
    deployments,
    rollouts,
    archive,
    predict,
    batch,
    jobs,
    up,
    look,
    keys,
    doctor,
)

EPILOG = """\
exit status:
  0  done
  1  failed: the error line says why and what to do next
  2  the command line is wrong
  3  some rows were refused, the others were done (predict)
  4  nothing answers there: the gateway or control is not running

environment:
  MODELYARD_HOME   where everything is kept (default ./.modelyard); every other setting likewise, see `config show`
  MODELYARD_KEY    the API key that `predict` sends; better than --key, which other users of the machine can see
  NO_COLOR         no colours
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line()
    args = parser.parse_args(words)
    if not hasattr(args, "run"):
        parser.print_help()
        return Exit.USAGE
    context = Context(args)
    try:
        return int(args.run(context))
    except ModelyardError as error:
        context.console.error(error)
        return Exit.UNREACHABLE if error.code == "unreachable" else Exit.FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except ModuleNotFoundError as error:
        return _without_extra(context, error)
    except OSError as error:
        return _failed_file(context, error)
    except Exception as error:
        return _failed_database(context, error)


def command_line() -> argparse.ArgumentParser:
    """The whole grammar of the command."""
    parser = argparse.ArgumentParser(
        prog="modelyard",
        description="From a table or a trained model to a governed, watched, fast API.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"modelyard {__version__}")
    parser.add_argument("--home", metavar="DIR", help="where everything is kept (default ./.modelyard)")
    parser.add_argument("--lang", choices=("en", "zh"), help="language of what is printed")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    for group in GROUPS:
        group.add(verbs)
    for verb in _leaves(parser):
        verb.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        verb.add_argument("--lang", choices=("en", "zh"), default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the verbs that do something."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        return [parser]
    return [leaf for group in groups for choice in group.choices.values() for leaf in _leaves(choice)]


def _without_extra(context: Context, error: ModuleNotFoundError) -> int:
    if (error.name or "").startswith("modelyard"):
        return _unexpected(context)
    context.console.error(ModelyardError(context.console.text("needs_extra", name=error.name)))
    return Exit.FAILED


def _failed_file(context: Context, error: OSError) -> int:
    if not error.filename:
        return _unexpected(context)
    context.console.error(ModelyardError(f"{error.filename}: {error.strerror}"))
    return Exit.FAILED


def _failed_database(context: Context, error: Exception) -> int:
    """The database was lost on the way, or others were quicker; whatever else it is, it is a fault of ours."""
    if "django.db" in sys.modules:
        from modelyard.control.database import error_of

        if (known := error_of(error)) is not None:
            context.console.error(known)
            return Exit.FAILED
    return _unexpected(context)


def _unexpected(context: Context) -> int:
    """A fault of ours: a short word to the person, the traceback to a file that only they can read."""
    report = traceback.format_exc()
    try:
        path: Path | None = context.home.prepare().logs / "command.log"
        descriptor = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} modelyard {__version__}\n{report}\n")
    except (ModelyardError, OSError):
        path = None
        sys.stderr.write(report)
    context.console.error(ModelyardError(context.console.text("unexpected", path=path or "stderr")))
    return Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
