"""MLServer: a runtime of one's own around the graph, with its numpy codec."""

from graph import DATATYPES, load
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self.graph = load(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {
            tensor.name: NumpyCodec.decode_input(tensor).astype(self.graph.inputs[tensor.name], copy=False)
            for tensor in payload.inputs
        }
        answer = self.graph.run(feeds)
        assert answer.dtype in DATATYPES
        output = NumpyCodec.encode_output(self.graph.output, answer)
        return InferenceResponse(model_name=self.name, outputs=[output])
