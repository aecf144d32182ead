"""Text in, embeddings or classes out: a tokenizer and an ONNX encoder that live in one version.

Everything between the caller's string and the answer is a value in the artifact (`text.json`): how long a text may be,
how token vectors become one vector, which logit is which class. Nothing is downloaded and nothing is guessed here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from modelyard.artifacts.store import Artifact
from modelyard.contract.encoding import refusal
from modelyard.contract.errors import InvalidInput, Violation
from modelyard.contract.tensor import Matrix, Tensors
from modelyard.runtimes.buckets import runs
from modelyard.runtimes.sessions import open_session

# Tokenizers would start one thread for each core, in each worker: the machine's threads are divided once, by us.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

INPUT = "text"
TEXT_FILE = "text.json"
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class TextRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How texts become the encoder's tensors, and its output what callers get: the file `text.json`."""

    output: str  # of the graph
    max_length: int  # tokens of one text, special ones included
    answer: Literal["embedding", "classes"] = "embedding"
    truncate: bool = False  # cut longer texts; otherwise they are refused
    max_characters: int = 0  # of one text, before it is cut into tokens; 0: 64 for each token of `max_length`
    prefix: str = ""  # written before every text
    lower_case: bool = False
    pooling: Literal["mean", "cls", "none"] = "mean"  # none: the graph itself answers one vector a text
    normalise: bool = True  # every embedding has length 1
    labels: tuple[str, ...] = ()  # of the logits, in their order
    pad_id: int = 0
    buckets: tuple[int, ...] = (16, 32, 64, 128, 256)  # texts are only padded beside texts of their own bucket
    batch_tokens: int = 256  # of one run, for each thread: what a core's cache holds; larger runs gain nothing
    together: bool = True  # measured: padding and neighbours change no answer. If not, every text runs alone

    def __post_init__(self) -> None:
        if self.max_length < 1 or self.batch_tokens < 1 or self.max_characters < 0 or self.pad_id < 0:
            raise ValueError("max_length and batch_tokens are at least 1, max_characters and pad_id at least 0")
        if any(low >= high for low, high in pairwise((0, *self.buckets))):
            raise ValueError("buckets are positive and ascend")
        if (self.answer == "classes") != (len(self.labels) >= 2) or len(set(self.labels)) != len(self.labels):
            raise ValueError("a classifier has two or more labels, all different, and an embedding has none")

    @property
    def longest(self) -> int:
        """Characters that one text may have."""
        return self.max_characters or 64 * self.max_length

    def written(self, text: str) -> str:
        """The text as the tokenizer sees it."""
        return self.prefix + (text.lower() if self.lower_case else text)


