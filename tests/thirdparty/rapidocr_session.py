"""Run by RapidOCR's own environment: what it reads in the pages of a folder, told as JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rapidocr_onnxruntime import RapidOCR


def main(folder: str) -> None:
    """Read every PNG in the folder, in the order of their names."""
    engine = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
    pages, seconds = [], []
    for path in sorted(Path(folder).glob("*.png")):
        began = time.perf_counter()
        found, _ = engine(path.read_bytes())
        seconds.append(time.perf_counter() - began)
        pages.append([{"box": box, "text": text, "confidence": float(score)} for box, text, score in found or ()])
    print(json.dumps({"pages": pages, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
