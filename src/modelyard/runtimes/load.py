"""`modelyard.load`: a registered version in the caller's own process, without a server and without Django.

The same encoder, model and decision answer as behind the gateway, so the answers are the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np

from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.names import read_names, resolve
from modelyard.artifacts.store import MANIFEST, Artifact, Shelf
from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.contract.features import Contract
from modelyard.contract.home import Home
from modelyard.contract.infer import Explanation, Prediction
from modelyard.contract.rows import plain_rows
from modelyard.contract.settings import load_settings
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.version import LoadedVersion

CHUNK_ROWS = 8_192  # bounds memory, however long the table


def load(
    name: str | os.PathLike[str], home: str | os.PathLike[str] | None = None, *, trust: bool = False
) -> LoadedModel:
    """The version that `name` means, in memory.

    name: `model:alias` or `model:number` as registered in `home`, `model` alone for its champion, or the path of an
    artifact's folder. home: the Modelyard home; by default MODELYARD_HOME, modelyard.toml, or ./.modelyard. trust:
    also open a version that holds or names code, such as a pickle: the code then runs in this process.
    Raises NotFound, and InvalidInput where a byte differs from what was stored, or code is not trusted.
    """
    folder = Path(name)
    if isinstance(name, os.PathLike) or (folder / MANIFEST).is_file():
        return LoadedModel(_checked(_artifact_in(folder), trust), 0)
    root = Path(home) if home is not None else load_settings()[0].root
    digest = resolve(Home(root), str(name))
    model, _, meant = str(name).partition(":")
    version = int(meant) if meant.isdigit() else _number_of(Home(root), model, digest)
    return LoadedModel(_checked(Shelf(Home(root).shelf).open(digest), trust), version)


class LoadedModel:
    """One version, ready to answer. Give it back with `close`, or use it in a `with` statement."""

    def __init__(self, artifact: Artifact, version: int, cutoff: float | None = None, threads: int = 1) -> None:
        """cutoff: instead of the version's own, as an endpoint may have one."""
        self.version = version
        self.digest = artifact.digest
        self._loaded = LoadedVersion(artifact, threads)
        if cutoff is not None and self._loaded.decision is not None:
            self._loaded.decision = msgspec.structs.replace(self._loaded.decision, cutoff=cutoff)

    def __repr__(self) -> str:
        return f"<{self.manifest.model} version {self.version or '?'}, artifact {self.digest[:12]}>"

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free its memory; no call follows."""
        self._loaded.close()

    @property
    def manifest(self) -> Manifest:
        """What the version says of itself."""
        return self._loaded.manifest

    @property
    def contract(self) -> Contract:
        """The columns that it takes."""
        return self._loaded.manifest.contract

    @overload
    def predict(
        self, rows: Mapping[str, Any], reasons: str | None = None, language: str | None = None
    ) -> Prediction: ...
    @overload
    def predict(self, rows: Any, reasons: str | None = None, language: str | None = None) -> list[Prediction]: ...
    def predict(self, rows: Any, reasons: str | None = None, language: str | None = None) -> Any:
        """One Prediction for a dict; a list of them, in order, for a list of dicts or a data frame.

        reasons: "all", "none", or None for those of the declined. language: "en" or "zh", of the reasons.
        Raises InvalidInput with `violations` for rows that break the contract.
        """
        if reasons not in (None, "all", "none"):
            raise InvalidInput("reasons is 'all', 'none', or left out for those of the declined")
        matrix, single = self._matrix_of(rows)
        found: list[Prediction] = []
        for start in range(0, len(matrix), CHUNK_ROWS):
            found += self._answer(matrix[start : start + CHUNK_ROWS], start, reasons, language or "en")
        return found[0] if single else found

    @overload
    def explain(self, rows: Mapping[str, Any]) -> Explanation: ...
    @overload
    def explain(self, rows: Any) -> list[Explanation]: ...
    def explain(self, rows: Any) -> Any:
        """What each column contributed in log-odds, as `predict` counts rows. Raises InvalidInput also where the
        version cannot explain itself."""
        matrix, single = self._matrix_of(rows)
        contributions = self._loaded.explain(matrix)
        if contributions is None:
            raise InvalidInput(f"{self.manifest.model}: a {self.manifest.framework} version cannot explain itself")
        names = self._loaded.encoder.names
        found = [
            Explanation("", self.version, values[-1], dict(zip(names, values, strict=False)), self.manifest.model, row)
            for row, values in enumerate(contributions.tolist())
        ]
        return found[0] if single else found

    def predict_tensors(self, inputs: Tensors) -> Tensors:
        """What a version of tensors answers: name -> array, first axis rows, as its signature says."""
        if self._loaded.is_table:
            raise InvalidInput(f"{self.manifest.model} takes rows of a table; ask `predict`")
        return self._loaded.predict(inputs)

    def _matrix_of(self, rows: Any) -> tuple[Matrix, bool]:
        """The rows as the encoder makes them, and whether it was one alone."""
        if not self._loaded.is_table:
            raise InvalidInput(f"{self.manifest.model} takes tensors; ask `predict_tensors`")
        plain, single = plain_rows(rows)
        return self._loaded.encoder.encode_rows(plain), single

    def _answer(self, matrix: Matrix, start: int, reasons: str | None, language: str) -> list[Prediction]:
        outputs = self._loaded.predict(matrix)
        decision = self._loaded.decision
        if decision is None:
            return self._plain_answers(outputs, start, len(matrix))
        probabilities = np.asarray(outputs["probability"], dtype=np.float64)
        declined = probabilities >= decision.cutoff
        why = self._reasons(matrix, declined, reasons, language)
        return [
            Prediction(
                request_id="",
                version=self.version,
                decision=decision.positive if declined[row] else decision.negative,
                probability=float(probabilities[row]),
                score=decision.scale.points_at(float(probabilities[row])),
                reasons=why.get(row, ()),
                model=self.manifest.model,
                row=start + row,
            )
            for row in range(len(matrix))
        ]

    def _reasons(self, matrix: Matrix, declined: Any, reasons: str | None, language: str) -> dict[int, tuple[Any, ...]]:
        """Reasons by row, for the rows that get any."""
        asked = np.arange(len(matrix)) if reasons == "all" else np.flatnonzero(declined)
        contributions = self._loaded.explain(matrix[asked]) if reasons != "none" and len(asked) else None
        if contributions is None or self._loaded.decision is None:
            return {}
        features, say = self._loaded.encoder.features, self._loaded.decision.reasons_for
        return {
            int(row): tuple(say(contributions[position, :-1], matrix[row], features, language))
            for position, row in enumerate(asked)
        }

    def _plain_answers(self, outputs: Tensors, start: int, count: int) -> list[Prediction]:
        listed = {name: values.tolist() for name, values in outputs.items()}
        return [
            Prediction(
                request_id="",
                version=self.version,
                probability=listed["probability"][row] if "probability" in listed else None,
                outputs={name: values[row] for name, values in listed.items() if name != "probability"},
                model=self.manifest.model,
                row=start + row,
            )
            for row in range(count)
        ]


def _checked(artifact: Artifact, trust: bool) -> Artifact:
    """The artifact, if it may be opened in this process. Raises InvalidInput."""
    if artifact.manifest.trusted and not trust:
        raise InvalidInput(
            f"{artifact.manifest.model} holds trusted code, which would run in this process; load it with trust=True, "
            "or call the gateway, where it runs apart"
        )
    return artifact


def _artifact_in(folder: Path) -> Artifact:
    """The artifact in a folder that bears its digest as its name, as on the shelf; every byte is verified."""
    if not (folder / MANIFEST).is_file():
        raise NotFound(f"no artifact in that folder: it holds no {MANIFEST}")
    folder = folder.resolve()
    return Shelf(folder.parent).open(folder.name)


def _number_of(home: Home, model: str, digest: str) -> int:
    """The version that bears this digest; an alias says only which artifact is meant."""
    listed = read_names(home)
    known = listed.names.items() if listed else ()
    numbers = [name.rpartition(":")[2] for name, meant in known if meant == digest and name.startswith(f"{model}:")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)
