"""Bring a text encoder: a graph and its tokenizer, as model hubs lay them out, become a version that takes strings.

What the folder's settings say (pooling, normalisation, longest text, labels) becomes the recipe inside the artifact; a
setting that would change answers and is not served is a reason to refuse. The gate: the served version must answer as
the graph does when it sees each text alone and unpadded. Where padding or neighbours change its answers, as in graphs
that quantise activations over a whole batch, every text runs alone.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from tokenizers import Tokenizer

from modelyard.artifacts.manifest import Lineage, Manifest, Parity, Task
from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelyardError, NotFound
from modelyard.contract.features import Contract, Target
from modelyard.contract.names import check_name
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.contract.tensor import Tensors
from modelyard.optimise.graph_file import Graph, read_graph
from modelyard.optimise.parity import TOLERANCE, ParityFailed
from modelyard.runtimes import conformance
from modelyard.runtimes.text import FED, INPUT, TEXT_FILE, TextRecipe, TextRuntime, open_tokenizer

GRAPHS = ("model.onnx", "onnx/model.onnx")
TOKENIZER = "tokenizer.json"
SETTINGS = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)
SAMPLES = ("How do I renew my insurance?", "The bank raised its rates on Tuesday.", "今天天气很好。", "ok")
_LONGEST = 1_000_000  # a tokenizer's model_max_length above this says that it has none
_PER_LENGTH = 4  # probe texts of each length
_CONFORM = 10  # texts that the conformance kit asks, many times over

Files = Mapping[str, Path | bytes]
Pooling = Literal["mean", "cls"]


def package_text_model(
    model: str | Path | Files,
    name: str,
    *,
    pooling: Pooling | None = None,
    normalise: bool | None = None,
    max_length: int | None = None,
    truncate: bool = False,
) -> tuple[Manifest, dict[str, bytes]]:
    """A text encoder as a manifest and files, proven: `Shelf.put(manifest, files)`.

    model: a folder with `model.onnx` (or `onnx/model.onnx`) and `tokenizer.json`, and with what else the hub ships of
    `SETTINGS`; or the same as a mapping of those names to paths or bytes. pooling, normalise, max_length (tokens):
    where the folder does not say, or to say less; else mean, yes and the encoder's own limit. truncate: cut longer
    texts instead of refusing them. Raises InvalidInput with the reason, NotFound for a missing file, ParityFailed.
    """
    check_name("model", name)
    files, source = _read(model)
    graph = read_graph(files["model.onnx"])
    settings = _Settings(files)
    recipe = _recipe(graph, settings, pooling, normalise, max_length, truncate)
    probes = probe_texts(files[TOKENIZER], recipe)
    manifest = _manifest(name, graph, recipe, source)
    kept = {"model.onnx": files["model.onnx"], TOKENIZER: files[TOKENIZER]}
    recipe, parity = _prove(manifest, kept, recipe, probes)
    kept[TEXT_FILE] = msgspec.json.format(msgspec.json.encode(recipe)) + b"\n"
    manifest = msgspec.structs.replace(manifest, parity=parity)
    return manifest, kept | _samples(manifest, kept, recipe)


def probe_texts(tokenizer: bytes, recipe: TextRecipe) -> list[str]:
    """Texts of every length up to the recipe's, made of the tokenizer's own words; the same each time."""
    opened = open_tokenizer(tokenizer, msgspec.structs.replace(recipe, truncate=False))
    words = sorted(word for word in opened.get_vocab() if word.isalpha())
    random = np.random.default_rng(0)
    texts = [*SAMPLES, "?"]
    for length in (2, 5, *recipe.buckets, recipe.max_length):
        for _ in range(_PER_LENGTH if words and length <= recipe.max_length else 0):
            texts.append(" ".join(random.choice(words, max(1, int(length * random.uniform(0.5, 0.9))))))
    limit = recipe.max_length
    if words:
        before = len(opened.encode(recipe.prefix, add_special_tokens=False))
        texts.append(_cut(opened, " ".join(random.choice(words, limit)), limit - before))
    lengths = [len(opened.encode(recipe.written(text))) for text in texts]
    fits = [0 < length <= limit and len(text) <= recipe.longest for length, text in zip(lengths, texts, strict=True)]
    return list(itertools.compress(texts, fits))


def _cut(tokenizer: Tokenizer, text: str, limit: int) -> str:
    """As much of the text as has `limit` tokens."""
    ends = [end for _, end in tokenizer.encode(text).offsets if end]  # those that the tokenizer adds have none
    keep = min(len(ends), limit - tokenizer.num_special_tokens_to_add(False))
    return text[: ends[keep - 1]] if keep > 0 else ""


# --- what the folder says ---------------------------------------------------------------------------------------


def _read(model: str | Path | Files) -> tuple[dict[str, bytes], str]:
    """The files that matter, by their names in a hub's folder, and where they come from."""
    if isinstance(model, str | Path):
        folder = Path(model)
        found: Files = {name: folder / name for name in (*GRAPHS, TOKENIZER, *SETTINGS) if (folder / name).is_file()}
        source = folder.resolve().name
    else:
        found, source = model, "files"
        if unknown := sorted(set(model) - {*GRAPHS, TOKENIZER, *SETTINGS}):
            raise InvalidInput(f"no text model has a file {unknown[0]!r}; known: {', '.join((*GRAPHS, *SETTINGS))}")
    read = {name: data if isinstance(data, bytes) else _bytes(data) for name, data in found.items()}
    graph = next((read.pop(name) for name in GRAPHS if name in read), None)
    if graph is None:
        raise NotFound(f"a text model needs {' or '.join(GRAPHS)}; rename the graph that you mean, or export one")
    if TOKENIZER not in read:
        raise NotFound(f"a text model needs {TOKENIZER}; save the fast tokenizer beside the graph")
    return read | {"model.onnx": graph}, source


