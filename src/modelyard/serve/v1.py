"""The V1 protocol, as KServe and TensorFlow Serving speak it: rows or columns in, one prediction a row out.

Answers hold what each of their clients looks for, and OpenAI's too where it shares a path. Keeps no state.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from modelyard.contract.errors import InvalidInput, NotFound, NotReady
from modelyard.serve import events
from modelyard.serve.call import Batch, Call
from modelyard.serve.forms import (
    is_list,
    members,
    only_one,
    outputs_by_name,
    predictions_of,
    read_listed,
    refuse_parameters,
    value_of,
)
from modelyard.serve.native import Explanation
from modelyard.serve.routing import Deployment, Route, Routes

SIGNATURE = "serving_default"  # what TensorFlow calls the one signature that a version has
_FORMS = ("instances", "inputs")
_MEMBERS = (*_FORMS, "signature_name", "parameters")
_encode = msgspec.json.Encoder().encode


class Wanted(msgspec.Struct):
    """How the answer is to be said: with columns beside the rows; as which kind of cloud event."""

    columns: bool
    event: str


def read_predict(call: Call, max_rows: int) -> None:
    """The body's rows as the deployment's inputs. Raises InvalidInput, Undecodable or TooLarge."""
    data, event = events.open_event(call.exchange.headers, call.exchange.body)
    parts = members(data, _MEMBERS)
    form = only_one(parts, _FORMS)
    if value_of(parts.get("signature_name")) not in (None, "", SIGNATURE):
        raise InvalidInput(f"a version has one signature: leave signature_name out, or say {SIGNATURE!r}")
    refuse_parameters(parts, "parameters")
    if form == "instances" and not is_list(parts[form]):
        raise InvalidInput('Expected "instances" to be a list')
    read_listed(call, parts[form], form, max_rows)
    call.options = Wanted(form == "inputs", event)


def read_explain(call: Call, max_rows: int) -> None:
    """The same, for an answer that explains every row."""
    read_predict(call, max_rows)
    call.reasons = "all"  # so that the cost of explaining decides where the batch is computed
    call.wants_all = True


def say_predict(call: Call, batch: Batch, start: int) -> None:
    """Answer with `predictions`, one for each row; to `inputs` also with `outputs`, one list for each output."""
    wanted: Wanted = call.options  # type: ignore[assignment]
    outputs = outputs_by_name(call, batch, start)
    answer: dict[str, Any] = {"predictions": predictions_of(outputs, call.rows)}
    if wanted.columns:  # TensorFlow Serving's clients look here, KServe's above
        answer["outputs"] = outputs if len(outputs) > 1 else next(iter(outputs.values()))
    events.say(call, wanted.event, _encode(answer | who(call)))


def say_explain(call: Call, batch: Batch, start: int) -> None:
    """Answer with every column's contribution to each row's log-odds."""
    wanted: Wanted = call.options  # type: ignore[assignment]
    names = call.deployment.replica.loaded.encoder.names
    explanations = []
    for at in range(start, start + call.rows):
        if (row := batch.contributions.get(at)) is None:
            raise NotFound(f"version {call.deployment.version} of {call.deployment.endpoint} has no explanation")
        *contributions, base = row.tolist()
        probability = batch.column("probability")[at]
        explanations.append(Explanation(probability, base, dict(zip(names, contributions, strict=True))))
    events.say(call, wanted.event, _encode({"explanations": explanations} | who(call)))


def who(call: Call) -> dict[str, str]:
    """Who answered, and under which request id feedback and the log refer to it."""
    deployment = call.deployment
    return {
        "model_name": deployment.endpoint,
        "model_version": deployment.version_text,
        "request_id": call.request_id,
    }


def model_list(routes: Routes) -> bytes:
    """`GET /v1/models`: names for KServe's clients, objects for OpenAI's."""
    data = [_item(routes.endpoint(name)) for name in routes.names]
    return _encode({"object": "list", "data": data, "models": routes.names})


def model_status(route: Route, pin: str | None, *, draining: bool) -> bytes:
    """`GET /v1/models/{m}`: ready for KServe, version states for TensorFlow Serving, an object for OpenAI.

    Raises NotReady while the gateway stops, and NotFound for a version that the endpoint does not hold.
    """
    if draining:
        raise NotReady("the gateway is stopping; ask another one")
    held = [route.pinned(pin)] if pin else [route.deployments[version] for version in sorted(route.deployments)]
    states = [_state(deployment) for deployment in held]
    return _encode({**_item(route), "name": route.name, "ready": True, "model_version_status": states})


def _item(route: Route) -> dict[str, Any]:
    created = route.main.replica.loaded.manifest.created_at
    return {
        "id": route.name,
        "object": "model",
        "created": int(datetime.fromisoformat(created).timestamp()),
        "owned_by": "modelyard",
    }


def _state(deployment: Deployment) -> dict[str, Any]:
    status = {"error_code": "OK", "error_message": ""}
    return {"version": deployment.version_text, "state": "AVAILABLE", "status": status}
