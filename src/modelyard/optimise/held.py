"""Models that are served as they are, by their own framework or as a user's own class, in model workers.

For what does not convert to ONNX exactly, or is not to be converted. The same gate stands before them: the packaged
file, opened by the runtime that will serve it, answers as the original does.
"""

from __future__ import annotations

import datetime
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Lineage, Manifest
from modelyard.artifacts.store import Artifact, Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.features import Contract
from modelyard.contract.names import check_name
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.optimise.estimators import Brought, best_booster, selects_columns
from modelyard.optimise.parity import edge_rows, prove
from modelyard.optimise.sample import Sample, probe_rows
from modelyard.runtimes import conformance
from modelyard.runtimes.answers import answer_name, answer_specs
from modelyard.runtimes.catalogue import open_runtime
from modelyard.runtimes.examine import examine
from modelyard.runtimes.python import check_entry

_PACKAGES = {"lightgbm": "lightgbm", "xgboost": "xgboost-cpu", "sklearn": "scikit-learn"}


def file_of(brought: Brought, path: Path | None, trust: bool) -> tuple[str, bytes, bool]:
    """The file that holds a model in its artifact: name, bytes, and whether code in it was trusted.

    path: where it was brought from, if it was a file; its bytes are kept as they are. Raises InvalidInput for
    scikit-learn types that skops does not know, unless `trust`.
    """
    suffix = path.suffix.lower() if path is not None else ""
    data = path.read_bytes() if path is not None else b""
    model = brought.model
    if brought.framework == "lightgbm" and suffix in ("", ".txt", ".lgb"):
        booster = model if hasattr(model, "model_to_string") else model.booster_
        return "model.txt", data or booster.model_to_string().encode(), False
    if brought.framework == "xgboost" and suffix in ("", ".json", ".ubj"):
        return f"model{suffix or '.ubj'}", data or bytes(best_booster(model).save_raw("ubj")), False
    if path is not None and suffix != ".skops":
        return "model.joblib", data, True
    from modelyard.runtimes.sklearn import read_skops, untrusted_types

    if path is None:
        import skops.io

        data = skops.io.dumps(model)
        read_skops(data, trust)
    return "model.skops", data, bool(untrusted_types(data))


def package_held(
    brought: Brought, file: tuple[str, bytes, bool], contract: Contract, sample: Sample, name: str, source: str
) -> tuple[Manifest, dict[str, bytes], np.ndarray]:
    """A model in its own form as a manifest and files, proven, and the raw rows that it was proven on.

    Raises ParityFailed where the file does not answer as the model does, ModelFailed where a promise is broken that
    serving needs; that rows depend on each other is recorded.
    """
    file_name, data, is_trusted = file
    # A pickled booster is opened, and answers, as scikit-learn's estimators do.
    runtime_name = "sklearn" if file_name in ("model.skops", "model.joblib") else brought.framework
    raw = probe_rows(contract, sample.table)
    edges = edge_rows(contract, raw[:1])
    original = brought.answers(contract)
    width = np.asarray(original(raw[:1])).reshape(1, -1).shape[1]
    manifest = Manifest(
        model=name,
        task=brought.task,
        framework=brought.framework,
        runtime=runtime_name,
        created_at=_now(),
        files={},
        signature=_signature(brought, contract, width),
        contract=contract,
        lineage=Lineage(source=f"brought: {source}", rows=sample.table.height, packages=_packages(brought.framework)),
        trusted=is_trusted,
    )
    files = {file_name: data}
    with tempfile.TemporaryDirectory() as folder:
        runtime = open_runtime(_stored(Path(folder), manifest, files))
        try:
            rows = np.concatenate([raw[:32], edges[:32]])
            is_independent = conformance.rows_are_independent(conformance.check(runtime, rows))
            parity = prove(original, runtime, raw, edges, output=answer_name(brought.task), alone=is_independent)
        finally:
            runtime.close()
    return msgspec.structs.replace(manifest, parity=parity, independent_rows=is_independent), files, raw


def package_class(entry: str, name: str, files: Path | None = None) -> tuple[Manifest, dict[str, bytes]]:
    """A class of the user's own as a manifest and files; it is named, not carried, and marked as trusted code.

    entry: `package.module:Class`, as installed. files: a folder whose files its `setup` is given. The conformance kit
    measures it in a process of its own. Raises InvalidInput where it cannot be loaded, ModelFailed for a broken
    promise, NotFound for a missing folder.
    """
    check_name("model", name)
    check_entry(entry)
    kept = _files(files) if files is not None else {}
    found = examine(entry, files)
    is_independent = found.independent_rows  # raises where it may not be served
    assert found.signature is not None and found.code is not None  # noqa: S101, PT018 - else it had raised
    manifest = Manifest(
        model=name,
        task="tensor",
        framework="python",
        runtime="python",
        created_at=_now(),
        files={},
        signature=found.signature,
        contract=Contract(()),
        lineage=Lineage(source=f"class: {entry}", packages=_packages("python")),
        independent_rows=is_independent,
        trusted=True,
        code=found.code,
    )
    promises = "".join(f"- {'kept' if one.is_kept else 'broken'}: {one.name} ({one.seen})\n" for one in found.promises)
    card = (
        f"# {name}\n\nThe class `{entry}`, installed as {found.code.distribution or 'a module of no distribution'}; "
        f"the SHA-256 of its module's source is `{found.code.digest}`. Trusted code: it runs in model workers only.\n\n"
        f"What the conformance kit saw when it was registered:\n\n{promises}"
    )
    return manifest, kept | {"card.md": card.encode()}


def _signature(brought: Brought, contract: Contract, width: int) -> Signature:
    outputs = answer_specs(brought.task, brought.classes, width)
    if any(column.kind == "category" for column in contract.features) or selects_columns(brought.model):
        kinds = {"number": "FP64", "integer": "INT64", "category": "BYTES", "boolean": "BOOL"}
        inputs = tuple(TensorSpec(column.name, kinds[column.kind], (-1,)) for column in contract.features)
        return Signature(inputs, outputs, "columns")
    return Signature((TensorSpec("rows", "FP32", (-1, len(contract.features))),), outputs, "matrix")


def _files(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder.name!r}; check the path")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if odd := [path.name for path in inside if not path.is_file()]:
        raise InvalidInput(f"the folder of a version's files holds files only; not so {', '.join(odd[:10])}")
    if any(path.name in ("card.md", "manifest.json") for path in inside):
        raise InvalidInput("card.md and manifest.json are names that the artifact itself uses; rename them")
    return {path.name: path.read_bytes() for path in inside}


def _stored(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> Artifact:
    shelf = Shelf(folder)
    return shelf.open(shelf.put(manifest, files))


def _packages(framework: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for package in ("numpy", _PACKAGES.get(framework, ""), "skops" if framework == "sklearn" else ""):
        try:
            found |= {package: version(package)} if package else {}
        except PackageNotFoundError:  # installed under another name
            continue
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
