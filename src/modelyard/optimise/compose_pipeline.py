"""Registered versions and built-in steps become one version, a pipeline: checked, measured, and then packaged.

What flows from step to step is checked by name, datatype and shape before anything runs; then the example, or rows
that are made up, go through the conformance kit, so that what serving leans on was seen and not assumed.
"""

from __future__ import annotations

import datetime
import io
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Lineage, Manifest, Member, Task
from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.features import Contract
from modelyard.contract.home import Home
from modelyard.contract.names import check_name
from modelyard.contract.settings import load_settings
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.contract.tensor import Tensors
from modelyard.optimise.ensemble_gate import probes
from modelyard.optimise.joint_contract import joint_contract
from modelyard.optimise.parts import Composed, Part, loaded, part_named, register_composed, workshop
from modelyard.optimise.pipeline_file import (
    Lookup,
    PipelineFile,
    StepTable,
    built_in,
    example_tensors,
    read_pipeline,
)
from modelyard.optimise.tensors import metadata_of
from modelyard.runtimes import conformance
from modelyard.runtimes.catalogue import needs_worker
from modelyard.runtimes.image_steps import DecodeImage
from modelyard.runtimes.pipeline import EXAMPLE, write_example
from modelyard.runtimes.pipeline_flows import Flow
from modelyard.runtimes.pipeline_recipe import FILE, TABLE, PipelineRecipe, Step, check

_KINDS = {"number": "FP64", "integer": "INT64", "category": "BYTES", "boolean": "BOOL"}


def compose_pipeline(name: str, file: str | Path, home: str | Path | None = None) -> tuple[str, int]:
    """Compose what a TOML file says and register it; the model's name and the new version's number.

    Raises as `package_pipeline`.
    """
    where = Home(Path(home) if home is not None else load_settings()[0].root)
    return register_composed(package_pipeline(name, read_pipeline(file), where, Path(file).parent))


def package_pipeline(name: str, file: PipelineFile, home: Home, folder: Path = Path()) -> Composed:
    """A pipeline as a version, checked and measured. folder: where files that it names lie.

    Raises InvalidInput that names the step and what does not fit, NotFound for a version or file that is not there,
    ModelFailed for a promise that is not kept.
    """
    check_name("model", name)
    parts = {step.name: _part(home, step) for step in file.steps if step.version}
    steps = tuple(_step(home, step, parts, folder) for step in file.steps)
    recipe = _recipe(file, steps)
    source = part_named(home, file.rows) if file.rows else None
    manifest = _manifest(name, file, recipe, parts, source)
    example = example_tensors(file, _images(recipe), folder) or _own_example(manifest, recipe)
    files = {FILE: msgspec.json.format(msgspec.json.encode(recipe)) + b"\n"}
    if example is not None:
        files[EXAMPLE] = write_example(example, {spec.name: spec.datatype for spec in manifest.signature.inputs})
    with tempfile.TemporaryDirectory() as place:
        shelf = workshop(Path(place), list(parts.values()))
        found = _measured(shelf.open(shelf.put(manifest, files)), example, is_given=bool(file.example))
    manifest = msgspec.structs.replace(manifest, independent_rows=conformance.rows_are_independent(found))
    return Composed(manifest, files | {"card.md": _card(manifest, recipe, found).encode()})


def _part(home: Home, step: StepTable) -> Part:
    try:
        return part_named(home, step.version)
    except NotFound as error:
        raise NotFound(f"step {step.name!r}: {error}") from None


def _step(home: Home, step: StepTable, parts: dict[str, Part], folder: Path) -> Step:
    """One step of the recipe; where names are left out, a step's own are the pipeline's."""
    if step.version:
        manifest = parts[step.name].manifest
        table = manifest.signature.layout != "tensors"
        takes = [TABLE] if table else [spec.name for spec in manifest.signature.inputs]
        gives = [spec.name for spec in manifest.signature.outputs]
        does = None
    else:
        does = built_in(step, {name: _looked_up(home, step, value, folder) for name, value in step.parameters.items()})
        takes, gives = list(does.takes), list(does.gives)
    try:
        return Step(
            step.name, step.takes or {one: one for one in takes}, step.gives or {one: one for one in gives}, does
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _looked_up(home: Home, step: StepTable, value: Any, folder: Path) -> Any:
    """A parameter, read from where a table says that it stands."""
    if not isinstance(value, dict):
        return value
    try:
        lookup = msgspec.convert(value, Lookup)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"step {step.name!r}: {error}") from None
    if lookup.file:
        path = folder / lookup.file
        if not path.is_file():
            raise NotFound(f"step {step.name!r}: there is no file {path.name!r} beside the pipeline's own")
        text = path.read_text("utf-8")
    else:
        text = metadata_of(part_named(home, lookup.version).artifact.read("model.onnx"), lookup.key)
    return [*text.splitlines(), *lookup.then]


def _recipe(file: PipelineFile, steps: tuple[Step, ...]) -> PipelineRecipe:
    has_images = any(isinstance(step.does, DecodeImage) for step in steps)
    at_once = file.rows_at_once if file.rows_at_once is not None else int(has_images)
    try:
        return PipelineRecipe(steps, file.outputs, at_once, file.made_rows_at_once)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _images(recipe: PipelineRecipe) -> set[str]:
    """The names that are decoded as images."""
    return {step.takes["image"] for step in recipe.steps if isinstance(step.does, DecodeImage)}


# --- what it says of itself -------------------------------------------------------------------------------------


