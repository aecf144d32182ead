"""The credit1 service as it is usually written: FastAPI, typed bodies, a plain function, one session."""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

session = ort.InferenceSession(os.environ["BENCH_MODEL"])
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferRequest(BaseModel):
    inputs: list[Tensor]


class InferAnswer(BaseModel):
    model_name: str
    outputs: list[Tensor]


@app.post("/v2/models/credit1/infer")
def infer(request: InferRequest) -> InferAnswer:
    tensor = request.inputs[0]
    rows = np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)
    probability = session.run(["probability"], {"rows": rows})[0]
    output = Tensor(name="probability", shape=[len(rows)], datatype="FP32", data=probability.tolist())
    return InferAnswer(model_name="credit1", outputs=[output])
