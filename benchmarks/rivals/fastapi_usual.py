"""FastAPI as it is usually written: typed bodies, a plain function, ONNX Runtime sessions as they come."""

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from graph import DATATYPES, NUMPY, named
from pydantic import BaseModel

graphs = {name: (ort.InferenceSession(path), output) for name, (path, output, _) in named().items()}
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


@app.post("/v2/models/{name}/infer")
def infer(name: str, request: InferRequest) -> InferAnswer:
    session, output = graphs[name]
    types = {tensor.name: NUMPY[tensor.type] for tensor in session.get_inputs()}
    feeds = {t.name: np.array(t.data, dtype=types[t.name]).reshape(t.shape) for t in request.inputs}
    answer = session.run([output], feeds)[0]
    said = Tensor(
        name=output, shape=list(answer.shape), datatype=DATATYPES[answer.dtype], data=answer.reshape(-1).tolist()
    )
    return InferAnswer(model_name=name, outputs=[said])
