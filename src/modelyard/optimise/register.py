"""Bring your own model: convert it, prove it equal, package it; or say why not.

The rule of equality: original and package both see the sample's rows, rows mixed from its values, and edge rows, all
rounded to float32 as every caller's rows are. Their answers may differ by 1e-5: of one, of the answer, or of the median
answer to the sample, whichever is largest.
"""

from __future__ import annotations

import datetime
import hashlib
import tempfile
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from modelyard.artifacts.manifest import Lineage, Manifest, Parity
from modelyard.artifacts.store import Shelf
from modelyard.contract.encoding import Encoder
from modelyard.contract.errors import InvalidInput, ModelyardError, NotFound
from modelyard.contract.features import Contract, Target
from modelyard.contract.names import check_name
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.contract.tensor import Matrix
from modelyard.data.rows import json_rows
from modelyard.optimise.estimator_graph import Converted, convert
from modelyard.optimise.estimators import Brought, describe_estimator, load_estimator
from modelyard.optimise.free_rows import with_free_rows
from modelyard.optimise.graph_file import Graph, Same, open_session, read_graph
from modelyard.optimise.graph_forest import GraphForest, read_forest
from modelyard.optimise.held import file_of, package_held
from modelyard.optimise.parity import TOLERANCE, ParityFailed, edge_rows, prove, prove_ways
from modelyard.optimise.sample import Sample, probe_rows, read_sample, sample_contract
from modelyard.optimise.tensors import package_tensors
from modelyard.optimise.trees import thresholds
from modelyard.runtimes import conformance
from modelyard.runtimes.answers import answer_name
from modelyard.runtimes.base import Runtime
from modelyard.runtimes.catalogue import open_runtime
from modelyard.runtimes.forest import FILE, ForestRuntime

MARGINS = (10.0, 2.0, 0.0)  # how far beyond the sample callers may go: as far as the package proves exact
_DATATYPES = {"number": "FP64", "integer": "INT64", "category": "BYTES", "boolean": "BOOL"}
_SAMPLES = 4

Served = Literal["onnx", "native"]


def register(
    model: Any,
    sample: Any,
    name: str,
    *,
    target: str | None = None,
    trust: bool = False,
    runtime: Served = "onnx",
    note: str = "",
) -> tuple[str, int]:
    """Package a model, put it on the shelf and register it; the model's name and the new version's number.

    model, sample, target, trust, runtime: as in `package_model`, which also says what is raised.
    """
    manifest, files = package_model(model, sample, name, target, trust=trust, runtime=runtime)
    # The one seam to the control plane: this room must not import it, and only a caller of `register` wants it.
    work = import_module("modelyard.control.registry.work")
    registered: tuple[str, int] = work.register_packaged(manifest, files, note=note)
    return registered


def package_model(
    model: Any, sample: Any, name: str, target: str | None = None, *, trust: bool = False, runtime: Served = "onnx"
) -> tuple[Manifest, dict[str, bytes]]:
    """A model as a manifest and files, proven: `Shelf.put(manifest, files)`.

    model: a file (.onnx, LightGBM .txt, XGBoost .json or .ubj, .skops, and with `trust` a pickle), ONNX bytes, or a
    fitted scikit-learn, LightGBM or XGBoost estimator; or the folder of a text encoder, which needs no sample (None).
    sample: rows that it takes, as a frame or a file; its column `target`, if named, is not a feature. Without one an
    ONNX graph takes tensors as they are: images, token ids, whatever is no column of a table. runtime: convert it
    to ONNX, or keep it `native`, as it is, to be served by its own framework in model workers. Raises InvalidInput
    or ParityFailed with the reason, NotFound for a missing file.
    """
    check_name("model", name)
    if isinstance(model, str | Path) and Path(model).is_dir():
        return _package_text(Path(model), sample, name, target)
    data = _onnx_bytes(model)
    if data is not None and runtime == "native":
        raise InvalidInput("an ONNX graph is served by ONNX Runtime; leave --runtime native out")
    if sample is None:
        return _package_tensors(model, data, name, target)
    rows = read_sample(sample)
    if target is not None and target not in rows.table.columns:
        raise InvalidInput(f"the sample has no column {target!r} to be the target")
    source = Path(model).name if isinstance(model, str | Path) else type(model).__name__
    if data is not None:
        return _package_graph(read_graph(with_free_rows(data)), data, rows, name, target, source)
    path = Path(model) if isinstance(model, str | Path) else None
    brought = describe_estimator(load_estimator(path, trust) if path is not None else model, rows, target)
    with threadpool_limits(1):  # the original's threads would wait for each other, on a machine that serves meanwhile
        if runtime == "native":
            return _package_held(brought, path, trust, rows, name, target, source)
        return _package_estimator(brought, rows, name, target, source)


