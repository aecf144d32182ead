"""LitServe: one API for each graph, two workers each, its fast queue, two HTTP processes.

Batching is off: its workers then wait by polling, which burnt a whole core of two and answered half as many requests.
"""

import sys

import litserve as ls
import numpy as np
from graph import load, named


class OnnxApi(ls.LitAPI):
    def __init__(self, name: str) -> None:
        super().__init__(api_path=f"/{name}")
        self.name = name

    def setup(self, device: str) -> None:
        self.graph = load(self.name)

    def decode_request(self, request: dict) -> dict:
        return {name: np.array(request[name], dtype) for name, dtype in self.graph.inputs.items()}

    def predict(self, feeds: dict) -> np.ndarray:
        return self.graph.run(feeds)

    def encode_response(self, output: np.ndarray) -> dict:
        return {self.graph.output: output.tolist()}


if __name__ == "__main__":
    apis = [OnnxApi(name) for name in named()]
    server = ls.LitServer(apis, accelerator="cpu", devices=1, workers_per_device=2, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=2, generate_client_file=False, log_level="error"
    )
