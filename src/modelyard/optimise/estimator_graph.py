"""Estimators as ONNX graphs: forests written split by split, everything else by skl2onnx and onnxmltools."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import msgspec
import numpy as np

from modelyard.contract.errors import InvalidInput
from modelyard.contract.features import Contract
from modelyard.optimise.convert import ML_OPSET, OPSET
from modelyard.optimise.estimators import Brought, parts_of, selects_columns
from modelyard.optimise.forest_files import forest_files
from modelyard.optimise.graph_file import add_second_column, keep_outputs, open_session
from modelyard.optimise.graph_forest import read_forest
from modelyard.optimise.trees import Forest, answer_of, thresholds
from modelyard.runtimes.forest import FILE
from modelyard.runtimes.histograms import steps_of


class Converted(msgspec.Struct, frozen=True):
    """A model as a graph, with the name of the output that carries its answer."""

    data: bytes
    output: str
    layout: str  # matrix: `rows`; columns: one tensor for each column
    extra: dict[str, bytes] = {}  # other files of the artifact
    cuts: dict[int, list[float]] = {}


def convert(brought: Brought, contract: Contract, whole_as_int: bool = False) -> Converted:
    """The model as a graph. Raises InvalidInput with the converter's reason."""
    if brought.unreadable:
        raise InvalidInput(brought.unreadable)
    if brought.forest is not None:
        return _convert_forest(brought.forest, contract)
    return _convert_sklearn(brought, contract, whole_as_int)


def _convert_forest(forest: Forest, contract: Contract) -> Converted:
    extra = forest_files(forest)
    graph = extra.pop("model.onnx")
    layout = "columns" if any(column.kind == "category" for column in contract.features) else "matrix"
    return Converted(graph, answer_of(forest), layout, extra, thresholds(forest))


def _convert_sklearn(brought: Brought, contract: Contract, whole_as_int: bool) -> Converted:
    from skl2onnx import to_onnx

    _register_boosters()
    by_column = any(c.kind == "category" for c in contract.features) or selects_columns(brought.model)
    model = _without_names(brought.model) if brought.framework == "xgboost" else _as_converters_know(brought.model)
    options = {id(model): {"zipmap": False}} if brought.classes else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = to_onnx(
                model,
                initial_types=_initial_types(contract, by_column, whole_as_int),
                options=options,
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            )
    except Exception as error:  # the converters raise dozens of kinds; each is a reason for the person who asked
        raise InvalidInput(
            f"{type(brought.model).__name__} does not convert to ONNX: {str(error).strip().splitlines()[0][:200]}"
        ) from None
    data = graph.SerializeToString()
    outputs = open_session(data).get_outputs()
    answer = outputs[-1].name if brought.classes else outputs[0].name
    if brought.task == "binary":
        return _with_tables(
            Converted(_second_column(data, answer), "probability", "columns" if by_column else "matrix")
        )
    new = "probabilities" if brought.classes else "prediction"
    names = {answer: new} if not brought.classes else {outputs[0].name: "label", answer: new}
    data = _flat(keep_outputs(data, names), new, brought)
    return _with_tables(Converted(data, new, "columns" if by_column else "matrix"))


def _with_tables(converted: Converted) -> Converted:
    """The same with its tables, where the graph is a forest that takes a matrix."""
    found = read_forest(converted.data) if converted.layout == "matrix" else None
    tables = None if found is None else found.tables()
    return converted if tables is None else msgspec.structs.replace(converted, extra={FILE: tables.dump()})


def _without_names(model: Any) -> Any:
    """A copy whose columns go by number: the converter reads no other names."""
    bare = copy.deepcopy(model)
    bare.get_booster().feature_names = None
    return bare


def _as_converters_know(model: Any) -> Any:
    """The model, or a copy that answers the same in the words of the converter.

    Imputers of text are told that missing is the empty text: ONNX strings know no other. A vote is told how to hand on
    what it does not hand on here, because the converter insists.
    """
    if not selects_columns(model) and not any(hasattr(step, "flatten_transform") for step in steps_of(model)):
        return model
    told = copy.deepcopy(model)
    for step in steps_of(told):
        if hasattr(step, "flatten_transform"):
            step.flatten_transform = False
        for _, inner, _ in getattr(step, "transformers_", ()):
            for part in parts_of(inner):
                if type(part).__name__ == "SimpleImputer" and part.statistics_.dtype == object:
                    part.missing_values = ""
    return told


def _initial_types(contract: Contract, by_column: bool, whole_as_int: bool) -> list[tuple[str, Any]]:
    from skl2onnx.common.data_types import BooleanTensorType, FloatTensorType, Int64TensorType, StringTensorType

    if not by_column:
        return [("rows", FloatTensorType([None, len(contract.features)]))]
    whole = Int64TensorType if whole_as_int else FloatTensorType
    kinds = {"category": StringTensorType, "number": FloatTensorType, "integer": whole, "boolean": BooleanTensorType}
    kinds["boolean"] = BooleanTensorType if whole_as_int else FloatTensorType
    return [(column.name, kinds[column.kind]([None, 1])) for column in contract.features]


def _register_boosters() -> None:
    """Teach skl2onnx the boosters, so that they convert inside pipelines."""
    from lightgbm import LGBMClassifier, LGBMRegressor
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )
    from xgboost import XGBClassifier, XGBRegressor

    choices = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    for cls, alias, converter in (
        (LGBMClassifier, "LightGbmLGBMClassifier", convert_lightgbm),
        (XGBClassifier, "XGBoostXGBClassifier", convert_xgboost),
    ):
        shapes = calculate_linear_classifier_output_shapes
        update_registered_converter(cls, alias, shapes, converter, options=choices, overwrite=True)
    for cls, alias, converter in (
        (LGBMRegressor, "LightGbmLGBMRegressor", convert_lightgbm),
        (XGBRegressor, "XGBoostXGBRegressor", convert_xgboost),
    ):
        shapes = calculate_linear_regressor_output_shapes
        update_registered_converter(cls, alias, shapes, converter, overwrite=True)


def _second_column(data: bytes, probabilities: str) -> bytes:
    import onnx

    model = onnx.load_model_from_string(data)
    del model.graph.output[:]
    add_second_column(model, probabilities)
    return bytes(model.SerializeToString())


def _flat(data: bytes, output: str, brought: Brought) -> bytes:
    """Regression answers as float32[N], not [N, 1] or whole numbers (clusters, outliers), as `predict` gives them.

    Answers of several numbers for each row stay as they are.
    """
    if brought.classes or open_session(data).get_outputs()[0].shape[1:] not in ([], [1]):
        return data
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(data)
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == output:
                node.output[position] = "_column"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), "_flat"))
    column = "_column"
    if model.graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        column = "_numbers"
        model.graph.node.append(helper.make_node("Cast", ["_column"], [column], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Reshape", [column, "_flat"], [output]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N"]))
    return bytes(model.SerializeToString())
