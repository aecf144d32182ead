"""What a version says of itself: files with digests, signature, contract, decision, measures, where it came from."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from modelyard.contract.decision import Decision
from modelyard.contract.features import Contract
from modelyard.contract.signature import Signature

Task = Literal["binary", "multiclass", "regression", "tensor"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the artifact, verified before it is used."""

    sha256: str
    size: int


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a version came from, so that it can be made again."""

    source: str = ""  # the table's file name, or how the model was brought
    data_digest: str = ""  # SHA-256 of the table's bytes
    rows: int = 0
    seed: int | None = None
    recipe: dict[str, Any] = {}
    code_revision: str = ""
    packages: dict[str, str] = {}  # name -> version, of what computed it


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's own class: named, never carried. It is installed where it serves, and runs in model workers only."""

    entry: str  # package.module:Class
    distribution: str = ""  # name==version of what it was installed with, if anything
    digest: str = ""  # SHA-256 of the module's source at registration


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that another one is made of. It stays on the shelf as long as that one does."""

    role: str  # what it does there: `member` or `meta` of an ensemble, the name of a pipeline's step
    name: str  # model:number when it was composed, for people
    digest: str  # of its artifact


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The proof that the packaged model answers as the original did."""

    rows: int
    edge_rows: int  # missing, unseen and extreme values, among `rows`
    tolerance: float
    max_error: float  # largest absolute difference of any output


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The first file of an artifact; the artifact's digest is the SHA-256 of its bytes.

    Optional files have fixed names: `forest.npz` (a forest's answers as tables), `contributions.npz` (its
    explanations), `report.json` (measures and plots' data), `quality.json` (of the table), `card.md`, `samples.json`
    (rows that work as posted), `holdout.json`.
    """

    model: str
    task: Task
    framework: str  # lightgbm, logistic, scorecard, sklearn, xgboost, onnx, python, ensemble, pipeline
    runtime: str  # the runtime that serves it: onnx, text, lightgbm, xgboost, sklearn, python, ensemble, pipeline
    created_at: str  # ISO 8601, UTC
    files: dict[str, FileEntry]
    signature: Signature
    contract: Contract
    decision: Decision | None = None
    metrics: dict[str, float] = {}
    parity: Parity | None = None
    lineage: Lineage = Lineage()
    row_cost_us: float | None = None  # measured where it was packaged; indicative
    independent_rows: bool = True  # measured: a row's answer does not depend on its neighbours, so calls may be joined
    trusted: bool = False  # holds or names code that was trusted at registration: a pickle, a user's own class
    code: Code | None = None
    members: tuple[Member, ...] = ()  # what it is made of, on the same shelf; members may have members
    steps: tuple[str, ...] = ()  # of what is made of several: each is timed, and named where it fails
    in_worker: bool = False  # a member needs a model worker, so the whole is served from one

    @property
    def may_explain(self) -> bool:
        """Whether there may be explanations: only a table's probability has contributions."""
        return bool(self.contract.columns) and any(spec.name == "probability" for spec in self.signature.outputs)

    def __post_init__(self) -> None:
        if (self.signature.layout == "tensors") != (not self.contract.columns):
            raise ValueError("a version has a contract with columns, or the layout 'tensors'; not both, not neither")
