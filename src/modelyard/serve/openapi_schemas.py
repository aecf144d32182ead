"""What one endpoint takes and gives, as JSON Schema (draft 2020-12) with examples that work as posted. Pure.

Names of schemas are `{endpoint}.{what}`, so that no endpoint's can be another's.
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.decision import MAX_REASONS
from modelyard.contract.features import Column
from modelyard.contract.schema import column_schema
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES
from modelyard.serve.openapi_texts import Texts

Schema = dict[str, Any]

FRAMES = ("dataframe_split", "dataframe_records", "instances", "inputs")  # MLflow's forms of rows
MADE_UP_LENGTH = 4  # of a tensor's free dimensions, in examples


class Held(msgspec.Struct, frozen=True):
    """One version that an endpoint holds, as far as its callers see it."""

    number: int
    manifest: Manifest
    cutoff: float | None

    @property
    def is_table(self) -> bool:
        """Whether it takes rows of columns; otherwise it takes tensors as they are."""
        return self.manifest.signature.layout != "tensors"

    @property
    def explains(self) -> bool:
        """Whether it may explain: only a table's probability has contributions."""
        return self.is_table and any(spec.name == "probability" for spec in self.manifest.signature.outputs)


class Served(msgspec.Struct, frozen=True):
    """One endpoint: the version that its contract is shown from, and the others that it holds."""

    name: str
    model: str
    main: Held
    others: tuple[Held, ...] = ()
    aliases: dict[str, int] = {}
    max_rows: int | None = None

    @property
    def versions(self) -> tuple[Held, ...]:
        """All of them, the oldest first."""
        return tuple(sorted((self.main, *self.others), key=lambda held: held.number))


def ref(*parts: str) -> Schema:
    """A reference into `components`; the parts are a path of keys."""
    return {"$ref": "#/components/" + "/".join(pointer(part) for part in parts)}


@lru_cache(maxsize=4096)
def pointer(key: str) -> str:
    """One key of a JSON pointer, as a URI's fragment holds it."""
    return quote(key.replace("~", "~0").replace("/", "~1"), safe="~.-_")


def endpoint_schemas(served: Served, texts: Texts, *, is_default: bool = False) -> dict[str, Schema]:
    """Every schema of one endpoint, by name. A version whose contract differs has schemas with its number.

    `is_default`: also what `/invocations` takes.
    """
    found: dict[str, Schema] = {}
    for held in served.versions:
        own = name_of(served, held, "")
        if own and held is not served.main and same_form(held, served.main):
            continue
        for what, schema in _version_schemas(served, held, texts).items():
            found[f"{own}{what}"] = schema
    if is_default:
        found[f"{served.name}.Frame"] = _forms(f"{served.name}.Row", *FRAMES)
    found[f"{served.name}.Feedback"] = _feedback(served, texts)
    return found


def name_of(served: Served, held: Held, what: str) -> str:
    """What a schema of this version is called: the endpoint's own unless its contract differs."""
    if held is served.main or same_form(held, served.main):
        return f"{served.name}.{what}"
    return f"{served.name}.v{held.number}.{what}"


def same_form(one: Held, other: Held) -> bool:
    """Whether callers need not tell the two versions apart by what they send and get."""
    left, right = one.manifest, other.manifest
    return (
        left.signature == right.signature
        and one.cutoff == other.cutoff
        and left.decision == right.decision
        and left.contract.target == right.contract.target
        and [_asked(column) for column in left.contract.columns]
        == [_asked(column) for column in right.contract.columns]
    )


def _asked(column: Column) -> Column:
    return msgspec.structs.replace(column, clip=None, fill=None, typical=None, bins=(), note="")


