"""The dialects of REST: how the calls of each are read, answered, and looked into before they are."""

from __future__ import annotations

from modelyard.serve import mlflow, native, sticky, v1, v2, v2_answers
from modelyard.serve.inference import Dialect

NATIVE = Dialect(native.read_rows, native.say_prediction, sticky.in_rows)
NATIVE_LINE = Dialect(native.read_row, native.say_prediction, sticky.in_rows)
NATIVE_EXPLAIN = Dialect(native.read_rows, native.say_explanation, sticky.in_rows)
V1 = Dialect(v1.read_predict, v1.say_predict, sticky.in_forms)
V1_EXPLAIN = Dialect(v1.read_explain, v1.say_explain, sticky.in_forms)
MLFLOW = Dialect(mlflow.read_invocations, mlflow.say_invocations, sticky.in_frame)
V2 = Dialect(v2.read_infer, v2_answers.say_infer, sticky.in_tensors)
