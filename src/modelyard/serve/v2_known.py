"""What of a V2 request and its answer follows from the deployment alone: made when its first call comes."""

from __future__ import annotations

import msgspec

from modelyard.serve.routing import Deployment
from modelyard.serve.tensors import BINARY_ONLY
from modelyard.serve.v2_metadata import output_specs
from modelyard.serve.v2_quick import quick_ways

_TEXT_ONLY = frozenset(("onnx", "text"))  # runtimes whose BYTES are UTF-8; ONNX Runtime takes bytes for their repr


class WantedOutput(msgspec.Struct, frozen=True, gc=False):
    """One output of the answer."""

    name: str
    is_binary: bool = False
    classes: int = 0  # above 0: the best so many, as texts


class Known:
    """What follows from a deployment alone, made when its first call comes."""

    __slots__ = ("all_binary", "all_json", "is_free", "no_json", "outputs", "quick_binary", "quick_json", "texts")

    def __init__(self, deployment: Deployment) -> None:
        loaded = deployment.replica.loaded
        inputs = loaded.manifest.signature.inputs
        self.outputs = output_specs(loaded.manifest, deployment.cutoff)
        self.all_json = tuple(WantedOutput(spec.name) for spec in self.outputs)
        self.all_binary = tuple(WantedOutput(spec.name, True) for spec in self.outputs)
        self.no_json = next((spec for spec in self.outputs if spec.datatype in BINARY_ONLY), None)
        self.is_free = any(-1 in spec.shape[1:] for spec in inputs)
        reads_text = loaded.manifest.runtime in _TEXT_ONLY
        self.texts = [spec.name for spec in inputs if spec.datatype == "BYTES" and reads_text]
        self.quick_json, self.quick_binary = quick_ways(loaded.manifest.signature, loaded.encoder)


def known_of(deployment: Deployment) -> Known:
    """The same, kept with the deployment."""
    known: Known | None = deployment.quick
    if known is None:
        known = deployment.quick = Known(deployment)
    return known
