"""One model worker: a version in a process of its own, answering the gateway workers of this host.

Started by the gateway's parent as `python -m modelyard.serve.worker DIGEST LISTENER PARENT PULSE`, never by hand. One
thread does everything, so a model's code is never called twice at once and always from the same thread; a second
thread only says that the process lives, and ends it when the parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import resource
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelFailed, ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings
from modelyard.contract.tensor import Tensors
from modelyard.runtimes.conformance import random_tensors
from modelyard.runtimes.image_decode import allow_pixels
from modelyard.runtimes.sessions import share_in
from modelyard.runtimes.timed import TimedOutputs
from modelyard.runtimes.version import LoadedVersion
from modelyard.serve.messages import PIECE_S, Answer, Ask, Broken, Failed, Message, Ready, receive, send
from modelyard.serve.pulse import Pulse
from modelyard.serve.shared import ANSWER_BYTES, Inbox, Outbox

BEAT_S = 0.2
MAX_STREAMS = 32  # streams that one process holds open
_OOM_SCORE = "500"  # where memory runs out, the kernel ends a model worker before a gateway
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class Caller:
    """One gateway worker's connection."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.inbox, self.outbox = Inbox(), Outbox(ANSWER_BYTES)
        self.stream: Iterator[Tensors] | None = None


class Held(LoadedVersion):
    """A loaded version that is measured with what the conformance kit measured it with: other rows it may refuse."""

    def varied_tensors(self, count: int) -> Tensors:
        """The class's own example, repeated to `count` rows; made up where it gives none."""
        example: Tensors | None = getattr(self.runtime, "example", None)
        if not self.manifest.independent_rows:
            return random_tensors(self.manifest.signature.inputs) if example is None else example
        if example is None:
            return random_tensors(self.manifest.signature.inputs, count)
        return {name: np.resize(values, (count, *values.shape[1:])) for name, values in example.items()}


