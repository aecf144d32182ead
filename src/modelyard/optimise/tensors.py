"""Bring a graph of tensors: an ONNX file whose inputs are no columns of a table becomes a version, as it is.

For parts of a pipeline, such as a network that takes images. There is no sample to prove it with: its own names,
datatypes and shapes are its signature, and whether its rows are independent is measured.
"""

from __future__ import annotations

import datetime
import tempfile
from importlib.metadata import version
from pathlib import Path

import msgspec

from modelyard.artifacts.manifest import Lineage, Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelyardError, NotFound
from modelyard.contract.features import Contract
from modelyard.contract.names import check_name
from modelyard.contract.signature import Signature
from modelyard.contract.tensor import Tensors
from modelyard.optimise.free_rows import FREE_SIZES, with_free_rows
from modelyard.optimise.graph_file import open_session, tensor_spec
from modelyard.runtimes import conformance
from modelyard.runtimes.base import Runtime
from modelyard.runtimes.catalogue import open_runtime


def package_tensors(
    model: str | Path | bytes, name: str, example: Tensors | None = None
) -> tuple[Manifest, dict[str, bytes]]:
    """An ONNX graph as a manifest and files: `Shelf.put(manifest, files)`.

    The first dimension of every tensor is the rows. example: tensors of two or more rows that it takes; else such are
    made up. Raises InvalidInput for what is no sound graph or takes no example, NotFound for a missing file,
    ModelFailed where a promise is broken that serving needs.
    """
    check_name("model", name)
    source, brought = _read(model)
    data = with_free_rows(brought)
    session = open_session(data)
    inputs, outputs = (tuple(map(tensor_spec, side)) for side in (session.get_inputs(), session.get_outputs()))
    manifest = Manifest(
        model=name,
        task="tensor",
        framework="onnx",
        runtime="onnx",
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={},
        signature=Signature(inputs, outputs, "tensors"),
        contract=Contract(()),
        lineage=Lineage(source=f"brought: {source}", packages={one: version(one) for one in ("numpy", "onnxruntime")}),
    )
    files = {"model.onnx": data}
    found = _measured(manifest, files, example)
    manifest = msgspec.structs.replace(manifest, independent_rows=conformance.rows_are_independent(found))
    listed = "".join(f"- {'kept' if one.is_kept else 'broken'}: {one.name} ({one.seen})\n" for one in found)
    how = "as it is" if data == brought else "for any number of rows, which changed no answer"
    card = f"# {name}\n\nAn ONNX graph that was brought, served {how}.\n\nWhat the conformance kit saw:\n\n{listed}"
    return manifest, files | {"card.md": card.encode()}


def metadata_of(data: bytes, key: str) -> str:
    """What an ONNX graph says under a key of its metadata. Raises InvalidInput that lists the keys."""
    told: dict[str, str] = open_session(data).get_modelmeta().custom_metadata_map
    if key not in told:
        raise InvalidInput(f"the graph's metadata has no {key!r}; it has {', '.join(told) or 'none'}")
    return told[key]


def _read(model: str | Path | bytes) -> tuple[str, bytes]:
    if isinstance(model, bytes):
        return "bytes", model
    path = Path(model)
    if not path.is_file():
        raise NotFound(f"there is no file {path.name!r}; check the path")
    return path.name, path.read_bytes()


def _takes(runtime: Runtime, inputs: Tensors) -> bool:
    try:
        runtime.predict(inputs)
    except ModelyardError:
        raise
    except Exception:  # ONNX Runtime's exceptions share no base class: another size may suit the graph
        return False
    return True


def _measured(manifest: Manifest, files: dict[str, bytes], example: Tensors | None) -> list[conformance.Promise]:
    """What the kit sees on the example, or on made-up tensors of a size that the graph takes."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        runtime = open_runtime(shelf.open(shelf.put(manifest, files)))
        try:
            if example is not None:
                return conformance.check(runtime, example)
            for size in FREE_SIZES:
                made_up = conformance.random_tensors(manifest.signature.inputs, 3, size)
                if _takes(runtime, made_up):
                    return conformance.check(runtime, made_up)
        finally:
            runtime.close()
    raise InvalidInput(f"the graph of {manifest.model} takes no made-up tensors; give an example of two rows or more")