def _bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {Path(path).name!r}; check the path") from None


class _Settings:
    """The folder's own settings, or their defaults. Raises InvalidInput for what would change answers unseen."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.config: dict[str, Any] = _json(files, "config.json", {})
        self.sentence: dict[str, Any] = _json(files, "sentence_bert_config.json", {})
        self.tokenizer: dict[str, Any] = _json(files, "tokenizer_config.json", {})
        self._pooling: dict[str, Any] = _json(files, "1_Pooling/config.json", {})
        prompts: dict[str, Any] = _json(files, "config_sentence_transformers.json", {})
        modules: list[dict[str, Any]] = _json(files, "modules.json", [])
        self.modules = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
        if unknown := [kind for kind in self.modules if kind not in ("Transformer", "Pooling", "Normalize")]:
            raise InvalidInput(f"modules.json asks for {unknown[0]!r} after the encoder, which is not served")
        default = prompts.get("default_prompt_name")
        self.prefix = str((prompts.get("prompts") or {}).get(default, "")) if default else ""
        if self.prefix and self._pooling.get("include_prompt") is False:
            raise InvalidInput("1_Pooling/config.json leaves the prompt out of the mean, which is not served")

    @property
    def pooling(self) -> Pooling | None:
        """What makes one vector of a text's tokens, if the folder says."""
        modes = [mode.removeprefix("pooling_mode_") for mode, on in self._pooling.items() if on is True]
        asked = [mode.removesuffix("_tokens").removesuffix("_token") for mode in modes if mode != "include_prompt"]
        if "pooling_mode" in self._pooling:
            asked = [str(self._pooling["pooling_mode"])]
        if not asked:
            return None
        if asked == ["mean"]:
            return "mean"
        if asked == ["cls"]:
            return "cls"
        raise InvalidInput(f"1_Pooling/config.json asks for {' and '.join(asked)}; mean and cls are served")

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest text, if the folder says."""
        asked = (
            self.sentence.get("max_seq_length"),
            self.tokenizer.get("model_max_length"),
            self.config.get("max_position_embeddings"),
        )
        return min((int(limit) for limit in asked if isinstance(limit, int | float) and limit < _LONGEST), default=None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the logits."""
        named: dict[str, Any] = self.config.get("id2label") or {}
        try:
            return tuple(str(named[key]) for key in sorted(named, key=int))
        except (TypeError, ValueError):
            raise InvalidInput("config.json: id2label maps numbers to names") from None


def _json(files: Mapping[str, bytes], name: str, default: Any) -> Any:
    if name not in files:
        return default
    try:
        return msgspec.json.decode(files[name], type=type(default))
    except msgspec.DecodeError:
        raise InvalidInput(f"{name} is not the JSON that model hubs write") from None


