"""What every runtime promises, and nothing of how it keeps it."""

from __future__ import annotations

from typing import Protocol

from modelyard.contract.tensor import Matrix, Tensors


class Runtime(Protocol):
    """One loaded version, ready to compute.

    Called from one thread at a time unless `is_thread_safe`. Never logs its inputs. `inputs` has the tensor `rows`: the
    contract's *finished* matrix, float32[n, features].
    """

    is_thread_safe: bool

    def predict(self, inputs: Tensors) -> Tensors:
        """Answer a batch: row i of every output belongs to row i of the inputs.

        A binary version answers `probability`, float32[n], of the positive class.
        """
        ...

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """How much each feature moved each row's log-odds, float32[n, features + 1]; the last column is the base.

        A row's sum is its log-odds. None: this version cannot explain itself.
        """
        ...

    def close(self) -> None:
        """Free memory and devices. Called once; no call follows it."""
        ...
