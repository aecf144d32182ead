"""What V2 says of the server and its models without asking one: metadata, readiness, configuration."""

from __future__ import annotations

from typing import Any

import msgspec

from modelyard import __version__
from modelyard.artifacts.manifest import Manifest
from modelyard.contract.signature import TensorSpec
from modelyard.serve.routing import Deployment, Route, Routes

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
]
_encode = msgspec.json.Encoder().encode


def unknown_model(name: str) -> str:
    """What Triton says, and its clients' tests match."""
    return f"Request for unknown model: '{name[:64]}' is not found"


def server_metadata() -> bytes:
    """`GET /v2`."""
    return _encode({"name": "modelyard", "version": __version__, "extensions": EXTENSIONS})


def model_list(routes: Routes) -> bytes:
    """`GET /v2/models`."""
    return _encode({"models": routes.names})


def model_ready(deployment: Deployment) -> bytes:
    """`GET /v2/models/{m}/ready` of one that is."""
    return _encode({"name": deployment.endpoint, "ready": True})


def model_metadata(route: Route, deployment: Deployment) -> bytes:
    """`GET /v2/models/{m}`: versions, inputs and outputs."""
    return _encode(
        {
            "name": route.name,
            "versions": [str(version) for version in sorted(route.deployments)],
            "platform": _platform(deployment),
            "inputs": deployment.replica.loaded.manifest.signature.inputs,
            "outputs": output_specs(deployment.replica.loaded.manifest, deployment.cutoff),
        }
    )


def model_config(route: Route, deployment: Deployment, max_rows: int) -> bytes:
    """`GET /v2/models/{m}/config`, as Triton's ModelConfig in JSON; `max_rows` of one call as the gateway allows it."""
    manifest = deployment.replica.loaded.manifest
    joins = manifest.independent_rows
    config: dict[str, Any] = {
        "name": route.name,
        "platform": _platform(deployment),
        "backend": manifest.runtime,
        "version_policy": {"specific": {"versions": sorted(route.deployments)}},
        "max_batch_size": (deployment.max_rows or max_rows) if joins else 0,
        "input": [_configured(spec, joins) for spec in manifest.signature.inputs],
        "output": [
            _configured(spec, joins) for spec in output_specs(deployment.replica.loaded.manifest, deployment.cutoff)
        ],
        "instance_group": [{"name": route.name, "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": next(iter(manifest.files), ""),
    }
    if joins:  # without a delay: what is complete in one turn of the loop is one batch
        config["dynamic_batching"] = {"preferred_batch_size": [], "max_queue_delay_microseconds": 0}
    return _encode(config)


def _configured(spec: TensorSpec, joins: bool) -> dict[str, Any]:
    """One tensor in a ModelConfig, whose dimensions leave out the rows of a version that batches."""
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = list(spec.shape[1:] if joins else spec.shape)
    said: dict[str, Any] = {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims or [1]}
    return said if dims else said | {"reshape": {"shape": []}}


def _platform(deployment: Deployment) -> str:
    manifest = deployment.replica.loaded.manifest
    return "onnx_onnxv1" if manifest.framework == "onnx" else f"{manifest.framework}_{manifest.runtime}v1"


def output_specs(manifest: Manifest, cutoff: float | None) -> list[TensorSpec]:
    """The outputs that callers see: the version's own, and decision and score where there is a cut-off."""
    specs = list(manifest.signature.outputs)
    if cutoff is not None:
        names = {spec.name for spec in specs}
        extra = (TensorSpec("score", "INT64", (-1,)), TensorSpec("decision", "BYTES", (-1,)))
        specs += [spec for spec in extra if spec.name not in names]
    return specs