def _onnx_bytes(model: Any) -> bytes | None:
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_file():
            raise NotFound(f"there is no file {path.name!r}; check the path")
        return path.read_bytes() if path.suffix.lower() == ".onnx" else None
    if hasattr(model, "SerializeToString"):  # an onnx.ModelProto
        return bytes(model.SerializeToString())
    return None


def _package_text(folder: Path, sample: Any, name: str, target: str | None) -> tuple[Manifest, dict[str, bytes]]:
    if sample is not None or target is not None:
        raise InvalidInput("a folder is a text encoder: it takes texts, so leave the sample and the target out")
    # Named, not imported: only who brings text needs the library tokenizers.
    text = import_module("modelyard.optimise.text")
    packaged: tuple[Manifest, dict[str, bytes]] = text.package_text_model(folder, name)
    return packaged


def _package_tensors(
    model: Any, data: bytes | None, name: str, target: str | None
) -> tuple[Manifest, dict[str, bytes]]:
    if data is None:
        raise InvalidInput("--sample is missing: a table with some rows that the model takes")
    if target is not None:
        raise InvalidInput("a graph of tensors has no target; give a sample, if its inputs are columns of a table")
    return package_tensors(model if isinstance(model, str | Path) else data, name)


# --- a graph ----------------------------------------------------------------------------------------------------


def _package_graph(
    graph: Graph, data: bytes, sample: Sample, name: str, target: str | None, source: str
) -> tuple[Manifest, dict[str, bytes]]:
    columns = _graph_columns(graph, sample, target)
    contract = sample_contract(sample, columns, _target(target, graph.classes), {}, MARGINS[0])
    _fits(graph, contract, columns)
    manifest = _manifest(name, "onnx", graph.task, contract, graph.outputs, sample, source)
    layout: Literal["matrix", "columns"] = "matrix" if graph.takes_matrix(columns) else "columns"
    manifest = msgspec.structs.replace(manifest, signature=Signature(graph.inputs, graph.outputs, layout))
    files = {"model.onnx": graph.data}
    found = read_forest(graph.data) if layout == "matrix" else None
    if found is not None and (tables := found.tables()) is not None:
        files[FILE] = tables.dump()
    manifest, rows = _prove_graph(manifest, files, data, graph, sample, found)
    return manifest, files | _samples(manifest, files, contract, sample, rows, graph.answer)


def _graph_columns(graph: Graph, sample: Sample, target: str | None) -> list[str]:
    bare = [name for name in sample.table.columns if name != target]
    if not graph.takes_matrix(bare):
        if missing := [spec.name for spec in graph.inputs if spec.name not in bare]:
            raise InvalidInput(f"the sample lacks columns for the model's inputs: {', '.join(missing[:20])}")
        return [spec.name for spec in graph.inputs]
    width = graph.inputs[0].shape[1]
    if width not in (-1, len(bare)):
        raise InvalidInput(f"the model takes {width} columns and the sample has {len(bare)}; give just those, in order")
    return bare


def _fits(graph: Graph, contract: Contract, columns: list[str]) -> None:
    kinds = {column.name: column.kind for column in contract.features}
    if graph.takes_matrix(columns):
        if texts := [name for name, kind in kinds.items() if kind == "category"]:
            raise InvalidInput(
                f"the model takes one matrix of numbers, and the sample has text in: {', '.join(texts[:20])}"
            )
        return
    for spec in graph.inputs:
        if (spec.datatype == "BYTES") != (kinds[spec.name] == "category"):
            wanted = "text" if spec.datatype == "BYTES" else "a number"
            raise InvalidInput(f"the model's input {spec.name!r} is {wanted}, and the sample's column is not")


