"""Classes as users write them, well-behaved and not: served by name, in model workers."""
# ruff: noqa: RUF012 - users declare what goes in and out without ClassVar

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.contract.errors import InvalidInput

Arrays = dict[str, Any]


class Sums:
    """Adds up each row; a row's first number may ask for mischief."""

    inputs = {"x": ("FP32", (-1, 3))}
    outputs = {"total": ("FP32", (-1,)), "pid": ("INT64", (-1,))}

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def predict(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        for first in x[:, 0].tolist():
            self.obey(first)
        return {"total": x.sum(axis=1), "pid": np.full(len(x), os.getpid())}

    def obey(self, first: float) -> None:
        match first:
            case -1.0:
                os.kill(os.getpid(), signal.SIGKILL)
            case -2.0:
                time.sleep(60)
            case -3.0:
                self.kept.append(os.urandom(1 << 20) * 200)
            case -4.0:
                raise RuntimeError("what a caller sent: 4711")
            case -6.0:
                re.match("(a+)+b", "a" * 60)  # holds the interpreter for ever
            case -5.0:
                print("the last words", flush=True)
                os.abort()


class Unhurried(Sums):
    """The same at 40 us a row, on whatever machine: so many rows are more than one batch should hold."""

    def predict(self, inputs: Arrays) -> Arrays:
        time.sleep(len(inputs["x"]) * 40e-6)
        return super().predict(inputs)


class Calm(Sums):
    """The same without mischief."""

    def obey(self, first: float) -> None:
        pass


class Echo:
    """Gives back what it gets, texts in capitals."""

    inputs = {"text": ("BYTES", (-1,)), "numbers": ("FP64", (-1, -1)), "flag": ("BOOL", (-1,))}
    outputs = {"text": ("BYTES", (-1,)), "numbers": ("FP64", (-1, -1)), "flag": ("BOOL", (-1,))}

    def predict(self, inputs: Arrays) -> Arrays:
        texts = [text.upper() if isinstance(text, str) else text for text in inputs["text"].tolist()]
        return {
            "text": np.array([*texts, None], dtype=object)[:-1],
            "numbers": inputs["numbers"],
            "flag": ~inputs["flag"],
        }


class Words:
    """Says one row's words one by one."""

    inputs = {"text": ("BYTES", (-1,))}
    outputs = {"word": ("BYTES", (-1,))}
    example = {"text": np.array(["a b", "c d e"], dtype=object)}

    def setup(self, files: Path | None) -> None:
        self.files = files

    def predict(self, inputs: Arrays) -> Arrays:
        return {"word": np.array([text.split()[0] for text in inputs["text"]], dtype=object)}

    def stream(self, inputs: Arrays) -> Iterator[Arrays]:
        for word in inputs["text"][0].split():
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            yield {"word": np.array([word], dtype=object)}


class Picky(Words):
    """Refuses all texts but its examples."""

    def predict(self, inputs: Arrays) -> Arrays:
        if set(inputs["text"].tolist()) - {"a b", "c d e"}:
            raise InvalidInput("no such text")
        return super().predict(inputs)


class Habits:
    """Says how its process lives, and prints a lot."""

    inputs = {"x": ("FP32", (-1,))}
    outputs = {"says": ("BYTES", (-1,))}

    def setup(self, files: Path | None) -> None:
        self.thread = threading.get_ident()
        for number in range(500):
            print(f"line {number}")

    def predict(self, inputs: Arrays) -> Arrays:
        if inputs["x"][0] == -1:
            subprocess.Popen(["sleep", "300"])
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        descriptors = [f"{number} {os.readlink(f'/proc/self/fd/{number}')}" for number in _descriptors()]
        says = {
            "session": os.getsid(0) == os.getpid(),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "umask": os.umask(0o077),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "settings": [name for name in os.environ if name.startswith("MODELYARD_")],
            "descriptors": descriptors,
            "one_thread": threading.get_ident() == self.thread,
            "heavy": sorted({"django", "onnxruntime", "pandas", "sklearn"} & set(sys.modules)),
        }
        return {"says": np.array([json.dumps(says)] * len(inputs["x"]), dtype=object)}


def _descriptors() -> list[int]:
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            os.fstat(number)
        except OSError:  # the listing's own
            continue
        found.append(number)
    return found


class Ranks:
    """A row's rank among its neighbours: rows are not independent."""

    inputs = {"x": ("FP32", (-1,))}
    outputs = {"rank": ("INT64", (-1,))}

    def predict(self, inputs: Arrays) -> Arrays:
        return {"rank": inputs["x"].argsort().argsort()}


class Whole(Ranks):
    """The same, and it says so."""

    independent_rows = False


class Large:
    """Holds a lot of memory."""

    inputs = {"x": ("FP32", (-1,))}
    outputs = {"y": ("FP32", (-1,))}

    def setup(self, files: Path | None) -> None:
        self.weights = np.random.default_rng(0).random((200, 1 << 17))  # 200 MB

    def predict(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["x"] * np.float32(self.weights[0, 0])}


class Unready:
    """Cannot be set up."""

    inputs = {"x": ("FP32", (-1,))}
    outputs = {"y": ("FP32", (-1,))}

    def setup(self, files: Path | None) -> None:
        if files is not None:
            raise RuntimeError("the weights are not there")

    def predict(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["x"]}


class Crashes(Unready):
    """Ends its process with the first answer."""

    def predict(self, inputs: Arrays) -> Arrays:
        os.kill(os.getpid(), signal.SIGSEGV)
        return {}


class Nothing:
    """Has no `predict`."""

    inputs = {"x": ("FP32", (-1,))}


class Liar(Unready):
    """Declares floats and gives texts."""

    def predict(self, inputs: Arrays) -> Arrays:
        return {"y": np.array(["no"] * len(inputs["x"]))}
