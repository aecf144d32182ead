"""What is measured: a model, the requests that go to it, and the answers that they must get.

Models are trained here, from a fixed seed or from the table that ships, and kept in `benchmarks/.work` until the code
that makes them changes. Expected answers are computed in this process, never read from a server.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from modelyard.artifacts.store import Shelf

FOLDER = Path(__file__).parent / ".work"
REQUESTS = 200  # different rows, sent in turn
FEATURES = 20
SEED = 7
_MADE_BY = ("artifacts", "blueprints", "contract", "data", "optimise", "runtimes", "train")


class Work(msgspec.Struct, frozen=True):
    """One thing to measure."""

    name: str
    endpoint: str
    path: str  # the same for every system
    digest: str  # of our version, on the shelf in `folder`
    bodies: list[str]  # the same bytes for every system
    expected: dict[str, list[float]]  # "modelyard" and "rival" -> the probability of each body
    folder: Path

    @property
    def shelf(self) -> Shelf:
        """Where our version lies."""
        return Shelf(self.folder / "shelf")

    @property
    def requests(self) -> Path:
        """The bodies, one a line, as the load generator reads them."""
        return self.folder / "requests.jsonl"

    def limit_us(self) -> dict[int, float]:
        """What ONNX Runtime alone needs in this process, on one core: rows in a call -> µs for each row."""
        artifact = self.shelf.open(self.digest)
        session = _session(artifact.path("model.onnx"))
        only = session.get_inputs()[0]
        width = len(artifact.manifest.contract.features)
        rows = np.random.default_rng(SEED).normal(size=(32, width)).astype(np.float32)
        return {count: _best_us(lambda n=count: session.run(["probability"], {only.name: rows[:n]})) / count  # type: ignore[misc]
                for count in (1, 8, 32)}  # fmt: skip


def probability_in(answer: bytes) -> float:
    """The probability in an answer, in our own dialect or in that of the Open Inference Protocol."""
    said = json.loads(answer)
    if "outputs" in said:
        return float(next(tensor["data"][0] for tensor in said["outputs"] if tensor["name"] == "probability"))
    return float(said["probability"])


def graph_answers(work: Work, bodies: list[str]) -> list[float]:
    """What the graph of `work` says of protocol bodies with one matrix, one row at a time, without any of our code."""
    session = _session(work.folder / "model.onnx")
    rows = [np.array([json.loads(body)["inputs"][0]["data"]], dtype=np.float32) for body in bodies]
    return [float(session.run(["probability"], {"rows": row})[0][0]) for row in rows]


def credit1(seed: int = SEED, trees: int = 300, folder: Path = FOLDER) -> Work:
    """LightGBM, `trees` trees of 31 leaves on 20 numbers, asked one row at a time in protocol V2."""
    return _kept(folder, f"credit1-{trees}-{seed}", lambda place: _make_credit1(place, seed, trees))


def mixed(folder: Path = FOLDER) -> Work:
    """The shipped credit pipeline: numbers, words and missing values of one applicant at a time."""
    return _kept(folder, "mixed", _make_mixed)


def _make_credit1(place: Path, seed: int, trees: int) -> Work:
    import lightgbm
    import pandas

    from modelyard.optimise.register import package_model

    random = np.random.default_rng(seed)
    rows = random.normal(size=(6_000, FEATURES)).astype(np.float32)
    log_odds = rows @ random.normal(size=FEATURES) + 2 * rows[:, 0] * rows[:, 1]
    frame = pandas.DataFrame(rows, columns=[f"x{position}" for position in range(FEATURES)])
    model = lightgbm.LGBMClassifier(n_estimators=trees, num_leaves=31, n_jobs=1, random_state=seed, verbose=-1)
    model.fit(frame, random.random(len(rows)) < 1 / (1 + np.exp(-log_odds)))
    manifest, files = package_model(model, frame.head(500), "credit1")
    digest = Shelf(place / "shelf").put(manifest, files)
    asked = np.round(rows[:REQUESTS].astype(np.float64), 4)
    bodies = [_v2_body(row.tolist()) for row in asked]
    (place / "model.onnx").write_bytes(files["model.onnx"])  # the rivals get the very same graph
    work = Work("credit1", "credit1", "/v2/models/credit1/infer", digest, bodies, {}, place)
    answers = graph_answers(work, bodies)
    return msgspec.structs.replace(work, expected={"modelyard": answers, "rival": answers})


def _v2_body(values: list[float]) -> str:
    tensor = {"name": "rows", "shape": [1, len(values)], "datatype": "FP32", "data": values}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":"))


def _make_mixed(place: Path) -> Work:
    import joblib

    from modelyard.blueprints.catalogue import blueprint, table_of
    from modelyard.data.rows import json_rows
    from modelyard.runtimes.load import load
    from modelyard.train.run import train

    ready = blueprint("credit_scoring")
    source = table_of(ready)
    trained = train(
        source.table, ready.recipe, name=ready.name, target=ready.target, positive=ready.positive,
        columns=ready.columns, decision=ready.decision, about=ready.about, source=ready.resource,
        data_digest=source.digest,
    )  # fmt: skip
    shelf = Shelf(place / "shelf")
    digest = shelf.put(trained.manifest, trained.files)
    labelled = source.table.filter(source.table[ready.target].is_in(["good", "bad"]))
    rows = json_rows(labelled, trained.manifest.contract)
    asked = [rows[at] for at in np.random.default_rng(SEED).choice(len(rows), REQUESTS, replace=False)]
    with load(shelf.folder / digest) as model:
        ours = [answer.probability for answer in model.predict(asked)]
    pipeline = _usual_pipeline(rows, (labelled[ready.target] == ready.positive).to_list())
    joblib.dump(pipeline, place / "pipeline.joblib")
    theirs = pipeline.predict_proba(_frame(asked))[:, 1].tolist()
    bodies = [json.dumps(row, separators=(",", ":")) for row in asked]
    expected = {"modelyard": [float(value or 0.0) for value in ours], "rival": theirs}
    return Work("mixed", ready.name, f"/{ready.name}", digest, bodies, expected, place)


def _usual_pipeline(rows: list[dict[str, Any]], outcomes: list[bool]) -> Any:
    """What is usually written for such a table: impute, encode, boost."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = _frame(rows)
    words = [name for name in frame.columns if any(isinstance(row[name], str) for row in rows)]
    numbers = [name for name in frame.columns if name not in words]
    encode = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    columns = ColumnTransformer([("numbers", SimpleImputer(strategy="median"), numbers), ("words", encode, words)])
    boosting = HistGradientBoostingClassifier(max_iter=200, max_leaf_nodes=15, learning_rate=0.03, random_state=SEED)
    return make_pipeline(columns, boosting).fit(frame, outcomes)


