"""Asks a gRPC server everything once, compares, and keeps one request as its bytes: run where tritonclient is.

Arguments: host:port, a JSON file with endpoint, output, bodies, answers and key, and the file for the bytes. Prints the
size of the first answer.
"""

import json
import struct
import sys

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.grpc import service_pb2

TOLERANCE = 1e-5
NUMPY = {"FP32": np.float32, "INT64": np.int64}


def tensors(body: str) -> list[grpc.InferInput]:
    found = []
    for tensor in json.loads(body)["inputs"]:
        one = grpc.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        one.set_data_from_numpy(np.array(tensor["data"], NUMPY[tensor["datatype"]]).reshape(tensor["shape"]))
        found.append(one)
    return found


def message(endpoint: str, body: str) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=endpoint)
    for one in tensors(body):
        request.inputs.append(one._get_tensor())
        request.raw_input_contents.append(one._get_content())
    return request.SerializeToString()


def main(address: str, source: str, target: str) -> None:
    with open(source, encoding="utf-8") as file:
        asked = json.load(file)
    client = grpc.InferenceServerClient(address)
    headers = {"authorization": f"Bearer {asked['key']}"} if asked["key"] else None
    size = 0
    for body, right in zip(asked["bodies"], asked["answers"], strict=True):
        answer = client.infer(asked["endpoint"], tensors(body), headers=headers)
        said = answer.as_numpy(asked["output"]).reshape(-1)
        if said.shape != (len(right),) or not np.all(np.abs(said - right) <= TOLERANCE):
            sys.exit(f"answered {said[:3]!r} where {right[:3]!r} is right")
        size = size or answer.get_response().ByteSize()
    data = message(asked["endpoint"], asked["bodies"][0])
    with open(target, "wb") as file:
        file.write(struct.pack(">BI", 0, len(data)) + data)
    print(size)


if __name__ == "__main__":
    main(*sys.argv[1:])
