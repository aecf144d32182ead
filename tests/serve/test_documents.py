"""The documents of one plan: made in steps, once, by whoever asks; kept while they are few."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kit.versions import CONTRACT, DATATYPES
from modelyard.artifacts.manifest import Manifest
from modelyard.contract.decision import Decision
from modelyard.contract.plan import PlannedEndpoint, PlannedVersion, TrafficSplit
from modelyard.contract.settings import Settings
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.serve import docs_page
from modelyard.serve.docs_page import Documents, Wish, documents_of
from modelyard.serve.routing import Route, Routes

ALL = frozenset(("infer", "explain", "feedback"))


def routes(*names: str) -> Routes:
    """Endpoints without a model: what a document is made of is their manifests."""
    inputs = tuple(TensorSpec(column.name, DATATYPES[column.kind], (-1,)) for column in CONTRACT.features)
    signature = Signature(inputs, (TensorSpec("probability", "FP32", (-1,)),))
    manifest = Manifest(
        "m", "binary", "logistic", "onnx", "2026-01-01T00:00:00Z", {}, signature, CONTRACT, Decision(0.3, "no", "yes")
    )
    loaded: Any = SimpleNamespace(manifest=manifest)
    found = {}
    for name in names:
        planned = PlannedEndpoint(name, "m", (PlannedVersion(1, "0" * 64),), TrafficSplit({1: 100}))
        deployment: Any = SimpleNamespace(version=1, replica=SimpleNamespace(loaded=loaded), cutoff=0.3, max_rows=None)
        found[name] = Route(planned, {1: deployment})
    return Routes(None, found)


def made(documents: Documents, table: Routes, wish: Wish) -> tuple[Any, int]:
    """The document, and in how many steps."""
    steps = list(documents.make(table, wish))
    assert not any(steps[:-1])
    return msgspec.json.decode(steps[-1]), len(steps)


def test_a_step_is_one_endpoint_and_nothing_is_made_twice() -> None:
    table = routes("a", "b", "c")
    documents = Documents(table, Settings())
    document, steps = made(documents, table, Wish(ALL))
    assert steps == 4
    assert {"/a", "/b", "/c"} <= document["paths"].keys()
    assert made(documents, table, Wish(ALL))[1] == 1  # the whole is kept
    assert made(documents, table, Wish(frozenset(("infer",))))[1] == 1  # its parts are
    assert made(documents, table, Wish(ALL, "zh"))[1] == 4
    assert made(documents, table, Wish(ALL, "zh", "b"))[1] == 1


def test_two_who_ask_at_once_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made_parts = []
    real = docs_page.endpoint_part

    def counted(served: Any, *rest: Any) -> Any:
        made_parts.append(served.name)
        return real(served, *rest)

    monkeypatch.setattr(docs_page, "endpoint_part", counted)
    table = routes("a", "b", "c", "d")
    documents = Documents(table, Settings())
    one, other = iter(documents.make(table, Wish(ALL))), iter(documents.make(table, Wish(ALL)))
    answers: list[bytes] = []
    while len(answers) < 2:
        for steps in (one, other):
            answers += [part for part in (next(steps, b""),) if part]
    assert answers[0] == answers[1]
    assert sorted(made_parts) == ["a", "b", "c", "d"]


def test_whole_documents_are_kept_up_to_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    table = routes("a")
    documents = Documents(table, Settings())
    wishes = [Wish(frozenset(("infer", f"explain:{at}"))) for at in range(5)]
    made(documents, table, wishes[0])
    size = len(documents._whole[wishes[0]])
    monkeypatch.setattr(docs_page, "KEPT_BYTES", 3 * size)
    for wish in wishes:
        made(documents, table, wish)
    assert list(documents._whole) == wishes[-3:]
    made(documents, table, wishes[2])
    assert list(documents._whole) == [*wishes[3:], wishes[2]]  # the latest asked for stays longest


def test_documents_go_with_the_routes_that_they_describe() -> None:
    table = routes("a")
    assert documents_of(table, Settings()) is documents_of(table, Settings())
    before = len(docs_page._documents)
    del table
    gc.collect()
    assert len(docs_page._documents) == before - 1