def _recipe(
    graph: Graph,
    settings: _Settings,
    pooling: Pooling | None,
    normalise: bool | None,
    max_length: int | None,
    truncate: bool,
) -> TextRecipe:
    names = [spec.name for spec in graph.inputs]
    if "input_ids" not in names or not set(names) <= set(FED):
        raise InvalidInput(f"the graph takes {', '.join(names[:20])}; a text encoder takes {', '.join(FED)}")
    if odd := [spec.name for spec in graph.inputs if spec.datatype not in ("INT64", "INT32")]:
        raise InvalidInput(f"the graph's input {odd[0]!r} does not take INT64 or INT32, as tokens are")
    longest = settings.max_length
    length = max_length if max_length is not None else longest
    if length is None:
        raise InvalidInput("nothing says how long a text may be; give max_length, in tokens")
    if length < 1 or (max_length is not None and longest is not None and max_length > longest):
        raise InvalidInput(f"max_length lies between 1 and {longest or _LONGEST}, what the model allows")
    output, is_classifier = _output(graph, settings)
    labels = settings.labels if is_classifier else ()
    if is_classifier:
        _check_classes(settings, labels, output.shape[-1])
    elif settings.pooling and pooling and settings.pooling != pooling:
        raise InvalidInput(f"the folder says that its vectors are pooled by {settings.pooling}; leave pooling out")
    pooled = len(output.shape) == 2
    if pooled and not is_classifier and pooling:
        raise InvalidInput(f"the graph pools by itself ({output.name!r}); leave pooling out")
    if normalise is None:
        normalise = "Normalize" in settings.modules or not settings.modules
    pad = settings.config.get("pad_token_id")
    return TextRecipe(
        output=output.name,
        max_length=length,
        answer="classes" if is_classifier else "embedding",
        truncate=truncate,
        prefix=settings.prefix,
        lower_case=bool(settings.sentence.get("do_lower_case")),
        pooling="none" if pooled else pooling or settings.pooling or "mean",
        normalise=normalise and not is_classifier,
        labels=labels,
        pad_id=pad if isinstance(pad, int) and pad >= 0 else 0,
    )


def _output(graph: Graph, settings: _Settings) -> tuple[TensorSpec, bool]:
    """The output that matters, and whether it is a classifier's logits."""
    floats = {spec.name: spec for spec in graph.outputs if spec.datatype == "FP32"}
    flat = [spec for spec in floats.values() if len(spec.shape) == 2]
    deep = [spec for spec in floats.values() if len(spec.shape) == 3]
    asked = settings.config.get("architectures") or ()
    if "logits" in floats or any(str(kind).endswith("ForSequenceClassification") for kind in asked):
        if "logits" in floats and floats["logits"] in flat:
            return floats["logits"], True
        if len(flat) == 1:
            return flat[0], True
        raise InvalidInput("only logits of whole texts are served: one FP32 output of texts by classes")
    if (pooled := floats.get("sentence_embedding")) in flat and pooled is not None:
        return pooled, False
    if named := [spec for spec in deep if len(deep) == 1 or spec.name == "last_hidden_state"]:
        return named[0], False
    if len(flat) == 1:
        return flat[0], False
    listed = ", ".join(f"{spec.name} {spec.datatype}" for spec in graph.outputs[:20])
    raise InvalidInput(f"the graph answers {listed}; which of them is a text's vector cannot be told")


def _check_classes(settings: _Settings, labels: tuple[str, ...], width: int) -> None:
    if settings.config.get("problem_type") not in (None, "single_label_classification"):
        raise InvalidInput(f"config.json says {settings.config['problem_type']}; classifiers with one label are served")
    if len(labels) < 2:
        raise InvalidInput("a classifier needs config.json with id2label of two or more classes")
    if len(set(labels)) != len(labels):
        raise InvalidInput("config.json: two classes of id2label have the same name")
    if width not in (-1, len(labels)):
        raise InvalidInput(f"the graph has {width} logits and config.json names {len(labels)} classes")


# --- the gate ---------------------------------------------------------------------------------------------------


def _prove(
    manifest: Manifest, files: dict[str, bytes], recipe: TextRecipe, texts: Sequence[str]
) -> tuple[TextRecipe, Parity]:
    """The recipe as it may be served, and the proof. Alone and unpadded is the truth; together must equal it."""
    alone = msgspec.structs.replace(recipe, together=False)
    with _opened(manifest, files, alone) as runtime:
        truth, singles = _answers(runtime, texts)
        repeated = _difference(truth, singles)
    with _opened(manifest, files, recipe) as runtime:
        worst = max(_difference(truth, answers) for answers in _answers(runtime, texts))
        if worst <= TOLERANCE:
            _conform(runtime, texts)
            return recipe, _parity(texts, worst)
    if not repeated <= TOLERANCE:
        raise ParityFailed(f"a text's own answers differ by up to {repeated:.2g}; this graph does not repeat itself")
    with _opened(manifest, files, alone) as runtime:
        _conform(runtime, texts)
    return alone, _parity(texts, repeated)


def _parity(texts: Sequence[str], worst: float) -> Parity:
    return Parity(
        rows=len(texts), edge_rows=sum(text in SAMPLES for text in texts), tolerance=TOLERANCE, max_error=worst
    )


def _conform(runtime: TextRuntime, texts: Sequence[str]) -> None:
    conformance.require(runtime, {INPUT: np.array(texts[:_CONFORM], dtype=object)})


