"""A pipeline as a value, the file `pipeline.json`: steps in their order, and what of them becomes an output.

Nothing here is code: a step is a registered version or a built-in with parameters. `check` follows what flows from one
to the next and refuses what does not fit before anything is loaded; loading checks the same again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from modelyard.artifacts.manifest import Manifest
from modelyard.contract.errors import InvalidInput
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.runtimes.image_steps import Boxes, Crop, DecodeImage, Lines, Normalise, Resize, Turn
from modelyard.runtimes.pipeline_flows import ROWS, Flow, expect, one_axis
from modelyard.runtimes.pipeline_steps import Argmax, Concat, CtcDecode, Select, Softmax, Standardise

FILE = "pipeline.json"
TABLE = "rows"  # what the matrix of a table's version is called

AnyBuiltIn = (
    DecodeImage | Resize | Normalise | Boxes | Crop | Turn | Lines | Softmax | Argmax | Standardise | Select | Concat
    | CtcDecode
)  # fmt: skip


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step: a built-in, or the member of the same name. takes, gives: its own names for what goes in and comes
    out -> the names that they have in the pipeline."""

    name: str
    takes: dict[str, str]
    gives: dict[str, str]
    does: AnyBuiltIn | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.takes or not self.gives:
            raise ValueError(f"step {self.name!r}: a step has a name, takes something and gives something")


class PipelineRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All steps, and the outputs by their names."""

    steps: tuple[Step, ...]
    outputs: dict[str, str]  # output -> the name that it has in the pipeline
    rows_at_once: int = 0  # that go through all steps together; 0: all of a batch. Images go one by one
    made_rows_at_once: int = 8  # the same of rows that a step makes, such as the boxes of a page

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"steps are named twice: {', '.join(doubled)}")
        if not names or not self.outputs:
            raise ValueError("a pipeline has steps and outputs")
        if self.rows_at_once < 0 or self.made_rows_at_once < 1:
            raise ValueError("rows_at_once is 0 (all) or more, and made_rows_at_once at least 1")


def check(
    recipe: PipelineRecipe, signature: Signature, columns: int, members: Mapping[str, Manifest]
) -> dict[str, Flow]:
    """What every name of the pipeline stands for. signature, columns: what goes in, and of a table how many features
    it has. members: manifests by the names of their steps. Raises InvalidInput that names the step and what is wrong.
    """
    if signature.layout == "tensors":
        flows = {spec.name: flow_of(spec) for spec in signature.inputs}
    else:
        flows = {TABLE: Flow("FP32", (-1, columns))}
    for step in recipe.steps:
        try:
            given = {port: _known(flows, name) for port, name in step.takes.items()}
            made = _made_by(step, given, members)
        except InvalidInput as error:
            raise InvalidInput(f"step {step.name!r}: {error}") from None
        for port, name in step.gives.items():
            if name in flows:
                raise InvalidInput(f"step {step.name!r}: there is a {name!r} already; give it another name")
            flows[name] = made[port]
    for output, name in recipe.outputs.items():
        flow = _known(flows, name)
        if flow.axis != ROWS or flow.is_ragged:
            raise InvalidInput(
                f"output {output!r} is {flow} of {flow.axis or 'the input'}; an output has one answer for each row of "
                "the input, all of one shape: gather it first"
            )
    return flows


def flow_of(spec: TensorSpec) -> Flow:
    """What a tensor of a signature is, as it comes in."""
    return Flow(spec.datatype, spec.shape)


def _known(flows: Mapping[str, Flow], name: str) -> Flow:
    if name not in flows:
        raise InvalidInput(f"there is no {name!r} yet; there are {', '.join(flows)}")
    return flows[name]


def _made_by(step: Step, given: Mapping[str, Flow], members: Mapping[str, Manifest]) -> dict[str, Flow]:
    if step.does is not None:
        ports, made = step.does.takes, None
        if ports and set(ports) != set(given):
            raise InvalidInput(f"it takes {', '.join(ports)} and is given {', '.join(given)}")
        made = step.does.flows(given, step.name)
    else:
        made = _made_by_member(members[step.name], given)
    if unknown := [port for port in step.gives if port not in made]:
        raise InvalidInput(f"it gives {', '.join(made)}, and no {unknown[0]!r}")
    return made


def _made_by_member(manifest: Manifest, given: Mapping[str, Flow]) -> dict[str, Flow]:
    if manifest.signature.layout == "tensors":
        wanted = {spec.name: (spec.datatype, spec.shape) for spec in manifest.signature.inputs}
    else:
        wanted = {TABLE: ("FP32", (-1, len(manifest.contract.features)))}
    if set(wanted) != set(given):
        raise InvalidInput(f"it takes {', '.join(wanted)} and is given {', '.join(given)}")
    axis = one_axis(given)
    for port, (datatype, shape) in wanted.items():
        if expect(given[port], port, (datatype,), shape).is_ragged and shape[1:].count(-1) == 0:
            raise InvalidInput(f"{port!r} has rows of one shape, and is given {given[port]}")
    is_ragged = any(flow.is_ragged for flow in given.values())
    return {
        spec.name: Flow(spec.datatype, spec.shape, axis, is_ragged and -1 in spec.shape[1:])
        for spec in manifest.signature.outputs
    }
