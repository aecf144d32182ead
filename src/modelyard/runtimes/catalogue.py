"""Which runtime serves which artifact; nothing is imported before it is needed."""

from __future__ import annotations

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput
from modelyard.runtimes.base import Runtime

IN_WORKERS = frozenset(("lightgbm", "python", "sklearn", "xgboost"))


def needs_worker(manifest: Manifest) -> bool:
    """Whether this version lives in model workers: its runtime, or a member's, holds the interpreter or runs code."""
    return manifest.runtime in IN_WORKERS or manifest.in_worker


def open_runtime(artifact: Artifact, threads: int = 1) -> Runtime:
    """The loaded runtime of an artifact. Raises InvalidInput for a runtime that is not known."""
    if artifact.manifest.runtime == "onnx" and "forest.npz" in artifact.manifest.files:
        from modelyard.runtimes.forest import ForestRuntime

        return ForestRuntime(artifact)
    if artifact.manifest.runtime == "onnx":
        from modelyard.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(artifact, threads)
    if artifact.manifest.runtime == "text":
        from modelyard.runtimes.text import TextRuntime

        return TextRuntime(artifact, threads)
    if artifact.manifest.runtime == "lightgbm":
        from modelyard.runtimes.lightgbm import LightGbmRuntime

        return LightGbmRuntime(artifact, threads)
    if artifact.manifest.runtime == "xgboost":
        from modelyard.runtimes.xgboost import XgboostRuntime

        return XgboostRuntime(artifact, threads)
    if artifact.manifest.runtime == "sklearn":
        from modelyard.runtimes.sklearn import SklearnRuntime

        return SklearnRuntime(artifact, threads)
    if artifact.manifest.runtime == "python":
        from modelyard.runtimes.python import PythonRuntime

        return PythonRuntime(artifact, threads)
    if artifact.manifest.runtime == "ensemble":
        from modelyard.runtimes.ensemble import EnsembleRuntime

        return EnsembleRuntime(artifact, threads)
    if artifact.manifest.runtime == "pipeline":
        from modelyard.runtimes.pipeline import PipelineRuntime

        return PipelineRuntime(artifact, threads)
    raise InvalidInput(
        f"artifact {artifact.digest[:12]} asks for runtime {artifact.manifest.runtime!r}, which is unknown"
    )