@contextmanager
def _opened(manifest: Manifest, files: dict[str, bytes], recipe: TextRecipe) -> Iterator[TextRuntime]:
    """The version as it would be served with this recipe."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        runtime = TextRuntime(shelf.open(shelf.put(manifest, files | {TEXT_FILE: msgspec.json.encode(recipe)})))
        try:
            yield runtime
        finally:
            runtime.close()


def _answers(runtime: TextRuntime, texts: Sequence[str]) -> tuple[Tensors, Tensors]:
    """What it says of all texts at once, and of the same one by one. Raises ParityFailed for what is no number."""
    try:
        whole = runtime.predict({INPUT: np.array(texts, dtype=object)})
    except ModelyardError:
        raise
    except Exception:  # ONNX Runtime's exceptions share no base class, and say nothing that helps here
        limit = runtime.recipe.max_length
        raise InvalidInput(f"the graph fails on texts of up to max_length={limit} tokens; give a smaller one") from None
    if any(not np.isfinite(values).all() for values in whole.values() if values.dtype.kind == "f"):
        raise ParityFailed("the graph answers numbers that are not finite; it is broken, or not a text encoder")
    singles = [runtime.predict({INPUT: np.array([text], dtype=object)}) for text in texts]
    return whole, {name: np.concatenate([single[name] for single in singles]) for name in whole}


def _difference(truth: Tensors, other: Tensors) -> float:
    """The largest of any number, relative above size 1; a label may turn only where its probability does."""
    worst = 0.0
    for name, values in truth.items():
        if values.dtype.kind == "f":
            size = np.maximum(1.0, np.abs(values.astype(np.float64)))
            worst = max(worst, float(np.max(np.abs(values - other[name]) / size)))
    return worst


# --- the artifact -----------------------------------------------------------------------------------------------


def _manifest(name: str, graph: Graph, recipe: TextRecipe, source: str) -> Manifest:
    task: Task = "tensor"
    target: Target | None = None
    outputs: tuple[TensorSpec, ...]
    if recipe.answer == "classes":
        task, target = "multiclass", Target("label", recipe.labels)
        outputs = (
            TensorSpec("label", "BYTES", (-1,)),
            TensorSpec("probabilities", "FP32", (-1, len(recipe.labels))),
        )
    else:
        width = next(spec.shape[-1] for spec in graph.outputs if spec.name == recipe.output)
        outputs = (TensorSpec("embedding", "FP32", (-1, width)),)
    return Manifest(
        model=name,
        task=task,
        framework="onnx",
        runtime="text",
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={},
        signature=Signature((TensorSpec(INPUT, "BYTES", (-1,)),), outputs, "tensors"),
        contract=Contract(columns=(), target=target),
        lineage=Lineage(
            source=f"brought: {source}",
            packages={package: version(package) for package in ("numpy", "onnxruntime", "tokenizers")},
        ),
    )


def _samples(manifest: Manifest, files: dict[str, bytes], recipe: TextRecipe) -> dict[str, bytes]:
    """Some texts with what the version answers to them, and the version's card."""
    texts = [text for text in probe_texts(files[TOKENIZER], recipe) if text in SAMPLES]
    with _opened(manifest, files, recipe) as runtime:
        whole, _ = _answers(runtime, texts)
    entries = [
        {"row": {INPUT: text}} | {name: values[row].tolist() if values.ndim > 1 else values[row] for name, values in
        whole.items()} for row, text in enumerate(texts)
    ]  # fmt: skip
    return {"samples.json": msgspec.json.encode(entries) + b"\n", "card.md": _card(manifest, files, recipe).encode()}


def _card(manifest: Manifest, files: dict[str, bytes], recipe: TextRecipe) -> str:
    graph, tokenizer = (hashlib.sha256(files[name]).hexdigest() for name in ("model.onnx", TOKENIZER))
    longer = "is cut" if recipe.truncate else "is refused"
    if recipe.answer == "classes":
        answer = f"It answers one of {len(recipe.labels)} labels and the probability of each."
    else:
        pooled = {"mean": "the mean of its tokens' vectors", "cls": "its first token's vector"}
        one = pooled.get(recipe.pooling, f"the graph's own {recipe.output}")
        answer = f"It answers {one}{', of length 1' if recipe.normalise else ''}."
    card = (
        f"# {manifest.model}\n\nA text encoder that was brought, not trained here. {answer}\n\n"
        f"A text has at most {recipe.max_length} tokens; a longer one {longer}.\n"
        f"The graph's SHA-256 is `{graph}`, the tokenizer's `{tokenizer}`.\n\n"
    )
    if manifest.parity is None:
        return card
    shown = f"{manifest.parity.rows} texts, largest difference {manifest.parity.max_error:.2g}"
    if recipe.together:
        return card + f"Texts are computed together and answer as each does alone: {shown} (allowed {TOLERANCE:.0e}).\n"
    return card + "Padding or neighbours change this graph's answers, so every text is computed alone.\n"
