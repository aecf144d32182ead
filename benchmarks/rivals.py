"""The rivals: how each is started, with what its own manual advises for two cores, in the environment of its lock.

What they serve is in `rivals/`; read it, and make it faster if you can. All serve the same three graphs: noop, credit1
and minilm. FastAPI with scikit-learn serves the credit pipeline instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.server import ROOT, WORKERS, Server, free_port
from benchmarks.work import Dialect, Work

FOLDER = Path(__file__).resolve().parent / "rivals"
STARTED = b"Application startup complete"  # each uvicorn worker says so once
DATATYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}

Starter = Callable[[], AbstractContextManager[Server]]


def rivals(works: list[Work], pipeline: Path | None = None) -> dict[str, Starter]:
    """Name -> how to start it, for graphs of these works; `pipeline` is what scikit-learn serves."""
    found: dict[str, Starter] = {
        "Triton, Python backend": lambda: triton(works),
        "MLServer": lambda: mlserver(works),
        "BentoML": lambda: bentoml(works),
        "LitServe": lambda: litserve(works),
        "KServe SDK": lambda: kserve(works),
        "FastAPI tuned": lambda: fastapi("FastAPI tuned", "fastapi_tuned", works),
        "FastAPI as usual": lambda: fastapi("FastAPI as usual", "fastapi_usual", works),
    }
    if pipeline is not None:
        found["FastAPI + sklearn"] = lambda: fastapi("FastAPI + sklearn", "fastapi_sklearn", [], pipeline)
    return found


def python_of(name: str) -> Path:
    """The interpreter of the environment that `requirements/rivals/NAME.txt` describes, made if need be."""
    subprocess.run([str(ROOT / "scripts" / "venv"), f"requirements/rivals/{name}.txt"], cwd=ROOT, check=True)
    return ROOT / ".venv" / "apart" / name / "bin" / "python"


@contextlib.contextmanager
def triton(works: list[Work]) -> Iterator[Server]:
    """NVIDIA's own binary, from nvidia-pytriton's wheel; its Python backend with two instances of each model.

    Dynamic batching without a delay: what waits while an instance is busy becomes its next batch. That is what Triton's
    guide to performance says to try first.
    """
    python = python_of("triton")
    package = next(python.parents[1].glob("lib/python*/site-packages")) / "pytriton"
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        place = Path(folder)
        backend = place / "backends" / "python"
        shutil.copytree(package / "tritonserver" / "backends" / "python", backend)
        stubs = package / "tritonserver" / "python_backend_stubs"
        shutil.copy(stubs / package.parents[1].name.removeprefix("python") / "triton_python_backend_stub", backend)
        for work in works:
            _write_triton_model(place / "models", work)
        port, grpc = free_port(), free_port()
        command = [str(package / "tritonserver" / "bin" / "tritonserver")]
        command += [f"--model-repository={place / 'models'}", f"--backend-directory={place / 'backends'}"]
        command += ["--http-address=127.0.0.1", f"--http-port={port}", "--http-thread-count=8"]
        command += ["--grpc-address=127.0.0.1", f"--grpc-port={grpc}", "--allow-metrics=false", "--log-info=false"]
        libraries = f"{package.parent / 'nvidia_pytriton.libs'}:{_library_folder(python)}"
        # As after activating the environment: Triton's stub finds its packages by the python that is first on the PATH.
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        environment = _environment(works, {"LD_LIBRARY_PATH": libraries, "PATH": path})
        with _running("Triton, Python backend", command, environment, works, port) as server:
            server.grpc_port = grpc
            server.wait_for(lambda: _answers(f"{server.url}/v2/health/ready"), "it is ready")
            yield server


def _write_triton_model(repository: Path, work: Work) -> None:
    folder = repository / work.endpoint / "1"
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / "triton_model.py", folder / "model.py")
    shutil.copy(FOLDER / "graph.py", folder)
    signature = work.shelf.open(work.digest).manifest.signature
    lines = [f'name: "{work.endpoint}"', 'backend: "python"', "max_batch_size: 256", "dynamic_batching { }"]
    lines.append(f"instance_group [{{ count: {WORKERS} kind: KIND_CPU }}]")
    for spec in signature.inputs:
        lines.append(_triton_tensor("input", spec.name, spec.datatype, spec.shape[1:]))
    spec = next(spec for spec in signature.outputs if spec.name == work.output)
    lines.append(_triton_tensor("output", spec.name, spec.datatype, spec.shape[1:]))
    (repository / work.endpoint / "config.pbtxt").write_text("\n".join(lines) + "\n", "utf-8")


def _triton_tensor(kind: str, name: str, datatype: str, shape: tuple[int, ...]) -> str:
    dims, reshape = (list(shape), "") if shape else ([1], "reshape: { shape: [] }")  # Triton knows no [rows]
    return f'{kind} [{{ name: "{name}" data_type: {DATATYPES[datatype]} dims: {dims} {reshape} }}]'


def _library_folder(python: Path) -> str:
    """Where libpython lies, which Triton's stub is linked with."""
    asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    return subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def mlserver(works: list[Work]) -> Iterator[Server]:
    """MLServer: inference in the server's own process, two threads for MiniLM, debug off.

    On two cores its inference workers and its adaptive batching each answered half as many requests.
    """
    python = python_of("mlserver")
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        port = free_port()
        settings = {
            "debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(),
            "metrics_port": free_port(), "parallel_workers": 0,
        }  # fmt: skip
        (Path(folder) / "settings.json").write_text(json.dumps(settings), "utf-8")
        for work in works:
            model = {"name": work.endpoint, "implementation": "mlserver_model.OnnxModel"}
            (Path(folder) / work.endpoint).mkdir()
            (Path(folder) / work.endpoint / "model-settings.json").write_text(json.dumps(model), "utf-8")
        command = [str(python.parent / "mlserver"), "start", folder]
        with _running("MLServer", command, _environment(works, threads=WORKERS), works, port) as server:
            server.wait_for(lambda: _answers(f"{server.url}/v2/health/ready"), "it is ready")
            yield server


