"""KServe's SDK: a model of one's own around the graph, protocol V2, two server processes for two cores."""

from graph import DATATYPES, load, named
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class OnnxModel(Model):
    def load(self) -> bool:
        self.graph = load(self.name)
        self.ready = True
        return self.ready

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "graph"}

    def __setstate__(self, state: dict) -> None:  # a server process of its own: sessions do not travel
        self.__dict__.update(state)
        self.load()

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        answer = self.graph.run({tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        output = InferOutput(self.graph.output, list(answer.shape), DATATYPES[answer.dtype])
        output.set_data_from_numpy(answer, binary_data=False)
        return InferResponse(payload.id or generate_uuid(), self.name, [output])


if __name__ == "__main__":
    models = [OnnxModel(name) for name in named()]
    for model in models:
        model.load()
    ModelServer().start(models)  # its settings are arguments of the command: see `benchmarks/rivals.py`
