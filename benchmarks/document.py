"""Writes figures into docs/reference: the tables between two marks of benchmarks.md, and the plots beside it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.report import Figures
from benchmarks.rivals import python_of
from benchmarks.server import ROOT

PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
PLOTS = ROOT / "docs" / "reference" / "plots"
TITLES = {
    "throughput": "Requests a second",
    "latency": "99th percentile of latency",
    "start": "Start and memory",
    "growth": "Growth",
}


def publish(figures: Figures, page: Path = PAGE, plots: Path = PLOTS) -> None:
    """Rewrite what is between the marks of `page`, and draw the plots."""
    drawn = draw(figures, plots)
    between(page, "figures", _tables(figures, drawn))


def publish_growth(figures: Figures, page: Path = PAGE, plots: Path = PLOTS) -> None:
    """The same for the curves of growth, which are measured apart."""
    drawn = draw(figures, plots)
    between(page, "growth", "\n\n".join([where(figures), *_growth_tables(figures), *_images(drawn)]))


def draw(figures: Figures, folder: Path) -> list[str]:
    """Draw what there are figures for, in the environment that can; the names of what was drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        figures.write(Path(file.name))
        program = Path(__file__).with_name("plots.py")
        command = [str(python_of("plots")), str(program), file.name, str(folder)]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return said.stdout.split()


def between(page: Path, name: str, text: str) -> None:
    begin, end = f"<!-- {name}: written by `make bench` -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{page.name} has lost the marks around its {name}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


def _tables(figures: Figures, drawn: list[str]) -> str:
    parts = [where(figures), *_images(drawn)]
    parts += ["### The bar", table(report.VERDICT_COLUMNS, report.verdict_rows(figures))]
    parts += ["### Load", table(report.LOAD_COLUMNS, report.load_rows(figures))]
    parts += ["### Start and memory", table(report.START_COLUMNS, report.start_rows(figures))]
    parts += [
        "### ONNX Runtime alone, in process, on one core",
        "\n".join(f"- {line}" for line in report.limit_lines(figures)),
    ]
    return "\n\n".join(parts)


def where(figures: Figures) -> str:
    m = figures.machine
    return (
        f"{figures.date}: {m['cores']} cores ({m['processor']}), {m['memory']}, {m['system']}, Python {m['python']}. "
        "The load generator ran on the same cores."
    )


def _images(drawn: list[str]) -> list[str]:
    return [f"![{TITLES[name]}](plots/{name}.svg)" for name in drawn]


def _growth_tables(figures: Figures) -> list[str]:
    return [
        table(tuple(rows[0]), [tuple(f"{value:,.2f}".removesuffix(".00") for value in row.values()) for row in rows])
        for rows in figures.growth.values()
        if rows
    ]


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)
