"""BentoML: one service with an API for each graph, adaptive batching on for the tables, two workers for two cores."""

from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType
from graph import load

Rows = Annotated[np.ndarray, DType("float32")]
Tokens = Annotated[np.ndarray, DType("int64")]


@bentoml.service(workers=2, logging={"access": {"enabled": False}}, metrics={"enabled": True})
class Service:
    def __init__(self) -> None:
        self.graphs = {name: load(name) for name in ("noop", "credit1", "minilm")}

    @bentoml.api(route="/noop", batchable=True, max_batch_size=256)
    def noop(self, rows: Rows) -> Rows:
        return self.graphs["noop"].run({"rows": rows})

    @bentoml.api(route="/credit1", batchable=True, max_batch_size=256)
    def credit1(self, rows: Rows) -> Rows:
        return self.graphs["credit1"].run({"rows": rows})

    @bentoml.api(route="/minilm")
    def minilm(self, input_ids: Tokens, attention_mask: Tokens, token_type_ids: Tokens) -> Rows:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.graphs["minilm"].run(feeds)
