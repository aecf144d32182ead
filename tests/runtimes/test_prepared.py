"""Large graphs are prepared once, mapped by every process, and answer to the last bit as they do on their own."""

import fcntl
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from kit.graphs import store_graph
from modelyard.artifacts.store import Artifact, Shelf
from modelyard.runtimes import sessions
from modelyard.runtimes.prepared import LARGE_BYTES, PreparedGraphs
from modelyard.runtimes.sessions import open_session, share_in

WIDTH = 1_500  # a matrix of 9 MB


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    return shelf.open(store_graph(shelf, large(), "large"))


def large() -> onnx.ModelProto:
    """Adds to each row the row of a table that its largest number points to."""
    weights = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("ArgMax", ["x"], ["at"], axis=1, keepdims=0),
        helper.make_node("Gather", ["weights", "at"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["y"]),
    ]
    shape = ["n", WIDTH]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(autouse=True)
def nobody_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_shared", None)
    gc.collect()  # sessions of the test before


def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32)


def answer(session: ort.InferenceSession) -> bytes:
    return bytes(session.run(["y"], {"x": rows()})[0].tobytes())


def maps() -> str:
    return Path("/proc/self/maps").read_text()


def test_a_prepared_graph_answers_as_one_of_its_own(artifact: Artifact, tmp_path: Path) -> None:
    alone = answer(open_session(artifact, 1))
    gc.collect()
    share_in(tmp_path / "graphs")
    session = open_session(artifact, 1)
    assert answer(session) == alone
    digest = artifact.manifest.files["model.onnx"].sha256
    files = {path.name for path in (tmp_path / "graphs").iterdir()}
    assert files == {f"{digest}.{kind}" for kind in ("onnx", "weights", "lock", "users")}
    assert (tmp_path / "graphs").stat().st_mode & 0o777 == 0o700
    if sys.platform == "linux":
        assert f"{digest}.weights" in maps(), "the weights are mapped, not read"


def test_convolutions_answer_as_ever(tmp_path: Path) -> None:
    """With weights that were saved as their kernels want them, ONNX Runtime 1.31 crashed on these."""
    random = np.random.default_rng(0)
    shapes = {"wide": (512, 512, 3, 3), "deep": (512, 1, 3, 3), "thin": (64, 512, 1, 1)}
    weights = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "wide"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "deep"], ["c"], group=512),
        helper.make_node("Conv", ["c", "thin"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 512, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, None, None])],
        weights,
    )
    shelf = Shelf(tmp_path / "shelf")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    artifact = shelf.open(store_graph(shelf, model, "convolutions"))
    asked = {"x": random.normal(size=(2, 512, 9, 11)).astype(np.float32)}
    alone = open_session(artifact, 1).run(["y"], asked)[0]
    gc.collect()
    share_in(tmp_path / "graphs")
    session = open_session(artifact, 1)
    assert list((tmp_path / "graphs").glob("*.weights"))
    np.testing.assert_array_equal(session.run(["y"], asked)[0], alone)


def test_the_second_session_takes_what_the_first_prepared(artifact: Artifact, tmp_path: Path) -> None:
    share_in(tmp_path)
    first = open_session(artifact, 1)
    (ready,) = tmp_path.glob("*.onnx")
    made = ready.stat().st_mtime_ns
    second = open_session(artifact, 2)  # of other threads: a session of its own over the same file
    assert second is not first
    assert ready.stat().st_mtime_ns == made
    assert answer(second) == answer(first)


def test_what_is_retired_leaves_nothing_behind_and_can_come_back(artifact: Artifact, tmp_path: Path) -> None:
    share_in(tmp_path)
    session, other = open_session(artifact, 1), open_session(artifact, 2)
    before = answer(session)
    del session
    gc.collect()
    assert list(tmp_path.glob("*.onnx")), "somebody has it still"
    assert answer(other) == before
    del other
    gc.collect()
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}
    assert answer(open_session(artifact, 1)) == before


def test_many_who_open_it_at_once_prepare_it_once(artifact: Artifact, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
import numpy as np
from modelyard.artifacts.store import Shelf
from modelyard.runtimes.sessions import open_session, share_in
share_in(Path({str(tmp_path / "graphs")!r}))
session = open_session(Shelf(Path({str(artifact.folder.parent)!r})).open({artifact.digest!r}), 1)
rows = np.random.default_rng(1).normal(size=(7, {WIDTH})).astype(np.float32)
sys.stdout.buffer.write(session.run(["y"], {{"x": rows}})[0].tobytes())
sys.stdout.flush()
sys.stdin.read()  # all hold it at the same time
"""
    asked = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    wanted = answer(open_session(artifact, 1))
    try:
        assert [os.read(one.stdout.fileno(), len(wanted)) == wanted for one in asked] == [True] * 4  # type: ignore[union-attr]
        assert len(list((tmp_path / "graphs").glob("*.onnx"))) == 1
    finally:
        for one in asked:
            one.communicate(timeout=30)
    assert len(list((tmp_path / "graphs").glob("*.onnx"))) == 1, "a process that ends takes nothing from the others"


def test_half_of_a_preparation_is_done_again(artifact: Artifact, tmp_path: Path) -> None:
    digest = artifact.manifest.files["model.onnx"].sha256
    (tmp_path / f"{digest}.weights").write_bytes(b"torn")  # its writer was killed before it renamed the graph
    (tmp_path / f"{digest}.new").write_bytes(b"torn")
    alone = answer(open_session(artifact, 1))
    gc.collect()
    share_in(tmp_path)
    assert answer(open_session(artifact, 1)) == alone


def test_where_nothing_can_be_written_the_graph_is_opened_for_itself(artifact: Artifact, tmp_path: Path) -> None:
    alone = answer(open_session(artifact, 1))
    gc.collect()
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    share_in(blocked)
    assert answer(open_session(artifact, 1)) == alone


def test_small_graphs_are_not_worth_a_file(tmp_path: Path) -> None:
    from kit.graphs import fragile

    shelf = Shelf(tmp_path / "shelf")
    small = shelf.open(store_graph(shelf, fragile(), "fragile"))
    assert small.manifest.files["model.onnx"].size < LARGE_BYTES
    share_in(tmp_path / "graphs")
    session = open_session(small, 1)
    assert session.run(None, {"rows": np.ones((1, 2), dtype=np.float32)})
    assert not (tmp_path / "graphs").exists()


def test_retiring_never_waits_for_who_prepares(artifact: Artifact, tmp_path: Path) -> None:
    share_in(tmp_path)
    session = open_session(artifact, 1)
    digest = artifact.manifest.files["model.onnx"].sha256
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with PreparedGraphs(tmp_path)._held(digest, fcntl.LOCK_EX):
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    try:
        del session
        gc.collect()  # returns at once
        assert list(tmp_path.glob("*.onnx")), "it may be wanted just now"
    finally:
        done.set()
        holder.join(30)
