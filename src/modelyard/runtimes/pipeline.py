"""A pipeline at work: what one step gives, the next one takes; each is timed, and the one that fails is named.

Rows that a step makes go through the steps that follow a few at a time, so that a page full of text takes no more
memory than a line; so do the pipeline's own rows where its recipe says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput, ModelFailed
from modelyard.contract.tensor import NUMPY_TYPES, Matrix, Tensors
from modelyard.runtimes.image_steps import NEED_PILLOW
from modelyard.runtimes.members import open_members, timed
from modelyard.runtimes.pipeline_flows import ROWS, Flow, groups, ragged, ungrouped
from modelyard.runtimes.pipeline_recipe import FILE, TABLE, PipelineRecipe, Step, check
from modelyard.runtimes.timed import TimedOutputs
from modelyard.runtimes.version import LoadedVersion

EXAMPLE = "example.msgpack"


class ExampleTensor(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of the rows that a pipeline was proven on: texts and bytes as they are, numbers little-endian."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any  # bytes, or a list of texts and bytes


class _Stage(NamedTuple):
    """Steps that work on the same rows, and which of what they give is wanted after them."""

    axis: str
    steps: tuple[tuple[int, Step], ...]  # with their positions
    kept: tuple[str, ...]


class PipelineRuntime:
    """The steps with what they need. Several threads may call it at once if every member allows that."""

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        manifest = artifact.manifest
        self.recipe = msgspec.json.decode(artifact.read(FILE), type=PipelineRecipe)
        if any(isinstance(step.does, NEED_PILLOW) for step in self.recipe.steps) and find_spec("PIL") is None:
            raise InvalidInput(f"{manifest.model} opens images, which needs Pillow: pip install 'modelyard[image]'")
        named = [member.role for member in manifest.members]
        self._versions: dict[str, LoadedVersion] = dict(zip(named, open_members(artifact, threads), strict=True))
        manifests = {name: version.manifest for name, version in self._versions.items()}
        self._flows = check(self.recipe, manifest.signature, len(manifest.contract.features), manifests)
        self._stages = _stages(self.recipe, self._flows)
        self._from_table = manifest.signature.layout != "tensors"
        self.steps = manifest.steps
        self.is_thread_safe = all(version.runtime.is_thread_safe for version in self._versions.values())
        self.example = read_example(artifact.read(EXAMPLE)) if EXAMPLE in manifest.files else None

    def predict(self, inputs: Tensors) -> Tensors:
        """See `Runtime.predict`. What it raises names the step that failed."""
        took_ns = [0] * len(self.steps)
        count = min(len(values) for values in inputs.values())
        at_once = self.recipe.rows_at_once or count
        parts = [
            self._outputs({name: values[at : at + at_once] for name, values in inputs.items()}, at, took_ns)
            for at in range(0, count, at_once)
        ]
        whole = parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
        return TimedOutputs(whole, took_ns)

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """None: what moved the last step's answer is known only in terms of the step before it."""
        return None

    def close(self) -> None:
        """Give every member back."""
        for version in self._versions.values():
            version.close()

    def _outputs(self, inputs: Tensors, first_row: int, took_ns: list[int]) -> Tensors:
        held = dict(inputs)
        for stage in self._stages:
            if stage.axis == ROWS:
                for at, step in stage.steps:
                    held |= self._run(at, step, held, first_row, took_ns)
            else:
                held |= self._in_slices(stage, held, took_ns)
        return {output: held[name] for output, name in self.recipe.outputs.items()}

    def _in_slices(self, stage: _Stage, held: Tensors, took_ns: list[int]) -> Tensors:
        """The steps of a stage on a few rows at a time; of what they give, only what is wanted afterwards is kept."""
        mine = {name: values for name, values in held.items() if self._flows[name].axis == stage.axis}
        count, at_once = len(next(iter(mine.values()))), self.recipe.made_rows_at_once
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in stage.kept}
        for start in range(0, max(count, 1), at_once):
            part = {name: values[start : start + at_once] for name, values in mine.items()}
            for at, step in stage.steps:
                part |= self._run(at, step, part, 0, took_ns)
            for name, values in parts.items():
                values.append(part[name])
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _run(self, at: int, step: Step, held: Tensors, first_row: int, took_ns: list[int]) -> Tensors:
        given = {port: held[name] for port, name in step.takes.items()}
        if not any(len(values) for values in given.values()):
            return {name: _nothing(self._flows[name]) for name in step.gives.values()}
        ask = partial(self._ask, step) if step.does is None else step.does.run
        try:
            made, ns = timed(ask, given, step.name)
        except InvalidInput as error:
            raise _told(error, step, first_row) from None
        took_ns[at] += ns
        return {name: made[port] for port, name in step.gives.items()}

    def _ask(self, step: Step, given: Tensors) -> Tensors:
        """A member's answer; rows of different shapes are asked in groups of one shape."""
        version = self._versions[step.name]
        first = next(iter(step.takes))
        is_ragged = any(self._flows[name].is_ragged for name in step.takes.values())
        if not is_ragged and version.manifest.independent_rows:
            return self._asked(step, given)
        count = len(given[first])
        rows = [np.array([row]) for row in range(count)]
        if version.manifest.independent_rows and len(given) == 1:
            rows = [group for group, _ in groups(given[first])]
        answers = [(group, self._asked(step, {port: _taken(v, group) for port, v in given.items()})) for group in rows]
        return {
            port: ungrouped([(group, answer[port]) for group, answer in answers], count, self._flows[name].is_ragged)
            for port, name in step.gives.items()
        }

    def _asked(self, step: Step, given: Tensors) -> Tensors:
        version = self._versions[step.name]
        if not version.is_table:
            return version.predict(given)
        matrix = given[TABLE]
        if matrix.shape[1] != len(version.encoder.names):
            raise ModelFailed(f"it takes {len(version.encoder.names)} columns and is given {matrix.shape[1]}")
        # What callers sent was held to its contract already; what a step made is held to it here.
        is_sent = self._from_table and step.takes[TABLE] == TABLE
        return version.predict(matrix if is_sent else version.encoder.encode_matrix(matrix))