def _version_schemas(served: Served, held: Held, texts: Texts) -> dict[str, Schema]:
    prefix = name_of(served, held, "")
    schemas = {
        "Row": row_schema(held, texts),
        "Prediction": prediction_schema(held, texts),
        "Answer": {
            "anyOf": [
                _with_head(ref("schemas", f"{prefix}Prediction")),
                _with_head(_list_of("predictions", ref("schemas", f"{prefix}Prediction"))),
            ]
        },
        "InferRequest": infer_request(held, f"{prefix}Row"),
        "InferResponse": infer_response(served, held),
        "Instances": _forms(f"{prefix}Row", "instances", "inputs"),
        "Predictions": _predictions(served, held),
    }
    if held.explains:
        schemas["Explanation"] = _explanation(held, texts)
        schemas["Explanations"] = {
            "anyOf": [
                _with_head(ref("schemas", f"{prefix}Explanation")),
                _with_head(_list_of("explanations", ref("schemas", f"{prefix}Explanation"))),
            ]
        }
        schemas["Explained"] = _said(served, {"explanations": _array(ref("schemas", f"{prefix}Explanation"))})
    return schemas


def _with_head(schema: Schema) -> Schema:
    return {"allOf": [ref("schemas", "Head"), schema], "unevaluatedProperties": False}


def _list_of(name: str, items: Schema) -> Schema:
    return {"type": "object", "required": [name], "properties": {name: {"type": "array", "items": items}}}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def one_or_many(name: str) -> Schema:
    """A row, or a list of rows."""
    return {"anyOf": [ref("schemas", name), {"type": "array", "minItems": 1, "items": ref("schemas", name)}]}


# --- rows ---------------------------------------------------------------------------------------------------------


def row_schema(held: Held, texts: Texts) -> Schema:
    """One row: the contract's columns, or a version of tensors' own inputs without their first axis."""
    if not held.is_table:
        inputs = held.manifest.signature.inputs
        return {
            "type": "object",
            "properties": {spec.name: nested(spec) for spec in inputs},
            "required": [spec.name for spec in inputs],
            "additionalProperties": False,
            "examples": [example_row(held)],
        }
    contract = held.manifest.contract
    return {
        "type": "object",
        "properties": {column.name: column_in(column, texts) for column in contract.columns},
        "required": [column.name for column in contract.features if column.default is None],
        "additionalProperties": False,
        "examples": [example_row(held)],
    }


def column_in(column: Column, texts: Texts) -> Schema:
    """One column's schema, with what people call it in their language."""
    schema = column_schema(column)
    notes = []
    if column.role != "feature":
        return {"title": column.title(texts.language), "description": texts("dropped")}
    schema["title"] = column.title(texts.language)
    if column.unit:
        notes.append(texts("unit", unit=column.unit))
    if column.kind == "category" and column.unseen == "missing":
        notes.append(texts("other_missing"))
        if not column.nullable:
            schema["minLength"] = 1  # an empty text would be a missing value
    if column.pii != "none":
        notes.append(texts("private"))
    if column.kind == "number":
        schema["format"] = "float"
    schema.pop("description", None)
    if notes:
        schema["description"] = "; ".join(notes)
    return schema


def example_row(held: Held) -> dict[str, Any]:
    """A row that works as posted: the contract's own example, or one of typical values."""
    contract = held.manifest.contract
    if contract.example:
        return contract.example
    if not held.is_table:
        return {spec.name: _made_up(spec, spec.shape[1:]) for spec in held.manifest.signature.inputs}
    return {column.name: _typical(column) for column in contract.features}


def _typical(column: Column) -> Any:
    if column.kind == "category":
        code = int(column.typical) if column.typical is not None else 0
        return column.categories[min(max(code, 0), len(column.categories) - 1)]
    if column.kind == "boolean":
        return bool(column.typical)
    value = column.typical if column.typical is not None else column.default
    number = float(value) if isinstance(value, int | float) else 0.0
    if column.minimum is not None:
        number = max(number, column.minimum)
    if column.maximum is not None:
        number = min(number, column.maximum)
    return round(number) if column.kind == "integer" else number


# --- answers ------------------------------------------------------------------------------------------------------


