"""The benchmarks are a package at the repository's root, which only `python -m pytest` looks into by itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