@contextlib.contextmanager
def bentoml(works: list[Work]) -> Iterator[Server]:
    """BentoML: `bentoml serve` of one service with two workers and adaptive batching."""
    python, port = python_of("bentoml"), free_port()
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        command = [str(python.parent / "bentoml"), "serve", "bento_service:Service", "--working-dir", str(FOLDER)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        environment = _environment(works, {"BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "True"})
        with _running("BentoML", command, environment, works, port, "plain") as server:
            server.wait_for(lambda: _answers(f"{server.url}/readyz"), "it is ready")
            yield server


@contextlib.contextmanager
def litserve(works: list[Work]) -> Iterator[Server]:
    """LitServe: two workers for each graph, batching, its fast queue, two HTTP processes."""
    python, port = python_of("litserve"), free_port()
    command = [str(python), str(FOLDER / "litserve_server.py"), str(port)]
    with _running("LitServe", command, _environment(works), works, port, "plain") as server:
        server.wait_for(lambda: _answers(f"{server.url}/health"), "it is ready")
        yield server


@contextlib.contextmanager
def kserve(works: list[Work]) -> Iterator[Server]:
    """KServe's model server, two processes, without gRPC and without its two or three log lines for each request."""
    python, port = python_of("kserve"), free_port()
    command = [str(python), str(FOLDER / "kserve_server.py"), "--http_port", str(port), "--workers", str(WORKERS)]
    command += ["--enable_grpc", "false", "--enable_latency_logging", "false"]
    command += ["--log_config_file", str(FOLDER / "kserve_logging.json")]
    with _running("KServe SDK", command, _environment(works), works, port) as server:
        server.wait_for(lambda: _answers(f"{server.url}/v2/health/ready"), "it is ready")
        yield server


@contextlib.contextmanager
def fastapi(name: str, module: str, works: list[Work], pipeline: Path | None = None) -> Iterator[Server]:
    """`rivals/MODULE.py` under uvicorn with uvloop and httptools, two workers, no access log."""
    python, port = python_of("fastapi"), free_port()
    command = [str(python), "-m", "uvicorn", f"{module}:app", "--app-dir", str(FOLDER), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--workers", str(WORKERS), "--no-access-log"]
    environment = _environment(works, {"BENCH_PIPELINE": str(pipeline)} if pipeline else {})
    with _running(name, command, environment, works, port) as server:
        if pipeline is not None:
            server.endpoints = ("credit_scoring",)
        server.wait_for(lambda: server.log.read_bytes().count(STARTED) >= WORKERS, "every worker has started")
        yield server


@contextlib.contextmanager
def _running(
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    works: list[Work],
    port: int,
    dialect: Dialect = "v2",
) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-", ignore_cleanup_errors=True) as folder:
        endpoints = tuple(work.endpoint for work in works)
        server = Server(
            name, command, environment, Path(folder) / "server.log", port=port, dialect=dialect, endpoints=endpoints
        )
        try:
            yield server
        finally:
            server.stop()


def _environment(works: list[Work], more: Mapping[str, str] | None = None, threads: int = 1) -> dict[str, str]:
    """What every rival finds: its graphs, and one thread for each worker, as for two workers on two cores.

    threads: for the one large graph, where a single process serves it.
    """
    graphs = {work.endpoint: (str(work.graph), work.output, threads if work.name == "minilm" else 1) for work in works}
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("MODELYARD_", "PYTHONPATH"))}
    found = {**kept, "BENCH_GRAPHS": json.dumps(graphs), "OMP_NUM_THREADS": "1"}
    return found | {"PYTHONPATH": str(FOLDER)} | dict(more or {})


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False
