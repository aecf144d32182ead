"""V1's and MLflow's requests and answers as schemas: rows in several forms, one prediction for each."""

from __future__ import annotations

from modelyard.contract.signature import TensorSpec
from modelyard.serve.openapi_references import Schema, ref
from modelyard.serve.openapi_served import Held, Served
from modelyard.serve.openapi_tensors import nested
from modelyard.serve.v2_metadata import output_specs


def forms_schema(row: str, *forms: str) -> Schema:
    """A request that has its rows in exactly one of these members."""
    listed = list_of({"anyOf": [ref("schemas", row), {"type": ["array", "number", "string", "boolean", "null"]}]})
    frame = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {"columns": list_of({"type": "string"}), "data": list_of({"type": "array"}), "index": {}},
        "additionalProperties": False,
    }
    known: dict[str, Schema] = {
        "instances": listed | {"minItems": 1},
        "inputs": {"anyOf": [listed | {"minItems": 1}, {"type": "object", "additionalProperties": {"type": "array"}}]},
        "dataframe_records": list_of(ref("schemas", row)) | {"minItems": 1},
        "dataframe_split": frame,
    }
    nothing = {"type": ["object", "null"], "maxProperties": 0}
    others = {"params": nothing} if "dataframe_split" in forms else {"parameters": nothing, "signature_name": {}}
    return {
        "type": "object",
        "properties": {form: known[form] for form in forms} | others,
        "oneOf": [{"required": [form]} for form in forms],
        "additionalProperties": False,
    }


def predictions_schema(served: Served, held: Held) -> Schema:
    outputs = {spec.name: _output(held, spec) for spec in output_specs(held.manifest, held.cutoff)}
    one: Schema = {"type": "object", "properties": outputs, "required": list(outputs), "additionalProperties": False}
    if len(outputs) == 1:
        (one,) = outputs.values()
    schema = answered_by(served, {"predictions": list_of(one)})
    schema["properties"]["outputs"] = {}  # beside the rows, to those who sent columns
    return schema


def _output(held: Held, spec: TensorSpec) -> Schema:
    """What callers see of one output of one row."""
    decision = held.manifest.decision
    if spec.name == "decision" and decision is not None:
        return {"enum": [decision.negative, decision.positive]}
    if spec.name == "probability" and decision is not None and not spec.shape[1:]:
        return {"type": "number", "minimum": 0, "maximum": 1}
    return nested(spec, may_miss=True)


def answered_by(served: Served, properties: Schema) -> Schema:
    """An answer that also says who answered."""
    text = {"type": "string"}
    who = {"model_name": {"const": served.name}, "model_version": text, "request_id": text}
    properties = properties | who
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


def list_of(items: Schema) -> Schema:
    """Any number of them."""
    return {"type": "array", "items": items}
