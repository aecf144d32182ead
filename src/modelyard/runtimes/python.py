"""A user's own class as a version: imported where it is installed, in model workers only.

What such a class looks like is said by `OwnModel`; nothing is inherited from, a class that has the parts is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.manifest import Code
from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput, ModelFailed
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, Matrix, Tensors

_KINDS = {"b": "b", "i": "biu", "u": "biu", "f": "biuf", "O": "OUST"}  # of a declared type -> of what may be returned


class OwnModel(Protocol):
    """What a class of your own has. Only these parts are needed; those named below may be there too.

    `inputs` and `outputs` say what goes in and out: name -> (V2 datatype, shape); a shape's first -1 is the number of
    rows, a further -1 is free. BYTES arrays hold `str` (or `bytes` where the text is not UTF-8).

    May be there too: `setup(files)`, called once before anything else with the folder of the version's files, or None;
    `stream(inputs) -> Iterator[dict]`, one row's answer piece by piece; `example`, inputs of two or more rows that the
    model takes, where made-up numbers would not do; `independent_rows = False`, if a row's answer depends on its
    neighbours: then callers' rows are never joined; `close()`, called once at the end.

    All are called from one thread, never two at once. Arrays that go in are the caller's until the call returns: copy
    what is to be kept. Raise `modelyard.contract.errors.InvalidInput` to refuse an input; whatever else is raised
    fails that call alone.
    """

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]

    def predict(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer a batch, of one row or many: row i of every output belongs to row i of the inputs."""


class PythonRuntime:
    """One object of a user's class."""

    is_thread_safe = False

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        code = artifact.manifest.code
        if code is None or not artifact.manifest.trusted:
            raise InvalidInput("the artifact names no trusted class; register it with `modelyard models register`")
        now = code_of(code.entry)
        if code.digest and now.digest != code.digest:
            was, is_ = code.distribution or "the code that was registered", now.distribution or "other code"
            raise InvalidInput(f"{code.entry}: installed is {is_}, not {was}; install that, or register a new version")
        self._hold(code.entry, artifact.folder if artifact.manifest.files else None)

    @classmethod
    def of(cls, entry: str, files: Path | None = None) -> PythonRuntime:
        """The class that `entry` (`package.module:Class`) names, set up. Raises InvalidInput that names what lacks."""
        runtime = cls.__new__(cls)
        runtime._hold(entry, files)
        return runtime

    def _hold(self, entry: str, files: Path | None) -> None:
        self.entry = entry
        found = _find(entry)
        self.signature = signature_of(found, entry)
        self.independent_rows = bool(getattr(found, "independent_rows", True))
        self.streams = callable(getattr(found, "stream", None))
        self._outputs = {spec.name: spec for spec in self.signature.outputs}
        self._model = found()
        if hasattr(self._model, "setup"):
            self._model.setup(files)

    @property
    def example(self) -> Tensors | None:
        """Inputs that the class says it takes; None if it says nothing."""
        given = getattr(self._model, "example", None)
        if callable(given):
            given = given()
        return None if given is None else {name: np.asarray(values) for name, values in given.items()}

    def predict(self, inputs: Tensors) -> Tensors:
        """See `Runtime.predict`. Raises ModelFailed where the outputs are not what the class declares."""
        outputs = self._model.predict(inputs)
        answers = self._checked(outputs)
        if missing := self._outputs.keys() - answers.keys():
            raise ModelFailed(f"{self.entry}: predict gave no {', '.join(sorted(missing))}")
        return answers

    def stream(self, inputs: Tensors) -> Iterator[Tensors]:
        """One row's answer piece by piece; each piece holds some of the outputs, of any length."""
        for piece in self._model.stream(inputs):
            yield self._checked(piece)

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """None: what moved such a model is not known here."""
        return None

    def close(self) -> None:
        """Let the object clean up, and let go of it."""
        if hasattr(self._model, "close"):
            self._model.close()
        del self._model

    def _checked(self, outputs: object) -> Tensors:
        if not isinstance(outputs, Mapping):
            raise ModelFailed(f"{self.entry}: an answer is a dictionary, output name -> array")
        if unknown := outputs.keys() - self._outputs.keys():
            raise ModelFailed(f"{self.entry}: an answer holds {len(unknown)} outputs that `outputs` does not name")
        return {name: _typed(values, self._outputs[name], self.entry) for name, values in outputs.items()}