def _prove_graph(
    manifest: Manifest,
    files: dict[str, bytes],
    data: bytes,
    graph: Graph,
    sample: Sample,
    forest: GraphForest | None,
) -> tuple[Manifest, Matrix]:
    """The graph as it was brought against what is served: every output that both have."""
    contract = manifest.contract
    raw = probe_rows(contract, sample.table)
    edges = edge_rows(contract, raw[:1], thresholds(forest.forest) if forest else None)
    same = {one.name: one for one in graph.same}
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        # The brought graph is asked through our runtime too, so that both are fed by the same hand.
        brought = open_runtime(shelf.open(shelf.put(manifest, {"model.onnx": data})))
        runtime = open_runtime(shelf.open(shelf.put(manifest, files)))
        try:
            outputs = runtime.predict({"rows": raw})
            for spec in graph.outputs:
                if len(outputs[spec.name]) != len(raw):
                    count = len(outputs[spec.name])
                    raise ParityFailed(f"output {spec.name!r} has {count} rows for {len(raw)} rows of input")
            found = conformance.check(runtime, np.concatenate([raw[:32], edges[:32]]))
            alone = conformance.rows_are_independent(found)
            worst = prove_ways(
                lambda way: _prove_outputs(graph, same, brought, way, raw, edges, alone), shelf, manifest, files
            )
        finally:
            brought.close()
            runtime.close()
    return msgspec.structs.replace(manifest, parity=worst, independent_rows=alone), raw


def _prove_outputs(
    graph: Graph, same: dict[str, Same], brought: Runtime, way: Runtime, raw: Matrix, edges: Matrix, alone: bool
) -> Parity | None:
    """The worst proof of all outputs that are numbers; labels have to be equal, but where both are as likely."""
    proofs = []
    for spec in graph.outputs:
        original = partial(_brought_output, brought, same[spec.name])
        if spec.datatype in ("FP32", "FP64"):
            proofs.append(prove(original, way, raw, edges, output=spec.name, alone=alone))
        elif isinstance(way, ForestRuntime):
            rows = np.concatenate([raw, edges])
            outputs = way.predict({"rows": rows})
            sure = np.abs(outputs[graph.answer] - 0.5) > TOLERANCE
            if not np.array_equal(np.asarray(original(rows))[sure], outputs[spec.name][sure]):
                raise ParityFailed(f"output {spec.name!r} differs from the original's; it is not served")
    return max(proofs, key=lambda proof: proof.max_error, default=None)


def _brought_output(runtime: Runtime, same: Same, rows: Matrix) -> Any:
    """One output of a graph as it was brought; what a ZipMap gave becomes the tensor that it was made from."""
    value: Any = runtime.predict({"rows": rows})[same.brought]
    if isinstance(value, list):
        value = np.array([list(row.values()) for row in value])
    return value if same.column is None else value[:, same.column]


# --- an estimator -----------------------------------------------------------------------------------------------


def _package_estimator(
    brought: Brought, sample: Sample, name: str, target: str | None, source: str
) -> tuple[Manifest, dict[str, bytes]]:
    """Convert in the ways there are, and let callers go as far beyond the sample as the package proves exact."""
    reasons: list[ModelyardError] = []
    for whole_as_int in (False, True) if brought.forest is None else (False,):
        converted: Converted | None = None
        for margin in MARGINS:
            contract = _contract(brought, sample, target, margin)
            try:
                converted = converted or convert(brought, contract, whole_as_int)
                return _prove_estimator(brought, converted, contract, sample, name, source)
            except ParityFailed as error:
                reasons.append(error)
            except InvalidInput as error:
                reasons.append(error)
                break
    # How far it is off says more than that another way of converting failed too.
    reason = next((reason for reason in reasons if isinstance(reason, ParityFailed)), reasons[0])
    raise type(reason)(f"{reason}; to serve it as it is, in model workers, keep it with --runtime native")


def _contract(brought: Brought, sample: Sample, target: str | None, margin: float) -> Contract:
    return sample_contract(sample, brought.columns, _target(target, brought.classes), brought.categories, margin)


def _package_held(
    brought: Brought, path: Path | None, trust: bool, sample: Sample, name: str, target: str | None, source: str
) -> tuple[Manifest, dict[str, bytes]]:
    """Keep the model as it is: what it says of itself, proven by the runtime that will serve it."""
    contract = _contract(brought, sample, target, MARGINS[0])
    file = file_of(brought, path, trust)
    manifest, files, raw = package_held(brought, file, contract, sample, name, source)
    return manifest, files | _samples(manifest, files, contract, sample, raw, answer_name(brought.task))


