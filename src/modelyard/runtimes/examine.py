"""A user's own class, examined by the conformance kit in a process of its own: a crash is a finding, not an end.

`python -m modelyard.runtimes.examine ENTRY FOLDER LINE` is that process; it writes what it finds to LINE, a file
descriptor, one JSON object in each line.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Code
from modelyard.contract.errors import InvalidInput, ModelyardError
from modelyard.contract.signature import Signature
from modelyard.contract.tensor import Tensors
from modelyard.runtimes import conformance
from modelyard.runtimes.conformance import Promise

EXAMINE_S = 300.0  # loading and everything that is asked, together
KEPT_BYTES = 20_000  # of what the class printed
FOUND_BYTES = 1 << 20
LIVES = "its process lives through all of it"
LOADS = "it is found and set up"
STREAMS = "a stream gives pieces of the declared outputs, and ends"
_MOST_PIECES = 1_000


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of what the process finds: what the class is, a promise, or that it has seen everything."""

    code: Code | None = None
    signature: Signature | None = None
    joins: bool = True  # what the class says of its rows
    streams: bool = False
    promise: Promise | None = None
    is_done: bool = False


class Examination(msgspec.Struct, frozen=True):
    """What was found of a class. code, signature: None where it could not even be loaded."""

    code: Code | None
    signature: Signature | None
    joins: bool
    streams: bool
    promises: tuple[Promise, ...]
    printed: str  # the end of what it printed

    @property
    def broken(self) -> tuple[Promise, ...]:
        """The promises that were not kept."""
        return tuple(promise for promise in self.promises if not promise.is_kept)

    @property
    def independent_rows(self) -> bool:
        """Whether calls may be joined. Raises ModelFailed where another promise was broken, InvalidInput with the
        reason where the class could not be loaded."""
        if self.signature is None or self.code is None:
            raise InvalidInput(self.broken[0].seen)
        return self.joins and conformance.rows_are_independent(list(self.promises))


def examine(entry: str, files: Path | None = None, timeout_s: float = EXAMINE_S) -> Examination:
    """Load the class in a process of its own and measure every promise of the kit. files: for its `setup`."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard.runtimes.examine", entry, str(files or ""), str(writer)],
            pass_fds=(writer,), stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True,
            env=_environment(),
        )  # fmt: skip
        os.close(writer)
        try:
            found, is_late = _read(reader, timeout_s)
        finally:
            os.close(reader)
            status = _ended(process)
        printed.seek(max(0, os.fstat(printed.fileno()).st_size - KEPT_BYTES))
        said = printed.read().decode("utf-8", "replace")
    end = f"was ended after {timeout_s:g} s" if is_late else _how_it_ended(status)
    return _examination(found, end, said)


def _examination(found: list[Found], end: str, printed: str) -> Examination:
    head = next((one for one in found if one.signature is not None), Found())
    promises = [one.promise for one in found if one.promise is not None]
    if not any(one.is_done for one in found):
        promises.append(Promise(LIVES, False, f"the process {end}"))
    elif all(promise.is_kept for promise in promises) or head.signature is not None:
        promises.append(Promise(LIVES, True, "it does"))
    return Examination(head.code, head.signature, head.joins, head.streams, tuple(promises), printed)


def _read(reader: int, timeout_s: float) -> tuple[list[Found], bool]:
    """All lines until the process closes its end, and whether the time was over before."""
    data, until = b"", time.monotonic() + timeout_s
    os.set_blocking(reader, False)
    is_late = False
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while len(data) < FOUND_BYTES:
            if not selector.select(max(0.0, until - time.monotonic())):
                is_late = True
                break
            if not (piece := os.read(reader, 65536)):
                break
            data += piece
            if b'"is_done":true' in piece:
                break
    found = []
    for line in data.splitlines():
        with contextlib.suppress(msgspec.MsgspecError):  # cut short, or written by the class itself
            found.append(msgspec.json.decode(line, type=Found))
    return found, is_late


def _environment() -> dict[str, str]:
    """Ours without our own settings, which may hold secrets, as model workers have it."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
    return own | {"PYTHONUNBUFFERED": "1"}


def _ended(process: subprocess.Popen[bytes]) -> int:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"


# --- in the process ---------------------------------------------------------------------------------------------


def _findings(entry: str, files: Path | None) -> Iterator[Found]:
    from modelyard.runtimes.python import PythonRuntime, code_of

    try:
        runtime = PythonRuntime.of(entry, files)
    except Exception as error:  # whatever the class's module or its `setup` raises is what was found
        if not isinstance(error, ModelyardError):
            traceback.print_exc()
        yield Found(promise=Promise(LOADS, False, _words(error)))
        return
    yield Found(code_of(entry), runtime.signature, runtime.independent_rows, runtime.streams)
    yield Found(promise=Promise(LOADS, True, f"{entry} is ready"))
    name = "it answers"
    try:
        inputs = _inputs(runtime.example, runtime.signature)
        for promise in conformance.each(runtime, inputs, runtime.independent_rows):
            yield Found(promise=promise)
        if runtime.streams:
            name = STREAMS
            yield Found(promise=_streams(runtime, inputs))
        name = "it is closed"
        runtime.close()
    except Exception as error:
        traceback.print_exc()
        hint = "" if runtime.example is not None else "; if made-up inputs do not suit it, give it an `example`"
        yield Found(promise=Promise(name, False, f"{_words(error)}{hint}"))


def _inputs(example: Tensors | None, signature: Signature) -> Tensors:
    """The class's own example, or made-up tensors. Raises InvalidInput where the example does not fit."""
    if example is None:
        return conformance.random_tensors(signature.inputs)
    names = {spec.name for spec in signature.inputs}
    if set(example) != names:
        raise InvalidInput(f"`example` holds {', '.join(sorted(example))}, and `inputs` {', '.join(sorted(names))}")
    if min((len(values) if values.ndim else 0) for values in example.values()) < 2:
        raise InvalidInput("`example` has two rows or more")
    return example


def _streams(runtime: object, inputs: Tensors) -> Promise:
    one = {name: np.ascontiguousarray(values[:1]) for name, values in inputs.items()}
    pieces = 0
    for _ in runtime.stream(one):  # type: ignore[attr-defined]  # asked only if it streams
        pieces += 1
        if pieces >= _MOST_PIECES:
            return Promise(STREAMS, False, f"it did not end within {_MOST_PIECES} pieces")
    return Promise(STREAMS, pieces > 0, f"{pieces} pieces")


def _words(error: Exception) -> str:
    if isinstance(error, ModelyardError):
        return str(error)
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + said[0] if said else ''}"[:500]


def main(arguments: list[str]) -> int:
    """Examine one class and say what was found."""
    entry, folder, line = arguments
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.set_inheritable(int(line), False)
    with open(int(line), "wb", buffering=0) as told:
        for found in _findings(entry, Path(folder) if folder else None):
            told.write(msgspec.json.encode(found) + b"\n")
        told.write(msgspec.json.encode(Found(is_done=True)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