def _manifest(
    name: str, file: PipelineFile, recipe: PipelineRecipe, parts: dict[str, Part], source: Part | None
) -> Manifest:
    contract = joint_contract([source.manifest.contract]) if source else Contract(())
    if source and not contract.columns:
        raise InvalidInput(f"{source.name} takes tensors, not rows; say `inputs` instead")
    images = _images(recipe)
    given = tuple(
        msgspec.structs.replace(spec, content="image") if spec.name in images else spec for spec in file.specs()
    )
    columns = tuple(TensorSpec(column.name, _KINDS[column.kind], (-1,)) for column in contract.features)
    signature = Signature(given or columns, (), "columns" if source else "tensors")
    manifests = {step: part.manifest for step, part in parts.items()}
    flows = check(recipe, signature, len(contract.features), manifests)
    _check_tables(recipe, contract, parts)
    outputs = tuple(_output(output, flows[inner]) for output, inner in recipe.outputs.items())
    answering = _answering(recipe, outputs, manifests)
    task: Task = answering.task if answering else "tensor"
    target = answering.contract.target if answering else None
    return Manifest(
        model=name,
        task=task,
        framework="pipeline",
        runtime="pipeline",
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={},
        signature=msgspec.structs.replace(signature, outputs=outputs),
        contract=msgspec.structs.replace(contract, target=target),
        decision=answering.decision if answering else None,
        lineage=Lineage(
            source="pipeline: " + " → ".join(step.name for step in recipe.steps),
            packages={
                package: version(package) for package in ("numpy", "onnxruntime", *(["pillow"] if images else []))
            },
        ),
        trusted=any(manifest.trusted for manifest in manifests.values()),
        members=tuple(Member(step, part.name, part.artifact.digest) for step, part in parts.items()),
        steps=tuple(step.name for step in recipe.steps),
        in_worker=any(needs_worker(manifest) for manifest in manifests.values()),
    )


def _output(name: str, flow: Flow) -> TensorSpec:
    return TensorSpec(name, flow.datatype, flow.shape, flow.content)


def _check_tables(recipe: PipelineRecipe, contract: Contract, parts: dict[str, Part]) -> None:
    """A member that takes the callers' rows knows just their columns, in their order."""
    names = [column.name for column in contract.features]
    for step in recipe.steps:
        if step.name in parts and contract.columns and step.takes.get(TABLE) == TABLE:
            own = parts[step.name].manifest.contract
            if [column.name for column in own.features] != names or own.features != _same_rules(own, contract):
                raise InvalidInput(f"step {step.name!r}: it has another contract than the rows that callers send")


def _same_rules(own: Contract, contract: Contract) -> tuple[Any, ...]:
    """The contract's columns as the member has them, but for what it alone knows: its fitted cleaning."""
    return tuple(
        msgspec.structs.replace(ours, clip=mine.clip, fill=mine.fill)
        for mine, ours in zip(own.features, contract.features, strict=True)
    )


def _answering(recipe: PipelineRecipe, outputs: Sequence[TensorSpec], members: dict[str, Manifest]) -> Manifest | None:
    """The member whose probability of two classes is the pipeline's own, with its decision; None if none is."""
    if not any(spec.name == "probability" and spec.shape == (-1,) and spec.datatype == "FP32" for spec in outputs):
        return None
    inner = recipe.outputs["probability"]
    for step in recipe.steps:
        if step.gives.get("probability") == inner and step.name in members and members[step.name].task == "binary":
            return members[step.name]
    return None


# --- the gate ---------------------------------------------------------------------------------------------------


def _own_example(manifest: Manifest, recipe: PipelineRecipe) -> Tensors | None:
    """Two pages with dark bars for a pipeline that takes nothing but images: made-up texts are none."""
    images = _images(recipe)
    if not images or {spec.name for spec in manifest.signature.inputs} != images:
        return None
    pages = np.empty(2, dtype=object)
    pages[:] = [_page(at) for at in range(2)]
    return dict.fromkeys(images, pages)


def _page(seed: int) -> bytes:
    from PIL import Image

    pixels = np.full((160 + 16 * seed, 160 + 16 * seed, 3), 255, dtype=np.uint8)
    for line in range(2 + seed):
        for bar in range(4):
            pixels[20 + 45 * line : 40 + 45 * line, 20 + 30 * bar : 35 + 30 * bar + 5 * seed] = 20
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _measured(artifact: Artifact, example: Tensors | None, *, is_given: bool) -> list[conformance.Promise]:
    with loaded(artifact) as whole:
        if whole.is_table:
            return conformance.check(whole.runtime, probes(whole)[:32])
        inputs = conformance.random_tensors(artifact.manifest.signature.inputs) if example is None else example
        try:
            return conformance.check(whole.runtime, inputs)
        except InvalidInput as error:
            hint = "" if is_given else "; give an [example] of two rows or more that it takes"
            raise InvalidInput(f"{error}{hint}") from None


def _card(manifest: Manifest, recipe: PipelineRecipe, found: Sequence[conformance.Promise]) -> str:
    named = {member.role: member.name for member in manifest.members}
    rows = "".join(
        f"| {step.name} | {named.get(step.name) or type(step.does).__name__} | "
        f"{', '.join(step.takes.values())} | {', '.join(step.gives.values())} |\n"
        for step in recipe.steps
    )
    seen = "".join(f"- {'kept' if one.is_kept else 'broken'}: {one.name} ({one.seen})\n" for one in found)
    where = "\nA member needs a model worker, so the whole is served from one.\n" if manifest.in_worker else ""
    return (
        f"# {manifest.model}\n\n| step | what | takes | gives |\n|---|---|---|---|\n{rows}\n"
        f"What the conformance kit saw:\n\n{seen}{where}"
    )
