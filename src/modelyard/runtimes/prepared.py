"""Large graphs, optimised once for all processes of a gateway: their weights lie in a file that all of them map.

A session that is opened the usual way holds its weights for itself, some of them twice: an encoder of 23 MB takes 120
to 150 MB in each worker. Prepared, it takes half of that: what kernels read as it is, embeddings above all, stays in
the file, whose pages are the kernel's, once for everybody; what they pack their own way they copy. What is prepared
holds for this machine and this version of ONNX Runtime, so it is no part of an artifact: the gateway's parent removes
it at every start, and the last process that retires it does.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort
if sys.platform != "win32":  # where no gateway runs
    import fcntl

LARGE_BYTES = 8_000_000  # of a graph's file; smaller ones are not worth a file
_MIN_WEIGHT_BYTES = "1024"  # smaller tensors stay in the graph itself


class PreparedGraphs:
    """The prepared graphs in one folder, which belongs to one gateway."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, graph: Path, digest: str, options: Callable[[], ort.SessionOptions]) -> ort.InferenceSession:
        """A session over the graph, prepared by the first process that asks. Raises what ONNX Runtime and files raise.

        digest: of the graph's bytes. options: made anew for each session.
        """
        import onnxruntime as ort

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ready = self._folder / f"{digest}.onnx"
        with self._held(digest, fcntl.LOCK_EX):
            if not ready.exists():
                _prepare(graph, ready, options())
            chosen = options()
            chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # that was done
            session = ort.InferenceSession(str(ready), chosen, providers=["CPUExecutionProvider"])
            users = self._lock(f"{digest}.users", fcntl.LOCK_SH)
        weakref.finalize(session, self._leave, digest, users).atexit = False
        return session

    def _leave(self, digest: str, users: int) -> None:
        """The last user of a graph removes it. It never waits: what stays behind goes at the gateway's next start."""
        try:
            with self._held(digest, fcntl.LOCK_EX | fcntl.LOCK_NB):  # nobody opens it just now
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else has it
                for suffix in ("onnx", "weights", "users"):
                    (self._folder / f"{digest}.{suffix}").unlink(missing_ok=True)
        except OSError:
            pass
        finally:
            os.close(users)

    @contextmanager
    def _held(self, digest: str, how: int) -> Iterator[None]:
        descriptor = self._lock(f"{digest}.lock", how)
        try:
            yield
        finally:
            os.close(descriptor)  # closing lets go, and so does the end of a process

    def _lock(self, name: str, how: int) -> int:
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _prepare(graph: Path, ready: Path, options: ort.SessionOptions) -> None:
    import onnxruntime as ort

    staging = ready.with_suffix(".new")
    options.optimized_model_filepath = str(staging)
    # Not with the weights as their kernels want them ("prepacked"): convolutions that find them so crash the process.
    for name, value in (("file_name", f"{ready.stem}.weights"), ("min_size_in_bytes", _MIN_WEIGHT_BYTES)):
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{name}", value)
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    staging.rename(ready)  # last: a graph that is there is whole, and so are its weights
