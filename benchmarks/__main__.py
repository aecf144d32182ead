"""`python -m benchmarks [VERB] …`: measure, and refuse to compare systems that answer wrongly."""

from __future__ import annotations

import argparse
import signal
import sys

from rich.console import Console

from benchmarks import bench, forests, growth, grpc, models, rollouts, shadows, soak
from benchmarks.check import WrongAnswer
from benchmarks.load import LoadFailed
from benchmarks.server import StartFailed

VERBS = {
    "forests": forests, "growth": growth, "grpc": grpc, "models": models, "rollouts": rollouts, "shadows": shadows,
    "soak": soak,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """0: measured and all answers right; 1: something was wrong or failed; 2: cannot run here."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments and arguments[0] in VERBS else ""
    module = VERBS.get(verb, bench)
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {verb}".rstrip(), description=module.__doc__)
    module.add_options(parser)
    given = parser.parse_args(arguments[1:] if verb else arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whoever is ended ends what it started
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        return int(module.run(console, given))
    except (WrongAnswer, StartFailed, LoadFailed) as error:
        console.print(f"no figures: {error}", style="bold red", highlight=False, markup=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