def prediction_schema(held: Held, texts: Texts) -> Schema:
    """What is said of one row: decision, probability and score; or the version's outputs by name."""
    decision, target = held.manifest.decision, held.manifest.contract.target
    if decision is None or held.cutoff is None:
        outputs = held.manifest.signature.outputs
        properties: Schema = {spec.name: nested(spec, may_miss=True) for spec in outputs}
        return {"type": "object", "properties": properties, "required": list(properties)}
    positive = target.positive if target and target.positive else decision.positive
    scale = decision.scale
    return {
        "type": "object",
        "required": ["decision", "probability", "score"],
        "properties": {
            "decision": {
                "enum": [decision.negative, decision.positive],
                "description": texts("decision", positive=decision.positive, cutoff=held.cutoff),
            },
            "probability": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": decision.meaning
                if decision.meaning and texts.language == "en"
                else texts("probability", positive=positive),
            },
            "score": {
                "type": "integer",
                "description": texts("score", points=scale.points, odds=scale.odds, double=scale.double),
            },
            "reasons": {
                "type": "array",
                "maxItems": MAX_REASONS,
                "items": ref("schemas", "Reason"),
                "description": texts("reasons_answer", limit=MAX_REASONS, positive=positive),
            },
        },
    }


def _explanation(held: Held, texts: Texts) -> Schema:
    contributions = {
        column.name: {"type": "number", "title": column.title(texts.language)}
        for column in held.manifest.contract.features
    }
    return {
        "type": "object",
        "required": ["probability", "base", "contributions"],
        "properties": {
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "base": {"type": "number", "description": texts("base")},
            "contributions": {
                "type": "object",
                "description": texts("contribution"),
                "properties": contributions,
                "required": list(contributions),
                "additionalProperties": False,
            },
        },
    }


def _feedback(served: Served, texts: Texts) -> Schema:
    target = served.main.manifest.contract.target
    truth: Schema = {"type": ["string", "number", "boolean"], "maxLength": 256}
    if target and target.classes:
        truth = {"enum": list(target.classes)}
    return {
        "type": "object",
        "required": ["request_id", "truth"],
        "properties": {
            "request_id": {"type": "string", "description": texts("request_id")},
            "truth": truth | {"description": texts("truth")},
            "row": {"type": "integer", "minimum": 0, "default": 0, "description": texts("truth_row")},
        },
        "additionalProperties": False,
    }


# --- V1 and MLflow ------------------------------------------------------------------------------------------------