def _frame(rows: list[dict[str, Any]]) -> Any:
    """A frame as `rivals/mixed_usual.py` makes it: numbers as float64, words as objects, NaN where missing."""
    import pandas

    frame = pandas.DataFrame(rows).astype(object)
    return frame.apply(
        lambda column: column if column.map(lambda v: isinstance(v, str)).any() else column.astype(float)
    )


# --- keeping --------------------------------------------------------------------------------------------------------


def _kept(folder: Path, name: str, make: Callable[[Path], Work]) -> Work:
    place = folder / name
    made_by = _fingerprint()
    stamp = place / "work.json"
    if stamp.is_file():
        kept = msgspec.json.decode(stamp.read_bytes())
        if kept["made_by"] == made_by:
            return msgspec.convert(kept["work"] | {"folder": place}, Work, dec_hook=lambda _, value: Path(value))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    began = time.monotonic()
    print(f"making {name}", end=" ", flush=True)
    work = make(place)
    work.requests.write_text("\n".join(work.bodies) + "\n", "utf-8")
    said = {"made_by": made_by, "work": {**msgspec.structs.asdict(work), "folder": ""}}
    stamp.write_bytes(msgspec.json.encode(said))
    print(f"took {time.monotonic() - began:.0f} s")
    return work


def _fingerprint() -> str:
    """Of everything that decides what the models are and how they are packaged."""
    import modelyard

    digest = hashlib.sha256(Path(__file__).read_bytes())
    root = Path(modelyard.__file__).parent
    for room in _MADE_BY:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.read_bytes())
    for package in ("lightgbm", "numpy", "onnxruntime", "scikit-learn"):
        digest.update(version(package).encode())
    return digest.hexdigest()


def _session(graph: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _best_us(call: Callable[[], object], repeats: int = 5, calls: int = 200) -> float:
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, time.perf_counter() - began)
    return best / calls * 1e6
