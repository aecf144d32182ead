"""The ONNX graphs that every rival serves, loaded in one and the same way: as many threads as keep two cores busy."""

import json
import os

import numpy as np
import onnxruntime as ort

NUMPY = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}


class Graph:
    """One graph of which one output is asked for."""

    def __init__(self, path: str, output: str, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.output = output
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: NUMPY[tensor.type] for tensor in self.session.get_inputs()}

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """The output for a batch."""
        return self.session.run([self.output], feeds)[0]


def named() -> dict[str, tuple[str, str, int]]:
    """Name -> path, output and threads of every graph that this benchmark serves."""
    return json.loads(os.environ["BENCH_GRAPHS"])


def load(name: str) -> Graph:
    """One of them, loaded."""
    return Graph(*named()[name])
