"""A pipeline as people write it, in TOML: inputs, steps, outputs; read into the value that an artifact holds.

Parameters that stand in a file or in a model's own metadata (the characters of a recogniser) are looked up here, once;
what is served holds them itself.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Tensors
from modelyard.runtimes.pipeline_recipe import AnyBuiltIn


class InputTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor that callers send."""

    datatype: str
    shape: tuple[int, ...]


class Lookup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a list of texts stands: line by line in a file, or under a key of a version's ONNX metadata."""

    file: str = ""
    version: str = ""
    key: str = ""
    then: tuple[str, ...] = ()  # what comes after them

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.version) or bool(self.version) != bool(self.key):
            raise ValueError("it stands in a `file`, or in the metadata of a `version` under a `key`")


class StepTable(msgspec.Struct, frozen=True):
    """One step: `do` names a built-in, `version` a registered version; further keys are the built-in's parameters."""

    name: str
    do: str = ""
    version: str = ""
    takes: dict[str, str] = {}
    gives: dict[str, str] = {}
    parameters: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if bool(self.do) == bool(self.version):
            raise ValueError(f"step {self.name!r} does something built in (`do`) or is a `version`, not both")
        if self.version and self.parameters:
            raise ValueError(f"step {self.name!r}: a version has no parameters; not so {', '.join(self.parameters)}")


class PipelineFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. rows: a registered version of a table whose rows the pipeline takes, instead of `inputs`."""

    steps: tuple[StepTable, ...]
    outputs: dict[str, str]
    inputs: dict[str, InputTable] = {}
    rows: str = ""
    example: dict[str, list[Any]] = {}  # of each input two values or more; of images, file names
    rows_at_once: int | None = None
    made_rows_at_once: int = 8

    def __post_init__(self) -> None:
        if bool(self.inputs) == bool(self.rows):
            raise ValueError("a pipeline takes `inputs`, or the `rows` of a registered version; not both, not neither")

    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs as a signature has them."""
        return tuple(TensorSpec(name, table.datatype, table.shape) for name, table in self.inputs.items())


_OWN = ("name", "do", "version", "takes", "gives")


def read_pipeline(path: str | Path) -> PipelineFile:
    """The pipeline in a TOML file. Raises NotFound, or InvalidInput that says where it is wrong."""
    path = Path(path)
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise NotFound(f"there is no file {path.name!r}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path.name}: not TOML: {error}") from None
    return pipeline_of(told, path.name)


def pipeline_of(told: dict[str, Any], where: str = "the pipeline") -> PipelineFile:
    """The same from its tables. Raises InvalidInput."""
    steps = told.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise InvalidInput(f"{where}: there are no [[steps]]")
    parted = [
        {name: value for name, value in step.items() if name in _OWN}
        | {"parameters": {name: value for name, value in step.items() if name not in _OWN}}
        for step in steps
    ]
    try:
        file = msgspec.convert(told | {"steps": parted}, PipelineFile)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{where}: {error}") from None
    for spec in file.specs():
        if spec.datatype not in NUMPY_TYPES or not spec.shape or spec.shape[0] != -1:
            raise InvalidInput(
                f"{where}: input {spec.name!r} has a datatype of V2 and a shape that begins with -1, the rows"
            )
    return file


def built_in(step: StepTable, parameters: dict[str, Any]) -> AnyBuiltIn:
    """The built-in of a step. Raises InvalidInput for an unknown one, or a parameter that it has not."""
    try:
        found: AnyBuiltIn = msgspec.convert({"do": step.do} | parameters, AnyBuiltIn)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"step {step.name!r}: {error}") from None
    return found


def example_tensors(file: PipelineFile, images: set[str], folder: Path) -> Tensors | None:
    """The example's values as tensors; None if there is none. images: inputs whose values are names of image files."""
    if not file.example:
        return None
    if set(file.example) != set(file.inputs):
        raise InvalidInput(f"the example holds {', '.join(file.example)}, and the inputs are {', '.join(file.inputs)}")
    if min(len(values) for values in file.example.values()) < 2:
        raise InvalidInput("the example has two rows or more")
    return {name: _tensor(file.inputs[name], values, name in images, folder) for name, values in file.example.items()}


def _tensor(table: InputTable, values: list[Any], is_image: bool, folder: Path) -> np.ndarray:
    if is_image:
        values = [_file(folder, str(name)) for name in values]
    if table.datatype == "BYTES":
        texts = np.empty(len(values), dtype=object)
        texts[:] = values
        return texts
    try:
        return np.array(values, dtype=NUMPY_TYPES[table.datatype])
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"the example's values are no {table.datatype} of one shape") from None


def _file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {Path(name).name!r} beside the pipeline's own") from None