def code_of(entry: str) -> Code:
    """What is installed under `package.module:Class`: its distribution, and the digest of its module's source.

    Imports the packages around the module, not the module. Raises InvalidInput if there is none.
    """
    check_entry(entry)
    module = entry.partition(":")[0]
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise InvalidInput(f"{entry}: there is no module {module!r} here; install it where the gateway runs")
    names = packages_distributions().get(module.partition(".")[0], ())
    source = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    return Code(entry, f"{names[0]}=={version(names[0])}" if names else "", source)


def signature_of(model: Any, entry: str) -> Signature:
    """What a class takes and gives. Raises InvalidInput that names what lacks or is wrong."""
    if not callable(getattr(model, "predict", None)):
        raise InvalidInput(f"{entry} has no method `predict(self, inputs)`")
    sides: list[tuple[TensorSpec, ...]] = []
    for side in ("inputs", "outputs"):
        declared = getattr(model, side, None)
        if not isinstance(declared, Mapping) or not declared:
            raise InvalidInput(f'{entry} has no `{side} = {{"name": ("FP32", (-1, 20))}}`')
        sides.append(tuple(_spec(name, what, f"{entry}: {side}") for name, what in declared.items()))
    if getattr(model, "independent_rows", True):
        for spec in (*sides[0], *sides[1]):
            if spec.shape[0] != -1:
                raise InvalidInput(
                    f"{entry}: the shape of {spec.name!r} begins with -1, the number of rows, unless the class says "
                    "`independent_rows = False`"
                )
    return Signature(sides[0], sides[1], "tensors")


def _find(entry: str) -> Any:
    check_entry(entry)
    module, _, name = entry.partition(":")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise InvalidInput(
                f"{entry}: there is no module {error.name!r} here; install it where the gateway runs"
            ) from None
        raise
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise InvalidInput(f"{entry}: {module} has no class {name!r}")
    return found


def check_entry(entry: str) -> None:
    """Raises InvalidInput unless this is written as `package.module:Class`."""
    module, colon, name = entry.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise InvalidInput(f"{entry[:100]!r} is not written as package.module:Class")


def _spec(name: object, what: Any, where: str) -> TensorSpec:
    try:
        datatype, shape = what
        sizes = tuple(int(size) for size in shape)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"{where}: {str(name)[:50]!r} is written as (datatype, shape), as in ('FP32', (-1, 20))"
        ) from None
    if not isinstance(name, str) or not name or datatype not in NUMPY_TYPES:
        raise InvalidInput(f"{where}: {str(name)[:50]!r} has a datatype among {', '.join(NUMPY_TYPES)}")
    if not sizes or min(sizes) < -1 or 0 in sizes:
        raise InvalidInput(f"{where}: the shape of {name!r} has sizes above 0, or -1")
    return TensorSpec(name, datatype, sizes)


def _typed(values: object, spec: TensorSpec, entry: str) -> NDArray[Any]:
    """An output as it was declared. Numbers may be widened or shortened, but floats never become whole numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.empty(0, dtype="V1")
    wanted = NUMPY_TYPES[spec.datatype]
    if array.dtype.kind not in _KINDS[wanted.kind]:
        raise ModelFailed(f"{entry}: output {spec.name!r} is declared {spec.datatype}, and is {array.dtype} here")
    fits = array.ndim == len(spec.shape) and all(
        size in (-1, there) for size, there in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise ModelFailed(
            f"{entry}: output {spec.name!r} is declared {list(spec.shape)}, and is {list(array.shape)} here"
        )
    return array.astype(wanted, copy=False)
