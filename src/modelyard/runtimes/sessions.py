"""ONNX Runtime sessions: one for each graph and number of threads in a process, however many versions use it.

A version and an ensemble that it is a member of share one copy of its weights. A session goes when its last user does.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from modelyard.artifacts.store import Artifact
from modelyard.runtimes.prepared import LARGE_BYTES, PreparedGraphs

if TYPE_CHECKING:
    import onnxruntime as ort

GRAPH = "model.onnx"

_open: WeakValueDictionary[tuple[str, int], ort.InferenceSession] = WeakValueDictionary()
_lock = threading.Lock()
_shared: PreparedGraphs | None = None


def share_in(folder: Path) -> None:
    """From now on this process has the weights of large graphs together with others that name the same folder."""
    global _shared
    _shared = PreparedGraphs(folder)


def open_session(artifact: Artifact, threads: int) -> ort.InferenceSession:
    """The session of the artifact's graph; several threads may run it at once."""
    path, entry = artifact.path(GRAPH), artifact.manifest.files[GRAPH]
    key = (entry.sha256, threads)
    with _lock:
        session = _open.get(key)
        if session is None:
            session = _open[key] = _session(path, entry.sha256, entry.size, threads)
        return session


def _session(path: Path, digest: str, size: int, threads: int) -> ort.InferenceSession:
    if _shared is not None and size >= LARGE_BYTES:
        with contextlib.suppress(
            Exception
        ):  # a full disk, a graph that cannot be written: then it is opened for itself
            return _shared.open(path, digest, partial(_options, threads))
    import onnxruntime as ort  # not before a graph is opened: a model worker of another framework needs none

    return ort.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])


def _options(threads: int) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning burns the neighbour's core
    options.log_severity_level = 4  # its error lines may hold a caller's values
    return options