def _prove_estimator(
    brought: Brought, converted: Converted, contract: Contract, sample: Sample, name: str, source: str
) -> tuple[Manifest, dict[str, bytes]]:
    session = open_session(converted.data)
    outputs = tuple(read_graph(converted.data).outputs)
    manifest = _manifest(name, brought.framework, brought.task, contract, outputs, sample, source)
    if converted.layout == "matrix":
        only = session.get_inputs()[0].name
        inputs = (TensorSpec(only, "FP32", (-1, len(contract.features))),)
        manifest = msgspec.structs.replace(manifest, signature=Signature(inputs, outputs, "matrix"))
    files = {"model.onnx": converted.data, **converted.extra}
    raw = probe_rows(contract, sample.table)
    edges = edge_rows(contract, raw[:1], converted.cuts)
    original = brought.answers(contract)
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        runtime = open_runtime(shelf.open(shelf.put(manifest, files)))
        try:
            found = conformance.check(runtime, np.concatenate([raw[:32], edges[:32]]))
            alone = conformance.rows_are_independent(found)
        finally:
            runtime.close()
        check = partial(prove, original, matrix=raw, edge_rows=edges, output=converted.output, alone=alone)
        parity = prove_ways(check, shelf, manifest, files)
    manifest = msgspec.structs.replace(manifest, parity=parity, independent_rows=alone)
    return manifest, files | _samples(manifest, files, contract, sample, raw, converted.output)


# --- the artifact -----------------------------------------------------------------------------------------------


def _target(target: str | None, classes: tuple[str, ...]) -> Target | None:
    if not classes:
        return Target(target) if target else None
    return Target(target or "target", classes, classes[1] if len(classes) == 2 else None)


def _manifest(
    name: str,
    framework: str,
    task: Any,
    contract: Contract,
    outputs: tuple[TensorSpec, ...],
    sample: Sample,
    source: str,
) -> Manifest:
    inputs = tuple(TensorSpec(column.name, _DATATYPES[column.kind], (-1,)) for column in contract.features)
    packages = {}
    for package in ("onnxruntime", "numpy", {"sklearn": "scikit-learn"}.get(framework, framework), "skl2onnx"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:  # installed under another name
            continue
    return Manifest(
        model=name,
        task=task,
        framework=framework,
        runtime="onnx",
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={},
        signature=Signature(inputs, outputs, "columns"),
        contract=contract,
        lineage=Lineage(source=f"brought: {source}", rows=sample.table.height, packages=packages),
    )


def _samples(
    manifest: Manifest, files: dict[str, bytes], contract: Contract, sample: Sample, raw: Matrix, output: str
) -> dict[str, bytes]:
    """The first rows of the sample and what the package answers to them."""
    rows = json_rows(sample.table.head(_SAMPLES), contract)
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        runtime = open_runtime(shelf.open(shelf.put(manifest, files)))
        try:
            answers = runtime.predict({"rows": Encoder(contract).finish(raw[: len(rows)])})[output].tolist()
        finally:
            runtime.close()
    entries = [{"row": row, output: answer} for row, answer in zip(rows, answers, strict=True)]
    file = next(name for name in files if name.startswith("model."))
    digest = hashlib.sha256(files[file]).hexdigest()
    card = f"# {manifest.model}\n\nA {manifest.framework} model ({manifest.task}) that was brought, not trained here.\n"
    card += f"The SHA-256 of `{file}` is `{digest}`. "
    card += f"Its contract is inferred from a sample of {sample.table.height} rows.\n"
    if manifest.trusted:
        card += "\nTrusted code: opening its file runs code that is in it. It is opened in model workers only.\n"
    if manifest.parity:
        card += (
            f"\nParity with the original: {manifest.parity.rows} rows, {manifest.parity.edge_rows} of them edge rows, "
            f"largest difference {manifest.parity.max_error:.2g} (allowed {manifest.parity.tolerance:.0e}, relative "
            "to answers above one).\n"
        )
    return {"samples.json": msgspec.json.encode(entries) + b"\n", "card.md": card.encode()}
