"""Every schema of one endpoint, as JSON Schema (draft 2020-12). Pure.

Names of schemas are `{endpoint}.{what}`, so that no endpoint's can be another's. What each one says is in
`openapi_rows.py`, `openapi_tensors.py` and `openapi_forms.py`; examples in `openapi_examples.py`.
"""

from __future__ import annotations

from modelyard.serve import mlflow
from modelyard.serve.openapi_forms import answered_by, forms_schema, list_of, predictions_schema
from modelyard.serve.openapi_references import Schema, ref
from modelyard.serve.openapi_rows import explanation_schema, feedback_schema, prediction_schema, row_schema
from modelyard.serve.openapi_served import Held, Served, name_of, same_form
from modelyard.serve.openapi_tensors import infer_request, infer_response
from modelyard.serve.openapi_texts import Texts


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
        found[f"{served.name}.Frame"] = forms_schema(f"{served.name}.Row", *mlflow.FORMS)
    found[f"{served.name}.Feedback"] = feedback_schema(served, texts)
    return found


def _version_schemas(served: Served, held: Held, texts: Texts) -> dict[str, Schema]:
    prefix = name_of(served, held, "")
    explanation = ref("schemas", f"{prefix}Explanation")
    schemas = {
        "Row": row_schema(held, texts),
        "Prediction": prediction_schema(held, texts),
        "Answer": _answer("predictions", ref("schemas", f"{prefix}Prediction")),
        "InferRequest": infer_request(held, f"{prefix}Row"),
        "InferResponse": infer_response(served, held),
        "Instances": forms_schema(f"{prefix}Row", "instances", "inputs"),
        "Predictions": predictions_schema(served, held),
    }
    if held.explains:
        schemas["Explanation"] = explanation_schema(held, texts)
        schemas["Explanations"] = _answer("explanations", explanation)
        schemas["Explained"] = answered_by(served, {"explanations": list_of(explanation)})
    return schemas


def _answer(many: str, one: Schema) -> Schema:
    """What is said of one row, or a list of that under the name `many`; behind who says it."""
    listed = {"type": "object", "required": [many], "properties": {many: list_of(one)}}
    bodies = [{"allOf": [ref("schemas", "Head"), body], "unevaluatedProperties": False} for body in (one, listed)]
    return {"anyOf": bodies}


def one_or_many(name: str) -> Schema:
    """A row, or a list of rows."""
    return {"anyOf": [ref("schemas", name), list_of(ref("schemas", name)) | {"minItems": 1}]}
