"""What a framework's array of answers is called and typed: the same names as those of converted models."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.artifacts.manifest import Manifest, Task
from modelyard.contract.errors import ModelFailed
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import Tensors


def answer_name(task: Task) -> str:
    """The output that carries a version's answer."""
    return {"binary": "probability", "multiclass": "probabilities"}.get(task, "prediction")


def answer_specs(task: Task, classes: tuple[str, ...], width: int = 1) -> tuple[TensorSpec, ...]:
    """The outputs of a version. width: numbers in one row's answer of a model that predicts more than one."""
    if task == "binary":
        return (TensorSpec("probability", "FP32", (-1,)),)
    if task == "multiclass":
        kind = "INT64" if _are_whole(classes) else "BYTES"
        return TensorSpec("label", kind, (-1,)), TensorSpec("probabilities", "FP32", (-1, len(classes)))
    return (TensorSpec("prediction", "FP32", (-1,) if width == 1 else (-1, width)),)


def named_answers(answers: NDArray[Any], manifest: Manifest) -> Tensors:
    """Probabilities (of the second of two classes, or of each of more) or predictions, as the signature names them."""
    if manifest.task == "binary":
        return {"probability": (answers[:, 1] if answers.ndim == 2 else answers).astype(np.float32)}
    if manifest.task == "multiclass":
        classes = manifest.contract.target.classes if manifest.contract.target else ()
        if answers.ndim != 2 or answers.shape[1] != len(classes):
            raise ModelFailed(f"the model answers shape {answers.shape[1:]} where it has {len(classes)} classes")
        labels = np.array([int(name) for name in classes] if _are_whole(classes) else classes)
        chosen = labels[answers.argmax(axis=1)]
        return {
            "label": chosen if chosen.dtype.kind == "i" else chosen.astype(object),
            "probabilities": answers.astype(np.float32),
        }
    flat = answers.reshape(len(answers)) if answers.ndim == 2 and answers.shape[1] == 1 else answers
    return {"prediction": flat.astype(np.float32)}


def _are_whole(classes: tuple[str, ...]) -> bool:
    return all(name.lstrip("-").isdecimal() and str(int(name)) == name for name in classes)
