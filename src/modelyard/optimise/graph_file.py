"""An ONNX file that somebody brings: checked, read, and given the one output that a classifier needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from modelyard.artifacts.manifest import Task
from modelyard.contract.errors import InvalidInput
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import datatype_of

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})  # what ONNX Runtime itself brings
_INPUT_TYPES = ("tensor(float)", "tensor(double)", "tensor(int64)", "tensor(int32)", "tensor(bool)", "tensor(string)")


class Same(msgspec.Struct, frozen=True):
    """One output, and which output of the brought graph (or which column of it) it must equal."""

    name: str
    brought: str
    column: int | None = None


class Graph(msgspec.Struct, frozen=True):
    """A graph that ONNX Runtime opens, and what it takes and gives."""

    data: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: Task
    same: tuple[Same, ...]
    classes: tuple[str, ...] = ()

    def takes_matrix(self, columns: list[str]) -> bool:
        """Whether there is one input of rows by features, rather than one for each of these columns."""
        if len(self.inputs) != 1 or len(self.inputs[0].shape) != 2:
            return False
        return self.inputs[0].shape[1] != 1 or self.inputs[0].name not in columns

    @property
    def answer(self) -> str:
        """The output that parity is proven on first."""
        names = [output.name for output in self.outputs]
        return "probability" if "probability" in names else names[0]


def read_graph(data: bytes) -> Graph:
    """The graph, fit for serving. Raises InvalidInput with the reason: not ONNX, external data, custom operators ..."""
    model = sound(data)
    classes = _classes(model)
    _take_off_zipmap(model)
    session = open_session(model.SerializeToString())
    task = _task(session, classes)
    same = tuple(Same(output.name, output.name) for output in session.get_outputs())
    if task == "binary":
        same = _with_probability(model, session)
        session = open_session(model.SerializeToString())
    inputs = tuple(_input(tensor) for tensor in session.get_inputs())
    outputs = tuple(map(tensor_spec, session.get_outputs()))
    return Graph(model.SerializeToString(), inputs, outputs, task, same, classes)


def sound(data: bytes) -> onnx.ModelProto:
    """The model in an ONNX file. Raises InvalidInput as `read_graph` does."""
    try:
        model = onnx.load_model_from_string(data)
        _refuse_foreign(model)
        onnx.checker.check_model(model)
    except InvalidInput:
        raise
    except Exception as error:  # the parser and the checker raise many kinds, and none of them is more than a reason
        raise InvalidInput(f"this is not a sound ONNX model: {str(error).splitlines()[0][:200]}") from None
    return model


def keep_outputs(data: bytes, names: dict[str, str]) -> bytes:
    """The graph with only these outputs, renamed: old name -> new name."""
    model = onnx.load_model_from_string(data)
    kept = [output for output in model.graph.output if output.name in names]
    del model.graph.output[:]
    for output in kept:
        if names[output.name] != output.name:
            model.graph.node.append(helper.make_node("Identity", [output.name], [names[output.name]]))
            output.name = names[output.name]
        model.graph.output.append(output)
    return bytes(model.SerializeToString())


def open_session(data: bytes) -> ort.InferenceSession:
    """A session over the bytes. Raises InvalidInput if ONNX Runtime refuses them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise InvalidInput(f"ONNX Runtime refuses this model: {str(error).splitlines()[0][:200]}") from None


def tensor_spec(tensor: ort.NodeArg) -> TensorSpec:
    """An input or output of a graph; its first dimension is the rows. Raises InvalidInput for what is not served."""
    if not tensor.type.startswith("tensor("):
        raise InvalidInput(f"{tensor.name!r} is a {tensor.type}, not a tensor")
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32", "double": "float64", "string": "object"}.get(kind, kind)
    if not tensor.shape:
        raise InvalidInput(f"{tensor.name!r} has no rows: it is a single value")
    try:
        datatype = datatype_of(np.dtype(kind))
    except (KeyError, TypeError):
        raise InvalidInput(f"{tensor.name!r} is of type {tensor.type}, which is not served") from None
    return TensorSpec(
        tensor.name, datatype, tuple(s if isinstance(s, int) and at else -1 for at, s in enumerate(tensor.shape))
    )


