"""How a V2 call wants to be treated and answered: its parameters, and the outputs that it asks for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from modelyard.contract.errors import InvalidInput
from modelyard.contract.signature import TensorSpec
from modelyard.serve.call import Call
from modelyard.serve.tensors import BINARY_ONLY, Parameters, RequestedOutput
from modelyard.serve.v2_known import WantedOutput, known_of

MAX_CLASSES = 100_000  # texts that `classification` may make for one answer
LOWEST_PRIORITY = 9
_OUTPUT_PARAMETERS = frozenset(("binary_data", "classification", "content_type", "headers"))  # the last two are hints
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")


class Wanted(msgspec.Struct, gc=False):
    """What the answer must hold: the caller's id, and the outputs."""

    id: str
    outputs: Sequence[WantedOutput]


def accept_wishes(call: Call, parameters: Parameters, outputs: list[RequestedOutput] | None, id_: str) -> None:
    """How a call wants to be treated and answered, whatever edge it came in by; its inputs are read already.

    Raises InvalidInput. Sets `call.options` to a `Wanted`, and deadline and priority where they are given.
    """
    default = False
    if parameters:
        _read_parameters(call, parameters)
        default = _flag(parameters, "binary_data_output", False)
    call.options = Wanted(id_, _wanted(call, outputs, default))


def _read_parameters(call: Call, parameters: Parameters) -> None:
    """The protocol's own parameters. Others are for models that read some: no version does, so they change nothing.

    They are no error either: clients send the same ones to every server, and the field's servers pass over them.
    """
    if any(parameters.get(name) for name in _SEQUENCES):
        raise InvalidInput("sequence parameters are for stateful models, and none is served; leave them out")
    if timeout := _whole(parameters, "timeout"):
        call.expire_in(timeout / 1e6)
    if priority := _whole(parameters, "priority"):
        call.priority = min(priority, LOWEST_PRIORITY)


def _whole(parameters: Parameters, name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise InvalidInput(f"the parameter '{name}' is a whole number of 64 bits, 0 or more")
    return value


def _flag(parameters: Parameters, name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if value is not True and value is not False:
        raise InvalidInput(f"the parameter '{name}' is true or false")
    return value


def _wanted(call: Call, outputs: list[RequestedOutput] | None, default: bool) -> Sequence[WantedOutput]:
    deployment = call.deployment
    known = known_of(deployment)
    if not outputs:
        if default:
            return known.all_binary
        if known.no_json is not None:
            _refuse_json(known.no_json)
        return known.all_json
    specs = {spec.name: spec for spec in known.outputs}
    wanted = []
    for output in outputs:
        if (spec := specs.pop(output.name, None)) is None:
            if any(output.name == known_spec.name for known_spec in known.outputs):
                raise InvalidInput("an output is requested twice")
            raise InvalidInput(f"unexpected inference output '{output.name[:64]}' for model '{deployment.endpoint}'")
        if not output.parameters:
            one = WantedOutput(output.name, default)
        else:
            one = _wanted_output(output, spec, default, call.rows)
        if not one.is_binary and not one.classes and spec.datatype in BINARY_ONLY:
            _refuse_json(spec)
        wanted.append(one)
    return wanted


def _wanted_output(output: RequestedOutput, spec: TensorSpec, default: bool, rows: int) -> WantedOutput:
    label = f"output '{spec.name}'"
    if unknown := set(output.parameters) - _OUTPUT_PARAMETERS:
        raise InvalidInput(f"{label}: the parameters {sorted(name[:64] for name in unknown)} are not served")
    classes = _whole(output.parameters, "classification")
    if classes and (spec.datatype in ("BYTES", "BOOL") or len(spec.shape) > 2):
        raise InvalidInput(f"{label} is no list of numbers for each row, so it has no classification")
    if classes * rows > MAX_CLASSES:
        raise InvalidInput(f"{label}: classification x rows is above the limit of {MAX_CLASSES}")
    return WantedOutput(spec.name, _flag(output.parameters, "binary_data", default), classes)


def _refuse_json(spec: TensorSpec) -> None:
    raise InvalidInput(
        f"output '{spec.name}' is {spec.datatype}, which has no JSON form; ask for it with \"binary_data\": true"
    )
