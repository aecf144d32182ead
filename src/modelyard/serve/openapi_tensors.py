"""V2's requests and answers as schemas: tensors, their datatypes and what their elements may be."""

from __future__ import annotations

import numpy as np

from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES
from modelyard.serve.openapi_examples import infer_example
from modelyard.serve.openapi_references import Schema, ref
from modelyard.serve.openapi_served import Held, Served
from modelyard.serve.v2_metadata import output_specs


def scalar(datatype: str) -> Schema:
    """One element of a tensor as JSON."""
    if datatype == "BYTES":
        return {"type": "string"}
    if datatype == "BOOL":
        return {"type": "boolean"}
    if datatype.startswith(("INT", "UINT")):
        limits = np.iinfo(NUMPY_TYPES[datatype])
        return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    return {"type": "number"}


def nested(spec: TensorSpec, *, may_miss: bool = False) -> Schema:
    """One row of a tensor: a value, or lists nested as deep as its shape. `may_miss`: a NaN is said as null."""
    if spec.content == "json":
        return {}  # any JSON, as it stands
    schema = scalar(spec.datatype)
    if spec.content == "image":
        schema |= {"contentEncoding": "base64", "contentMediaType": "image/*"}
    if may_miss and schema == {"type": "number"}:
        schema = {"type": ["number", "null"]}
    for size in reversed(spec.shape[1:]):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def infer_request(held: Held, row: str) -> Schema:
    """V2's request: which tensors there are, their datatypes and what their elements may be."""
    signature, contract = held.manifest.signature, held.manifest.contract
    tensors = []
    for spec in signature.inputs:
        if signature.layout == "columns":
            element = ref("schemas", row, "properties", spec.name)
        else:
            element = scalar(spec.datatype)
            if held.is_table and any(column.nullable for column in contract.features):
                element = {"type": [element["type"], "null"]}
        data = {"anyOf": [element, {"type": "array"}]}
        tensors.append(_tensor(spec, data, {"binary_data_size": {"type": "integer", "minimum": 0}}))
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": ref("schemas", "Parameters"),
            "inputs": {"type": "array", "minItems": 1, "items": {"anyOf": tensors}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"enum": [spec.name for spec in output_specs(held.manifest, held.cutoff)]},
                        "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                    },
                },
            },
        },
        "examples": [infer_example(held)],
    }


def _tensor(spec: TensorSpec, element: Schema, parameters: Schema) -> Schema:
    """A tensor of this name, whose data have such elements, and which has such parameters."""
    return {
        "title": spec.name,
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": len(spec.shape)},
            "data": {"type": "array", "items": element},
            "parameters": {"type": "object", "properties": parameters},
        },
    }


def infer_response(served: Served, held: Held) -> Schema:
    """V2's answer; an output holds its data, or how many bytes of it follow the JSON."""
    tensors = []
    for spec in output_specs(held.manifest, held.cutoff):
        element = scalar(spec.datatype)
        if element == {"type": "number"}:
            element = {"type": ["number", "null"]}
        elif spec.name == "decision" and held.manifest.decision is not None:
            element = {"enum": [held.manifest.decision.negative, held.manifest.decision.positive]}
        tensors.append(_tensor(spec, element, {}) | {"additionalProperties": False})
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": served.name},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"anyOf": tensors}},
        },
        "additionalProperties": False,
    }
