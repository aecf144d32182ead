"""A version that lives in a model worker, with the face of one that is loaded here: the gateway's end of the line.

Every wait has an end. A process that dies fails what it held, once and as NotReady; what comes next waits a moment for
its replacement. Nothing is asked twice: a batch that ended one process would end the next one too.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput, ModelFailed, ModelyardError, NotReady
from modelyard.contract.tensor import Inputs, Matrix, Tensors
from modelyard.runtimes.timed import TimedOutputs
from modelyard.serve.log import log
from modelyard.serve.messages import Answer, Ask, Broken, Failed, Ready, Refused, receive, send
from modelyard.serve.seats import reachable_path
from modelyard.serve.shared import ANSWER_BYTES, Inbox, Outbox

LOAD_S = 300.0  # how long a version may take to be loaded and measured
REPLACED_S = 5.0  # how long a batch waits for the replacement of a process that died
GRACE_S = 5.0  # beyond the longest batch: by then the parent has ended a process that hangs
_LOOK_S = 0.05
_PINGS = 5


class Unheard(Broken):
    """The process was gone before it heard the question: it may be asked again."""


class Line:
    """One connection to a model worker: one question at a time."""

    def __init__(self, path: Path, until: float) -> None:
        """Connect, and wait until the worker is ready. Raises NotReady with the reason where it is not in time."""
        self._socket = _connected(path, until)
        self._inbox, self._outbox = Inbox(ANSWER_BYTES), Outbox()
        try:
            message, descriptor = receive(self._socket, max(_LOOK_S, until - time.monotonic()))
            _close(descriptor)
            if isinstance(message, Refused):
                raise NotReady(message.reason)
            if not isinstance(message, Ready):
                raise Broken("not a greeting")
            self.ready = message
        except BaseException:
            self._socket.close()
            raise

    def ask(self, verb: Any, parts: Mapping[str, Sequence[NDArray[Any]]], timeout_s: float) -> tuple[Tensors, bool]:
        """What the worker answers, and whether a stream is over. Raises what the model raised, Broken, TimeoutError;
        Unheard if the process died before the question."""
        try:
            self._still_there()
            placed, descriptor = self._outbox.write(parts) if parts else ((), None)
            send(self._socket, Ask(verb, placed), descriptor)
        except Broken as error:
            raise Unheard(str(error)) from None
        message, descriptor = receive(self._socket, timeout_s)
        if isinstance(message, Answer) and message.tensors:
            outputs = self._read(message, descriptor)
            return TimedOutputs(outputs, list(message.took_ns)) if message.took_ns else outputs, message.is_last
        _close(descriptor)
        if isinstance(message, Answer):
            return {}, message.is_last
        if isinstance(message, Failed):
            raise _failure(message)
        raise Broken("not an answer")

    def _still_there(self) -> None:
        """Raises Broken if the process ended since its last answer."""
        self._socket.setblocking(False)
        try:
            said = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            raise Broken(error.strerror or "the line ended") from None
        raise Broken("an answer that nobody asked for" if said else "the line ended")

    def _read(self, message: Answer, descriptor: int | None) -> Tensors:
        try:
            tensors, is_kept = self._inbox.read(message.tensors, descriptor)
        except ValueError as error:
            raise Broken(str(error)) from None
        return {name: values.copy() for name, values in tensors.items()} if is_kept else tensors

    def close(self) -> None:
        """Leave; the worker goes on."""
        self._socket.close()


class RemoteVersion:
    """One version whose processes live beside the gateway; asked from any thread but the event loop's.

    socket_path: where its process listens; the parent makes it when this gateway worker says that it wants the version.
    timeout_s: `model_timeout_s`, after which the parent ends a process that still computes.
    """

    def __init__(self, artifact: Artifact, socket_path: Path, timeout_s: float = 30.0) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.encoder = Encoder(artifact.manifest.contract)
        self.decision = artifact.manifest.decision
        self.is_table = artifact.manifest.signature.layout != "tensors"
        self.lost = 0  # batches that a process held when it died
        self._path, self._timeout_s = socket_path, timeout_s
        self._line: Line | None = None
        self._turn = threading.Lock()
        self._closed = False

    def connect(self, timeout_s: float = LOAD_S) -> None:
        """Wait until the version is loaded. Raises NotReady with the worker's reason where it cannot be."""
        with self._turn:
            self._line = self._new_line(timeout_s)

    @property
    def streams(self) -> bool:
        """Whether the version can answer one row piece by piece."""
        return self._line is not None and self._line.ready.streams

    def predict(self, inputs: Inputs) -> Tensors:
        """Answer a batch, as `LoadedVersion.predict`. Raises NotReady too: its process died, or is not there again."""
        return self.predict_joined([inputs])

    def predict_joined(self, parts: Sequence[Inputs]) -> Tensors:
        """Answer several callers' rows as one batch: they are joined where they are copied, in shared memory."""
        outputs = self._ask("predict", _by_name(parts))
        if self.is_table or self.manifest.independent_rows:
            rows = sum(_rows(part) for part in parts)
            for name, values in outputs.items():
                if values.ndim == 0 or len(values) != rows:
                    raise ModelFailed(f"output {name!r} does not have {rows} rows for {rows} rows of input")
        return outputs

    def explain(self, matrix: Matrix) -> Matrix | None:
        """As `LoadedVersion.explain`."""
        if not self.is_table:
            return None
        return self._ask("explain", {"rows": [matrix]}).get("contributions")

    def stream(self, inputs: Tensors, timeout_s: float | None = None) -> Iterator[Tensors]:
        """One row's answer piece by piece, each computed when it is asked for; close the iterator to end it early.

        timeout_s: for all pieces together; each alone may take `model_timeout_s`. Raises as `predict`, and NotReady
        when the time is over. A stream has a connection of its own: batches pass it by.
        """
        if not self.streams:
            raise InvalidInput(f"{self.manifest.model} does not answer piece by piece")
        until = time.monotonic() + timeout_s if timeout_s is not None else None
        line = self._replacement()
        try:
            verb = "stream"
            parts: dict[str, list[NDArray[Any]]] = {name: [values] for name, values in inputs.items()}
            while True:
                left = self._timeout_s + GRACE_S if until is None else until - time.monotonic()
                if left <= 0:
                    raise NotReady(f"the stream of {self.manifest.model} did not end in time")
                try:
                    piece, is_last = line.ask(verb, parts, min(left, self._timeout_s + GRACE_S))
                except (Broken, TimeoutError):
                    if self._turn.acquire(blocking=False):  # no batch is there: the next one takes a new line at once
                        self._hang_up()
                        self._turn.release()
                    raise self._died() from None
                if is_last:
                    return
                yield piece
                verb, parts = "more", {}
        finally:
            line.close()  # the worker ends the stream when its line ends

    def warm(self) -> dict[int, float]:
        """Seconds for each batch size: as the worker measured them, and the way there and back."""
        line = self._line_now()
        hops = []
        for _ in range(_PINGS):
            start = time.perf_counter()
            self._ask("ping", {})
            hops.append(time.perf_counter() - start)
        return {size: seconds + min(hops) for size, seconds in line.ready.curve.items()}

    def explain_cost(self) -> float:
        """Seconds that explaining one row takes, as the worker measured it."""
        return self._line_now().ready.explain_s

    def close(self) -> None:
        """Leave the process; the parent ends it when no gateway worker wants it."""
        with self._turn:
            self._closed = True
            self._hang_up()

    def _ask(self, verb: str, parts: Mapping[str, Sequence[NDArray[Any]]]) -> Tensors:
        with self._turn:
            if self._closed:
                raise NotReady(f"{self.manifest.model} is being unloaded")
            if self._line is None:
                self._line = self._replacement()
            try:
                return self._asked(self._line, verb, parts)
            except (Broken, TimeoutError) as error:
                self._hang_up()
                raise self._died(error) from None
            except TypeError as error:
                raise InvalidInput(str(error)) from None

    def _asked(self, line: Line, verb: str, parts: Mapping[str, Sequence[NDArray[Any]]]) -> Tensors:
        timeout_s = self._timeout_s + GRACE_S
        try:
            return line.ask(verb, parts, timeout_s)[0]
        except Unheard:  # it ended while it was idle: this batch was not in it
            self._hang_up()
            self._line = self._replacement()
            return self._line.ask(verb, parts, timeout_s)[0]

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _line_now(self) -> Line:
        with self._turn:
            if self._line is None:
                self._line = self._replacement()
            return self._line

    def _replacement(self) -> Line:
        """A line to the process that is there now, or soon. Raises NotReady; why there is none is for the operator."""
        try:
            return self._new_line(REPLACED_S)
        except NotReady as refusal:
            log.error("model worker not there", model=self.manifest.model, reason=str(refusal))
            raise NotReady(f"no process holds {self.manifest.model} now; it is being started again") from None

    def _new_line(self, timeout_s: float) -> Line:
        until = time.monotonic() + timeout_s
        while True:
            try:
                return Line(self._path, until)
            except (Broken, TimeoutError):  # it died while it loaded: the parent says why, or starts another
                if time.monotonic() >= until:
                    raise NotReady(
                        f"the process of {self.manifest.model} is not there within {timeout_s:g} s; try again shortly"
                    ) from None
                time.sleep(_LOOK_S)

    def _died(self, error: Exception | None = None) -> NotReady:
        self.lost += 1
        log.error("model worker lost", model=self.manifest.model, reason=str(error) or type(error).__name__)
        return NotReady(f"the process of {self.manifest.model} ended while it held this call; it is being replaced")


def _by_name(parts: Sequence[Inputs]) -> dict[str, list[NDArray[Any]]]:
    first = parts[0]
    if isinstance(first, dict):
        return {name: [part[name] for part in parts] for name in first}  # type: ignore[call-overload]
    return {"rows": list(parts)}  # type: ignore[arg-type]


def _rows(part: Inputs) -> int:
    return len(next(iter(part.values()))) if isinstance(part, dict) else len(part)


def _failure(failed: Failed) -> ModelyardError:
    if failed.trace:
        log.error("model failed", reason=failed.message, trace=failed.trace)
    if failed.code == InvalidInput.code:
        return InvalidInput(failed.message)
    return ModelFailed(failed.message)


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _connected(path: Path, until: float) -> socket.socket:
    """A connection, once the parent listens there. Raises NotReady, Broken."""
    while True:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(_LOOK_S)
        try:
            with reachable_path(path) as short:
                line.connect(short)
            return line
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError, TimeoutError):
            line.close()
            if time.monotonic() >= until:
                raise Broken("nobody listens") from None
            time.sleep(_LOOK_S)
        except OSError as error:
            line.close()
            raise NotReady(f"cannot reach the model's process: {error.strerror or error}") from None
