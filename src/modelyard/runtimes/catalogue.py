"""Which runtime serves which artifact; nothing is imported before it is needed."""

from __future__ import annotations

from modelyard.artifacts.store import Artifact
from modelyard.contract.errors import InvalidInput
from modelyard.runtimes.base import Runtime


def open_runtime(artifact: Artifact, threads: int = 1) -> Runtime:
    """The loaded runtime of an artifact. Raises InvalidInput for a runtime that is not known."""
    if artifact.manifest.runtime == "onnx":
        from modelyard.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(artifact, threads)
    raise InvalidInput(
        f"artifact {artifact.digest[:12]} asks for runtime {artifact.manifest.runtime!r}, which is unknown"
    )
