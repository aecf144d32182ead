"""An additive model's graph answers as its numbers say, and its terms add up."""

import numpy as np
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.train.additive import Additive, Levels, Line, Steps, Term

numbers = st.floats(-4, 4, width=32)
terms: st.SearchStrategy[Term] = st.one_of(
    st.builds(Line, slope=numbers, offset=numbers, missing=numbers, logarithmic=st.booleans()),
    st.integers(0, 4).flatmap(
        lambda k: st.builds(
            Steps,
            thresholds=st.lists(numbers, min_size=k, max_size=k, unique=True).map(lambda v: tuple(sorted(v))),
            values=st.lists(numbers, min_size=k + 1, max_size=k + 1).map(tuple),
            missing=numbers,
        )
    ),
    st.builds(Levels, values=st.lists(numbers, min_size=1, max_size=5).map(tuple), missing=numbers),
)
models = st.builds(Additive, base=numbers, terms=st.lists(terms, min_size=1, max_size=5).map(tuple))


def rows_for(model: Additive) -> np.ndarray:
    rng = np.random.default_rng(0)
    columns = []
    for term in model.terms:
        if isinstance(term, Levels):
            values = rng.integers(0, len(term.values), 40).astype(np.float32)
        else:
            cuts = term.thresholds if isinstance(term, Steps) else ()
            around = [np.nextafter(np.float32(cut), np.float32(side)) for cut in cuts for side in (-9, 9)]
            values = rng.choice(np.array([*cuts, *around, *rng.normal(0, 3, 20)], dtype=np.float32), 40)
        values[rng.random(40) < 0.2] = np.nan
        columns.append(values)
    return np.column_stack(columns).astype(np.float32)


@settings(max_examples=60)
@given(models)
def test_graph_and_numbers_agree(model: Additive) -> None:
    rows = rows_for(model)
    session = ort.InferenceSession(model.to_onnx(), providers=["CPUExecutionProvider"])
    for part in (rows, rows[:1]):
        p, parts = session.run(["probability", "contributions"], {"rows": part})
        assert p.shape == (len(part),)
        np.testing.assert_allclose(p, model.probability(part), atol=1e-5)
        np.testing.assert_allclose(parts, model.contributions(part), atol=1e-4)


@given(models)
def test_centring_moves_means_and_changes_no_answer(model: Additive) -> None:
    rows = rows_for(model)
    centred = model.centred(rows)
    np.testing.assert_allclose(centred.log_odds(rows), model.log_odds(rows), atol=1e-9)
    np.testing.assert_allclose(centred.contributions(rows)[:, :-1].mean(axis=0), 0, atol=1e-9)