def _stages(recipe: PipelineRecipe, flows: dict[str, Flow]) -> tuple[_Stage, ...]:
    """Neighbouring steps that take and give only rows of one and the same axis are one stage."""
    found: list[tuple[str, list[tuple[int, Step]]]] = []
    for at, step in enumerate(recipe.steps):
        axes = {flows[name].axis for name in (*step.takes.values(), *step.gives.values())}
        axis = axes.pop() if len(axes) == 1 else ROWS
        if found and found[-1][0] == axis:
            found[-1][1].append((at, step))
        else:
            found.append((axis, [(at, step)]))
    stages = []
    for axis, steps in found:
        given = [name for _, step in steps for name in step.gives.values()]
        after = recipe.steps[steps[-1][0] + 1 :]
        wanted = {*recipe.outputs.values(), *(name for step in after for name in step.takes.values())}
        stages.append(_Stage(axis, tuple(steps), tuple(name for name in given if name in wanted)))
    return tuple(stages)


def _nothing(flow: Flow) -> NDArray[Any]:
    """No rows of a flow."""
    if flow.is_ragged:
        return ragged([])
    return np.empty((0, *(max(size, 0) for size in flow.shape[1:])), dtype=NUMPY_TYPES[flow.datatype])


def _taken(values: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Some rows as one array; ragged ones have one shape here."""
    taken = values[rows]
    return np.stack(list(taken)) if taken.dtype == object and isinstance(taken[0], np.ndarray) else taken


def _told(error: InvalidInput, step: Step, first_row: int) -> InvalidInput:
    """The same refusal in the pipeline's own words: its names, and rows as the caller counts them."""
    moved = tuple(
        msgspec.structs.replace(
            one,
            row=None if one.row is None else one.row + first_row,
            column=step.takes.get(one.column or "", one.column),
        )
        for one in error.violations
    )
    if not moved:
        return error
    first, more = moved[0], len(moved) - 1
    where = f"row {first.row}: column {first.column!r} " if first.row is not None else ""
    tail = f" (and {more} more)" if more else ""
    return InvalidInput(f"step {step.name!r}: {where}{first.message}{tail}", moved)


def write_example(tensors: Tensors, datatypes: dict[str, str]) -> bytes:
    """Tensors as the file `example.msgpack`."""
    told = []
    for name, values in tensors.items():
        data = values.reshape(-1).tolist() if values.dtype == object else _little(values)
        told.append(ExampleTensor(name, datatypes[name], values.shape, data))
    return msgspec.msgpack.encode(told)


def read_example(data: bytes) -> Tensors:
    """The tensors in a file `example.msgpack`. Raises InvalidInput."""
    try:
        told: Sequence[ExampleTensor] = msgspec.msgpack.decode(data, type=list[ExampleTensor])
        return {one.name: _array(one) for one in told}
    except (msgspec.MsgspecError, KeyError, ValueError):
        raise InvalidInput(f"{EXAMPLE} cannot be read; compose the pipeline anew") from None


def _little(values: NDArray[Any]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _array(told: ExampleTensor) -> NDArray[Any]:
    if isinstance(told.data, list):
        texts = np.empty(len(told.data), dtype=object)
        texts[:] = told.data
        return texts.reshape(told.shape)
    dtype = NUMPY_TYPES[told.datatype]
    return np.frombuffer(told.data, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(told.shape)
