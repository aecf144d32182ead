"""Triton's Python backend: one instance's waiting requests become one run of the graph, as its manual advises."""

import numpy as np
import triton_python_backend_utils as pb_utils
from graph import load


class TritonPythonModel:
    def initialize(self, args):
        self.graph = load(args["model_name"])

    def execute(self, requests):
        parts = {
            name: [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.graph.inputs
        }
        counts = [len(part) for part in next(iter(parts.values()))]
        feeds = {name: mine[0] if len(mine) == 1 else np.concatenate(mine) for name, mine in parts.items()}
        answer = self.graph.run(feeds)
        ends = np.cumsum(counts)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self.graph.output, answer[end - count : end])])
            for end, count in zip(ends, counts, strict=True)
        ]