class ModelWorker:
    """One loaded version and who asks it."""

    def __init__(self, loaded: LoadedVersion, listener: socket.socket, pulse: Pulse) -> None:
        self._loaded, self._listener, self._pulse = loaded, listener, pulse
        self._selector = selectors.DefaultSelector()
        self._streams = 0
        self._stopping = False
        curve = loaded.warm()
        explain_s = loaded.explain_cost() if loaded.is_table else 0.0
        self.ready = Ready(os.getpid(), curve, explain_s, bool(getattr(loaded.runtime, "streams", False)))

    def run(self) -> None:
        """Answer until SIGTERM; then finish what was begun and free the model."""
        waker, wake = socket.socketpair()
        for end in (waker, wake, self._listener):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGTERM, self._stop)
        self._selector.register(waker, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while not self._stopping:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._serve(key.data)
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    waker.recv(4096)
        self._loaded.close()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _accept(self) -> None:
        try:
            line, _ = self._listener.accept()
        except OSError:  # another process, or nobody any more
            return
        caller = Caller(line)
        try:
            send(line, self.ready)
        except Broken:
            line.close()
        else:
            self._selector.register(line, selectors.EVENT_READ, caller)

    def _serve(self, caller: Caller) -> None:
        """One question and its answer."""
        try:
            message, descriptor = receive(caller.line, PIECE_S)
            if not isinstance(message, Ask):
                raise Broken("not a question")
            inputs = _inputs(caller, message, descriptor)
            answer, new = self._answer(caller, message.verb, inputs)
            send(caller.line, answer, new)
        except (Broken, TimeoutError, ValueError):
            self._leave(caller)

    def _answer(self, caller: Caller, verb: str, inputs: Tensors) -> tuple[Message, int | None]:
        if verb == "ping":
            return Answer(), None
        self._pulse.begin()
        try:
            outputs = self._compute(caller, verb, inputs)
            if outputs is None:
                return Answer(is_last=verb in ("stream", "more", "stop")), None
            placed, descriptor = caller.outbox.write({name: [np.asarray(v)] for name, v in outputs.items()})
            took_ns = tuple(outputs.took_ns) if isinstance(outputs, TimedOutputs) else ()
            return Answer(placed, took_ns=took_ns), descriptor
        except Exception as error:  # whatever a model raises is its caller's answer, and the process lives on
            self._end_stream(caller)
            return _failure(error), None
        finally:
            self._pulse.end()

    def _compute(self, caller: Caller, verb: str, inputs: Tensors) -> Tensors | None:
        match verb:
            case "predict":
                return self._loaded.predict(inputs["rows"] if self._loaded.is_table else inputs)
            case "explain":
                explained = self._loaded.explain(inputs["rows"]) if self._loaded.is_table else None
                return None if explained is None else {"contributions": explained}
            case "stream":
                self._end_stream(caller)
                if self._streams >= MAX_STREAMS:
                    raise ModelFailed(f"MAX_STREAMS={MAX_STREAMS} streams are open in this process; try again later")
                # The pieces are computed later, when this segment may hold another question.
                kept = {name: values.copy() for name, values in inputs.items()}
                caller.stream = self._loaded.runtime.stream(kept)  # type: ignore[attr-defined]  # only if it streams
                self._streams += 1
                return self._next_piece(caller)
            case "more":
                return self._next_piece(caller)
        self._end_stream(caller)
        return None

    def _next_piece(self, caller: Caller) -> Tensors | None:
        piece = None if caller.stream is None else next(caller.stream, None)
        if piece is None:
            self._end_stream(caller)
        return piece

    def _end_stream(self, caller: Caller) -> None:
        stream, caller.stream = caller.stream, None
        if stream is not None:
            self._streams -= 1
            if hasattr(stream, "close"):
                stream.close()

    def _leave(self, caller: Caller) -> None:
        self._selector.unregister(caller.line)
        caller.line.close()
        try:
            self._end_stream(caller)
        except Exception:  # the model's own clean-up failed, and nobody listens
            traceback.print_exc()


def _inputs(caller: Caller, message: Ask, descriptor: int | None) -> Tensors:
    if message.tensors:
        return caller.inbox.read(message.tensors, descriptor)[0]
    if descriptor is not None:
        os.close(descriptor)
    return {}


def _failure(error: Exception) -> Failed:
    """What the caller may know: our own errors as they are; of others only their kind and where they were raised."""
    cause = error.__cause__ if isinstance(error, ModelFailed) else None  # of a step of a version made of several
    if isinstance(error, ModelyardError):
        return Failed(error.code, str(error)[:2000], () if cause is None else _frames(cause))
    trace = _frames(error)
    kind = type(error).__name__
    return Failed("model_failed", f"the model failed on this input with {kind}; the gateway's log says where", trace)


def _frames(error: BaseException) -> tuple[str, ...]:
    """Where an exception was raised, files and lines; no values."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/modelyard/serve/" not in frame.filename]
    return tuple(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-20:])


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * mmap.PAGESIZE
    except OSError:  # not Linux: only the highest mark is known
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _watch(parent: socket.socket, pulse: Pulse) -> None:
    """Beat; and end the process at once when the parent's line ends, whatever the model is doing."""
    parent.settimeout(BEAT_S)
    while True:
        pulse.beat(_resident_bytes())
        try:
            if not parent.recv(1):
                os._exit(3)
        except TimeoutError:
            continue
        except OSError:
            os._exit(3)


def _set_apart() -> None:
    """Nothing of this process stays behind, and it never outlives its parent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold callers' values
    faulthandler.enable()  # a crash says where it happened, in the post-mortem
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def main(arguments: list[str]) -> int:
    """Load, say so, answer. The first line from the parent holds the settings and the number of threads."""
    digest, *numbers = arguments
    listener, parent, beats = map(int, numbers)
    _set_apart()
    line = socket.socket(fileno=parent)
    with line.makefile("rb") as first:
        settings, threads = msgspec.json.decode(first.readline(), type=tuple[Settings, int])
    allow_pixels(settings.max_pixels)
    share_in(Home(settings.root).graphs)
    pulse = Pulse(beats)
    os.close(beats)
    threading.Thread(target=_watch, args=(line, pulse), daemon=True).start()
    try:
        loaded = Held(Shelf(Home(settings.root).shelf).open(digest), threads)
        worker = ModelWorker(loaded, socket.socket(fileno=listener), pulse)
    except Exception as error:  # a model's own `setup` may raise anything: the parent passes its words on
        traceback.print_exc()
        _tell(line, {"failed": _reason(error)})
        return 1
    _tell(line, {"ready": True})
    worker.run()
    return 0


def _reason(error: Exception) -> str:
    words = str(error).strip().splitlines()
    said = f": {words[0]}" if words else ""
    return (str(error) if isinstance(error, InvalidInput | ModelFailed) else f"{type(error).__name__}{said}")[:500]


def _tell(line: socket.socket, what: dict[str, Any]) -> None:
    line.sendall(msgspec.json.encode(what) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
