"""ONNX Runtime sessions: one for each graph and number of threads in a process, however many versions use it.

A version and an ensemble that it is a member of share one copy of its weights. A session goes when its last user does.
"""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

import onnxruntime as ort

from modelyard.artifacts.store import Artifact

GRAPH = "model.onnx"

_open: WeakValueDictionary[tuple[str, int], ort.InferenceSession] = WeakValueDictionary()
_lock = threading.Lock()


def open_session(artifact: Artifact, threads: int) -> ort.InferenceSession:
    """The session of the artifact's graph; several threads may run it at once."""
    path = artifact.path(GRAPH)
    key = (artifact.manifest.files[GRAPH].sha256, threads)
    with _lock:
        session = _open.get(key)
        if session is None:
            session = ort.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])
            _open[key] = session
        return session


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning burns the neighbour's core
    options.log_severity_level = 4  # its error lines may hold a caller's values
    return options