def _refuse_foreign(model: onnx.ModelProto) -> None:
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                raise InvalidInput("this model keeps weights in other files; save it with its data inside")
        for node in graph.node:
            if node.domain not in _DOMAINS:
                raise InvalidInput(
                    f"this model needs the operator {node.op_type!r} of {node.domain!r}; custom operators are refused"
                )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_location == TensorProto.EXTERNAL:
                raise InvalidInput("this model keeps weights in other files; save it with its data inside")


def _classes(model: onnx.ModelProto) -> tuple[str, ...]:
    """The classes that a classifier's last node names."""
    for node in reversed(model.graph.node):
        for attribute in node.attribute:
            if (
                attribute.name in ("classlabels_strings", "cats_strings")
                and node.op_type != "OneHotEncoder"
                and attribute.strings
            ):
                return tuple(text.decode() for text in attribute.strings)
            if attribute.name in ("classlabels_int64s", "classlabels_ints") and attribute.ints:
                return tuple(str(number) for number in attribute.ints)
    return ()


def _take_off_zipmap(model: onnx.ModelProto) -> None:
    """Make a closing ZipMap's probabilities one tensor again, in place."""
    outputs = {output.name: output for output in model.graph.output}
    for node in list(model.graph.node):
        if node.op_type == "ZipMap" and node.output[0] in outputs:
            output = outputs[node.output[0]]
            width = len(_classes(model)) or None
            bare = helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["N", width])
            output.CopyFrom(bare)
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], [output.name]))
            return


def _task(session: ort.InferenceSession, classes: tuple[str, ...]) -> Task:
    outputs = session.get_outputs()
    for output in outputs:
        if not output.type.startswith("tensor("):
            raise InvalidInput(f"the output {output.name!r} is a {output.type}, not a tensor; export with ZipMap off")
    floats = [output for output in outputs if output.type in ("tensor(float)", "tensor(double)")]
    wide = [output for output in floats if len(output.shape) == 2 and output.shape[1] != 1]
    if [output for output in floats if output.name == "probability" and len(output.shape) == 1]:
        return "binary"
    if classes and wide:
        return "binary" if len(classes) == 2 else "multiclass"
    if len(outputs) == 1 and floats and not wide:
        return "regression"
    return "tensor"


def _with_probability(model: onnx.ModelProto, session: ort.InferenceSession) -> tuple[Same, ...]:
    """Add `probability`, the second class's column, in place; what the outputs then are of the brought ones."""
    outputs = session.get_outputs()
    same = tuple(Same(output.name, output.name) for output in outputs)
    if any(output.name == "probability" and len(output.shape) == 1 for output in outputs):
        return same
    wide = next(o.name for o in outputs if len(o.shape) == 2 and o.type in ("tensor(float)", "tensor(double)"))
    source = wide
    if "probability" in [name for node in model.graph.node for name in node.output]:  # the name is for the one column
        source = "probabilities" if wide == "probability" else wide
        for node in model.graph.node:
            _rename(node.input)
            _rename(node.output)
        for output in model.graph.output:
            output.name = "probabilities" if output.name == "probability" else output.name
        same = tuple(Same("probabilities" if one.name == "probability" else one.name, one.brought) for one in same)
    add_second_column(model, source)
    return (Same("probability", wide, column=1), *same)


def add_second_column(model: onnx.ModelProto, probabilities: str) -> None:
    """Put the output `probability`, the second class's column, before the others, in place."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, dtype=np.int64), "_second_class"))
    model.graph.node.append(helper.make_node("Gather", [probabilities, "_second_class"], ["_second"], axis=1))
    model.graph.node.append(helper.make_node("Cast", ["_second"], ["probability"], to=TensorProto.FLOAT))
    model.graph.output.insert(0, helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"]))


def _rename(names: Any) -> None:
    for position, name in enumerate(names):
        if name == "probability":
            names[position] = "probabilities"


def _input(tensor: ort.NodeArg) -> TensorSpec:
    if tensor.type not in _INPUT_TYPES:
        raise InvalidInput(f"the input {tensor.name!r} is of type {tensor.type}, which rows cannot feed")
    if len(tensor.shape) not in (1, 2):
        raise InvalidInput(
            f"the input {tensor.name!r} has {len(tensor.shape)} dimensions; rows feed inputs of one or two"
        )
    return tensor_spec(tensor)