class TextRuntime:
    """One tokenizer and one encoder. Several threads may call it at once: neither keeps state between calls."""

    is_thread_safe = True

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self.recipe = msgspec.json.decode(artifact.read(TEXT_FILE), type=TextRecipe)
        self._tokenizer = open_tokenizer(artifact.read("tokenizer.json"), self.recipe)
        self._session = open_session(artifact, threads)
        self._fed = {tensor.name: _FEEDS[tensor.name] for tensor in self._session.get_inputs()}
        self._dtypes = {tensor.name: _INTEGERS[tensor.type] for tensor in self._session.get_inputs()}
        self._budget = self.recipe.batch_tokens * threads if self.recipe.together else 0
        self._labels = np.array(self.recipe.labels, dtype=object)

    def predict(self, inputs: Tensors) -> Tensors:
        """Of `text`, BYTES [n]: `embedding`, FP32 [n, width]; or `label`, BYTES [n], and `probabilities`, FP32
        [n, classes]. Raises InvalidInput that names the rows and limits of texts that are too long or no text."""
        encodings = self._encode(inputs[INPUT])
        vectors: NDArray[np.float32] | None = None
        for rows in runs([len(encoding) for encoding in encodings], self.recipe.buckets, self._budget):
            found = self._run([encodings[row] for row in rows])
            if vectors is None:
                vectors = np.empty((len(encodings), *found.shape[1:]), dtype=np.float32)
            vectors[rows] = found
        if vectors is None:
            raise InvalidInput("there is no row; send at least one text")
        return self._answer(vectors)

    def contributions(self, inputs: Tensors) -> Matrix | None:
        """No text version explains itself."""
        return None

    def close(self) -> None:
        """Let go of the session and the tokenizer."""
        del self._session, self._tokenizer

    def _encode(self, texts: NDArray[Any]) -> list[Encoding]:
        recipe = self.recipe
        found: list[Violation] = []
        ready = [self._prepared(text, row, found) for row, text in enumerate(texts.tolist())]
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(ready) if not found else []
        for row, encoding in enumerate(encodings):
            if len(encoding) > recipe.max_length:
                limit = f"is above the limit max_length={recipe.max_length} tokens: it has {len(encoding)}"
                found.append(Violation("max_length", limit, INPUT, row))
            elif not len(encoding):
                found.append(Violation("missing", "must not be empty", INPUT, row))
        if found:
            raise refusal(found)
        return encodings

    def _prepared(self, text: object, row: int, found: list[Violation]) -> str:
        longest = self.recipe.longest
        if not isinstance(text, str) or not _is_unicode(text):
            found.append(Violation("type", "must be text in UTF-8", INPUT, row))
            return ""
        if len(text) > longest:
            if not self.recipe.truncate:
                limit = f"is above the limit max_characters={longest}: it has {len(text)}"
                found.append(Violation("max_characters", limit, INPUT, row))
                return ""
            text = text[:longest]  # what lies beyond would be cut off as tokens anyway; it is not worth tokenising
        return self.recipe.written(text)

    def _run(self, encodings: list[Encoding]) -> NDArray[np.float32]:
        """One vector for each text: pooled, or logits."""
        lengths = [len(encoding) for encoding in encodings]
        shape = (len(encodings), max(lengths))
        feeds: Tensors = {}
        for name, (values, padding) in self._fed.items():
            rows = np.full(shape, self.recipe.pad_id if padding is None else padding, dtype=self._dtypes[name])
            for row, encoding in enumerate(encodings):
                rows[row, : lengths[row]] = values(encoding)
            feeds[name] = rows
        answer: NDArray[np.float32] = self._session.run([self.recipe.output], feeds)[0]
        if self.recipe.pooling == "none":
            return answer
        if self.recipe.pooling == "cls":
            return answer[:, 0]
        # Row by row, so that padding takes no part in the sum, not even as zeros.
        return np.stack([tokens[:length].mean(axis=0) for tokens, length in zip(answer, lengths, strict=True)])

    def _answer(self, vectors: NDArray[np.float32]) -> Tensors:
        if self.recipe.answer == "classes":
            probabilities = _softmax(vectors)
            return {"label": self._labels[probabilities.argmax(axis=1)], "probabilities": probabilities}
        if self.recipe.normalise:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        return {"embedding": vectors}


def open_tokenizer(data: bytes, recipe: TextRecipe) -> Tokenizer:
    """The tokenizer of those bytes (`tokenizer.json`), cutting as the recipe says and never padding.

    Raises InvalidInput if the bytes are none.
    """
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises Exception itself
        raise InvalidInput(f"tokenizer.json is not read by the library tokenizers: {str(error)[:200]}") from None
    cut = tokenizer.truncation or {}
    tokenizer.no_padding()  # runs are padded here, to their own longest text
    tokenizer.no_truncation()
    if recipe.truncate:
        tokenizer.enable_truncation(recipe.max_length, direction=cut.get("direction", "right"))
    return tokenizer


# What a graph's inputs are fed with: the values of one text, and what pads them (None: the recipe's pad_id).
_FEEDS: dict[str, tuple[Callable[[Encoding], Any], int | None]] = {
    "input_ids": (lambda encoding: encoding.ids, None),
    "attention_mask": (lambda encoding: 1, 0),
    "token_type_ids": (lambda encoding: encoding.type_ids, 0),
}
FED = tuple(_FEEDS)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _is_unicode(text: str) -> bool:
    """Whether it can be written in UTF-8: JSON may escape half of a surrogate pair, and tokenizers take none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
