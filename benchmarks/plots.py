"""Draws figures as SVG, in an environment of its own: `python plots.py FIGURES.json FOLDER` prints what it drew."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "modelyard", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
matplotlib.rcParams |= {"axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True, "grid.alpha": 0.25}

from matplotlib import pyplot  # noqa: E402 - the backend is chosen first

OURS, REST = "#0b6e4f", "#8a94a6"
Figures = dict[str, Any]


def main(source: Path, folder: Path) -> None:
    """Draw each plot that there are figures for."""
    figures = json.loads(source.read_text("utf-8"))
    plots: dict[str, Callable[[Figures], Any]] = {
        "throughput": throughput, "latency": latency, "start": start, "growth": growth
    }  # fmt: skip
    for name, plot in plots.items():
        if (drawn := plot(figures)) is not None:
            drawn.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
            print(name)


def throughput(figures: Figures) -> Any:
    """One panel for each work: median requests a second of every system, with the range over the rounds."""
    return _panels(figures["measured"], "per_second", "requests/s")


def latency(figures: Figures) -> Any:
    """The same of the 99th percentile."""
    return _panels(figures["measured"], "p99_ms", "p99, ms")


def start(figures: Figures) -> Any:
    """Seconds to the first right answer, and memory."""
    started = figures["started"]
    if not started:
        return None
    drawn, (left, right) = pyplot.subplots(1, 2, figsize=(9, 0.32 * len(started) + 0.9))
    names = [one["system"] for one in started]
    _bars(left, names, [one["seconds"] for one in started], "seconds to the first right answer")
    memory = [[m["proportional"] / 1e6 for m in one["memory"]] or [0.0] for one in started]
    _bars(right, names, memory, "memory with three models, MB")
    right.set_yticklabels([])
    return drawn


def growth(figures: Figures) -> Any:
    """One panel for each curve: latency against what grows."""
    curves = {name: rows for name, rows in figures["growth"].items() if rows}
    if not curves:
        return None
    drawn, panels = pyplot.subplots(1, len(curves), figsize=(3.4 * len(curves), 2.6), squeeze=False)
    for panel, (name, rows) in zip(panels[0], curves.items(), strict=True):
        across, *found = rows[0]
        lines = [one for one in found if one.endswith("row")] or [one for one in found if one.endswith("ms")]
        for line, style in zip(lines, ("o-", "s--", "^:"), strict=False):
            panel.plot([row[across] for row in rows], [row[line] for row in rows], style, color=OURS, label=line, ms=4)
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_xlabel(across)
        panel.set_title(name)
        panel.legend(frameon=False)
    drawn.tight_layout()
    return drawn


def _panels(measured: list[Figures], value: str, label: str) -> Any:
    groups: dict[str, list[Figures]] = {}
    for one in measured:
        if any(r[value] for r in one["rounds"]):  # ONNX Runtime alone has no latency
            many = "connection" if one["connections"] == 1 else "connections"
            groups.setdefault(f"{one['work']}, {one['connections']} {many}", []).append(one)
    if not groups:
        return None
    heights = [len(group) for group in groups.values()]
    drawn, panels = pyplot.subplots(
        len(groups), 1, figsize=(7, 0.27 * sum(heights) + 0.75 * len(groups)), squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for (panel,), (title, group) in zip(panels, groups.items(), strict=True):
        _bars(panel, [one["system"] for one in group], [[r[value] for r in one["rounds"]] for one in group], label)
        panel.set_title(title, loc="left", fontsize=10)
    drawn.tight_layout()
    return drawn


def _bars(panel: Any, names: list[str], values: list[list[float]], label: str) -> None:
    middles = [median(each) for each in values]
    around = [
        [middle - min(each) for middle, each in zip(middles, values, strict=True)],
        [max(each) - middle for middle, each in zip(middles, values, strict=True)],
    ]
    colours = [OURS if name.startswith("Modelyard") else REST for name in names]
    panel.barh(names, middles, xerr=around, color=colours, error_kw={"lw": 0.8, "alpha": 0.6})
    panel.invert_yaxis()
    panel.set_xlabel(label)
    for position, (middle, each) in enumerate(zip(middles, values, strict=True)):
        text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
        panel.annotate(text, (max(each), position), (4, 0), textcoords="offset points", va="center", fontsize=8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
