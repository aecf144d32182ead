"""The credit1 service tuned by hand: no thread hop, no typed bodies, a fast JSON codec, one thread per session."""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, Request, Response
from pydantic_core import from_json, to_json

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = ort.InferenceSession(os.environ["BENCH_MODEL"], options)
app = FastAPI()


@app.post("/v2/models/credit1/infer")
async def infer(request: Request) -> Response:
    tensor = from_json(await request.body())["inputs"][0]
    rows = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    probability = session.run(["probability"], {"rows": rows})[0]
    output = {"name": "probability", "shape": [len(rows)], "datatype": "FP32", "data": probability.tolist()}
    return Response(to_json({"model_name": "credit1", "outputs": [output]}), media_type="application/json")