def _forms(row: str, *forms: str) -> Schema:
    """A request that has its rows in exactly one of these members."""
    listed = _array({"anyOf": [ref("schemas", row), {"type": ["array", "number", "string", "boolean", "null"]}]})
    frame = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {"columns": _array({"type": "string"}), "data": _array({"type": "array"}), "index": {}},
        "additionalProperties": False,
    }
    known: dict[str, Schema] = {
        "instances": listed | {"minItems": 1},
        "inputs": {"anyOf": [listed | {"minItems": 1}, {"type": "object", "additionalProperties": {"type": "array"}}]},
        "dataframe_records": _array(ref("schemas", row)) | {"minItems": 1},
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


def forms_example(held: Held, form: str) -> dict[str, Any]:
    """The example row in one of the forms of V1 and MLflow."""
    row = example_row(held)
    if form == "inputs":
        return {form: {name: [value] for name, value in row.items()}}
    if form == "dataframe_split":
        return {form: {"columns": list(row), "data": [list(row.values())]}}
    return {form: [row]}


def csv_example(held: Held) -> str:
    """The example row as CSV with a header line."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    row = example_row(held)
    lines.writerow(row)
    lines.writerow("" if value is None else value for value in row.values())
    return text.getvalue()


def _predictions(served: Served, held: Held) -> Schema:
    outputs = {spec.name: _output(held, spec) for spec in outputs_of(held)}
    one: Schema = {"type": "object", "properties": outputs, "required": list(outputs), "additionalProperties": False}
    if len(outputs) == 1:
        (one,) = outputs.values()
    schema = _said(served, {"predictions": _array(one)})
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


def _said(served: Served, properties: Schema) -> Schema:
    """An answer that also says who answered."""
    text = {"type": "string"}
    who = {"model_name": {"const": served.name}, "model_version": text, "request_id": text}
    properties = properties | who
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


# --- tensors ------------------------------------------------------------------------------------------------------


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
    schema = scalar(spec.datatype)
    if may_miss and schema == {"type": "number"}:
        schema = {"type": ["number", "null"]}
    for size in reversed(spec.shape[1:]):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _made_up(spec: TensorSpec, shape: tuple[int, ...]) -> Any:
    if not shape:
        return {"BYTES": "text", "BOOL": True}.get(spec.datatype, 1 if "INT" in spec.datatype else 0.5)
    size = shape[0] if shape[0] >= 0 else MADE_UP_LENGTH
    return [_made_up(spec, shape[1:]) for _ in range(size)]


def flat(value: Any) -> list[Any]:
    """The elements of a nested list, row-major."""
    return [element for part in value for element in flat(part)] if isinstance(value, list) else [value]


def _shape_of(value: Any) -> list[int]:
    return [len(value), *_shape_of(value[0])] if isinstance(value, list) and value else []


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
        tensors.append(_tensor(spec, element))
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
                        "name": {"enum": [spec.name for spec in outputs_of(held)]},
                        "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                    },
                },
            },
        },
        "examples": [infer_example(held)],
    }


def _tensor(spec: TensorSpec, element: Schema) -> Schema:
    return {
        "title": spec.name,
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": _shape(spec),
            "data": {"type": "array", "items": {"anyOf": [element, {"type": "array"}]}},
            "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
        },
    }


def _shape(spec: TensorSpec) -> Schema:
    return {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": len(spec.shape)}


def outputs_of(held: Held) -> list[TensorSpec]:
    """The outputs that V2's callers see: the version's own, then score and decision where it decides."""
    specs = list(held.manifest.signature.outputs)
    if held.cutoff is not None:
        names = {spec.name for spec in specs}
        extra = (TensorSpec("score", "INT64", (-1,)), TensorSpec("decision", "BYTES", (-1,)))
        specs += [spec for spec in extra if spec.name not in names]
    return specs


def infer_response(served: Served, held: Held) -> Schema:
    """V2's answer; an output holds its data, or how many bytes of it follow the JSON."""
    tensors = []
    for spec in outputs_of(held):
        element = scalar(spec.datatype)
        if element == {"type": "number"}:
            element = {"type": ["number", "null"]}
        elif spec.name == "decision" and held.manifest.decision is not None:
            element = {"enum": [held.manifest.decision.negative, held.manifest.decision.positive]}
        tensors.append(
            {
                "title": spec.name,
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"const": spec.name},
                    "datatype": {"const": spec.datatype},
                    "shape": _shape(spec),
                    "data": {"type": "array", "items": element},
                    "parameters": {"type": "object"},
                },
                "additionalProperties": False,
            }
        )
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


def infer_example(held: Held) -> dict[str, Any]:
    """The example row as V2's tensors."""
    row, signature = example_row(held), held.manifest.signature
    if signature.layout == "matrix":
        (spec,) = signature.inputs
        values = [_as_number(column, row) for column in held.manifest.contract.features]
        return {"inputs": [_sent(spec, [1, len(values)], values)]}
    if signature.layout == "columns":
        known = [spec for spec in signature.inputs if spec.name in row]
        return {"inputs": [_sent(spec, [1] * len(spec.shape), [row[spec.name]]) for spec in known]}
    return {"inputs": [_sent(spec, [1, *_shape_of(row[spec.name])], flat(row[spec.name])) for spec in signature.inputs]}


def _sent(spec: TensorSpec, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data}


def _as_number(column: Column, row: dict[str, Any]) -> Any:
    value = row.get(column.name, column.default)
    if isinstance(value, str):
        return column.categories.index(value)
    return float(value) if isinstance(value, bool) else value
