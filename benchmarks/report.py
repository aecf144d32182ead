"""What was measured: medians, ratios within each round, the bar beside each, and a table of it all."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.load import Round
from benchmarks.processes import Memory

OURS = "Modelyard"
OFF = "Modelyard, all off"
TRITON = "Triton, Python backend"
OTHERS = ("MLServer", "BentoML", "LitServe", "KServe SDK")
SKLEARN = "FastAPI + sklearn"
ALONE = "ONNX Runtime alone"  # in process, a session for each core: no server can pass it

# How many times a rival's requests a second ours must be, at least: Triton's Python backend, and each of the others.
BAR: dict[tuple[str, int], dict[str, float]] = {
    ("credit1", 64): {TRITON: 3.5, **dict.fromkeys(OTHERS, 20.0)},
    ("credit1", 1): {TRITON: 2.0, **dict.fromkeys(OTHERS, 5.0)},
    ("credit32", 16): {TRITON: 1.6, **dict.fromkeys(OTHERS, 4.0)},
    ("minilm", 16): {ALONE: 0.95, TRITON: 1.0, **dict.fromkeys(OTHERS, 1.1)},
    ("mixed", 64): {SKLEARN: 20.0},
}
MEMORY_BAR = {TRITON: 0.3, **dict.fromkeys(OTHERS, 0.5)}  # ours over theirs, at most
START_BAR = {TRITON: 0.5, **dict.fromkeys(OTHERS, 0.3)}
GOVERNANCE_BAR = 0.25  # of the throughput without it, at most


class Measured(msgspec.Struct, frozen=True):
    """One system under one work and number of connections: its rounds, in order."""

    work: str
    connections: int
    system: str
    rounds: list[Round]

    @property
    def per_second(self) -> float:
        """Median over the rounds."""
        return statistics.median(r.per_second for r in self.rounds)

    @property
    def p99_ms(self) -> float:
        """Median over the rounds."""
        return statistics.median(r.p99_ms for r in self.rounds)

    @property
    def errors(self) -> int:
        """Of all rounds; a figure with errors compares with nothing."""
        return sum(r.errors for r in self.rounds)


class Started(msgspec.Struct, frozen=True):
    """One system's starts, each alone on the machine: seconds to the first right answer, memory with three models."""

    system: str
    seconds: list[float]
    memory: list[Memory]

    @property
    def start_s(self) -> float:
        """Median."""
        return statistics.median(self.seconds)

    @property
    def held(self) -> float:
        """Median of the memory, what is shared counted once; 0 where the kernel does not tell."""
        return statistics.median([m.proportional for m in self.memory] or [0])


class Ratio(msgspec.Struct, frozen=True):
    """How many times a rival's throughput ours is. Each round is compared with its neighbour, not with the average."""

    work: str
    connections: int
    rival: str
    median: float
    lowest: float
    highest: float
    processor: float | None  # the rival's processor time for a request over ours; less moved by busy neighbours
    p99: float  # our p99 over the rival's, median


class Verdict(msgspec.Struct, frozen=True):
    """One line of the bar."""

    what: str
    rival: str
    figure: float
    spread: str
    bar: str
    is_met: bool


class Figures(msgspec.Struct):
    """Everything that was measured, and where and when."""

    machine: dict[str, str]
    date: str
    measured: list[Measured] = []
    started: list[Started] = []
    limits: dict[str, dict[str, float]] = {}  # work -> rows a second of ONNX Runtime alone
    growth: dict[str, list[dict[str, float]]] = {}
    grpc: list[dict[str, float | str]] = []
    failed: list[str] = []  # systems that did not start or answered wrongly, and are compared with nothing

    @property
    def errors(self) -> int:
        """Of all rounds."""
        return sum(one.errors for one in self.measured)

    @classmethod
    def read(cls, path: Path) -> Figures:
        """As `write` wrote them."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """As JSON, with what follows from them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        said = msgspec.to_builtins(self) | {
            "ratios": msgspec.to_builtins(ratios(self.measured)), "verdicts": msgspec.to_builtins(verdicts(self))
        }  # fmt: skip
        path.write_bytes(msgspec.json.format(msgspec.json.encode(said)) + b"\n")


def ratio(ours: Measured, theirs: Measured) -> Ratio | None:
    """The comparison of two systems that ran interleaved; None if either had an error, or a round without an answer."""
    pairs = list(zip(ours.rounds, theirs.rounds, strict=False))  # a rival that failed has fewer
    if not pairs or ours.errors or theirs.errors or not all(other.per_second for _, other in pairs):
        return None
    each = [mine.per_second / other.per_second for mine, other in pairs]
    cost = [other.server_us / mine.server_us for mine, other in pairs if mine.server_us and other.server_us]
    return Ratio(
        ours.work,
        ours.connections,
        theirs.system,
        statistics.median(each),
        min(each),
        max(each),
        statistics.median(cost) if cost else None,
        statistics.median(mine.p99_ms / other.p99_ms if other.p99_ms else 0.0 for mine, other in pairs),
    )


def ratios(measured: list[Measured]) -> list[Ratio]:
    """Every comparison that may be made with ours."""
    found = []
    for ours in measured:
        for theirs in measured:
            same = (ours.work, ours.connections) == (theirs.work, theirs.connections)
            if same and ours.system == OURS and theirs is not ours and (one := ratio(ours, theirs)):
                found.append(one)
    return found


def verdicts(figures: Figures) -> list[Verdict]:
    """Every line of the bar that was measured. A system with errors gives none."""
    return [*_load_verdicts(figures), *_start_verdicts(figures)]


def _load_verdicts(figures: Figures) -> Iterable[Verdict]:
    for found in ratios(figures.measured):
        what, spread = f"{found.work} c{found.connections}", f"{found.lowest:.2f}-{found.highest:.2f}"
        if found.rival == OFF:
            cost = 1 - found.median
            lost = f"{1 - found.highest:.2f}-{1 - found.lowest:.2f}"
            yield Verdict(
                f"{what}: cost of everything on", OFF, cost, lost, f"≤ {GOVERNANCE_BAR}", cost <= GOVERNANCE_BAR
            )
        elif (bar := BAR.get((found.work, found.connections), {}).get(found.rival)) is not None:
            yield Verdict(f"{what}: requests/s", found.rival, found.median, spread, f"≥ {bar:g}", found.median >= bar)
            if (found.work, found.connections, found.rival) == ("credit1", 64, TRITON):
                yield Verdict(f"{what}: p99", found.rival, found.p99, "", "≤ 1", found.p99 <= 1)


def _start_verdicts(figures: Figures) -> Iterable[Verdict]:
    by_name = {one.system: one for one in figures.started}
    if (ours := by_name.get(OURS)) is None:
        return
    yield Verdict("start, seconds", "", ours.start_s, _spread(ours.seconds), "≤ 1", ours.start_s <= 1)
    for name, bar in START_BAR.items():
        if theirs := by_name.get(name):
            each = [mine / other for mine, other in zip(ours.seconds, theirs.seconds, strict=True)]
            figure = statistics.median(each)
            yield Verdict("start", name, figure, _spread(each), f"≤ {bar:g}", figure <= bar)
    for name, bar in MEMORY_BAR.items():
        if (theirs := by_name.get(name)) and ours.held and theirs.held:
            figure = ours.held / theirs.held
            yield Verdict("memory", name, figure, "", f"≤ {bar:g}", figure <= bar)


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"


# --- telling --------------------------------------------------------------------------------------------------------


def load_rows(figures: Figures) -> list[tuple[str, ...]]:
    """The table of loads: work, connections, system, requests/s with spread, p50, p99, errors, µs, the generator."""
    rows: list[tuple[str, ...]] = []
    for one in figures.measured:
        cost = [r.server_us for r in one.rounds if r.server_us is not None]
        each = [r.per_second for r in one.rounds]
        rows.append(
            (
                one.work,
                str(one.connections),
                one.system,
                f"{one.per_second:,.0f}",
                f"{min(each):,.0f}-{max(each):,.0f}",
                f"{statistics.median(r.p50_ms for r in one.rounds):.2f}",
                f"{one.p99_ms:.2f}",
                str(one.errors),
                f"{statistics.median(cost):,.0f}" if cost else "–",
                f"{statistics.median(r.generator_cores for r in one.rounds):.2f}",
                str(sum(r.sampled for r in one.rounds)),
            )
        )
    return rows


LOAD_COLUMNS = (
    "work", "conns", "system", "req/s", "over rounds", "p50 ms", "p99 ms", "errors", "server µs/req", "wrk cores",
    "sampled",
)  # fmt: skip


def start_rows(figures: Figures) -> list[tuple[str, ...]]:
    """System, seconds to the first right answer, memory once and as it adds up."""
    return [
        (
            one.system,
            f"{one.start_s:.2f}",
            _spread(one.seconds),
            f"{one.held / 1e6:,.0f}",
            f"{statistics.median([m.resident for m in one.memory] or [0]) / 1e6:,.0f}",
        )
        for one in figures.started
    ]


START_COLUMNS = ("system", "start s", "over rounds", "memory MB (PSS)", "RSS MB")


def verdict_rows(figures: Figures) -> list[tuple[str, ...]]:
    """What, against whom, figure, spread, bar, met."""
    return [
        (v.what, v.rival, f"{v.figure:.2f}", v.spread, v.bar, "yes" if v.is_met else "no") for v in verdicts(figures)
    ]


VERDICT_COLUMNS = ("what", "against", "figure", "over rounds", "bar", "met")


def limit_lines(figures: Figures) -> list[str]:
    """ONNX Runtime alone, in words."""
    lines = []
    for work, each in figures.limits.items():
        lines.append(f"{work}: " + ", ".join(f"{rows} at once {rate:,.0f} rows/s" for rows, rate in each.items()))
    return lines


def show(console: Console, figures: Figures) -> None:
    """Print it all."""
    if figures.measured:
        _table(console, "medians over interleaved rounds", LOAD_COLUMNS, load_rows(figures), left=(0, 2))
    if figures.started:
        _table(console, "each alone, three models, two workers", START_COLUMNS, start_rows(figures), left=(0,))
    for line in limit_lines(figures):
        console.print(f"ONNX Runtime alone, in process, one core: {line}", highlight=False)
    for found in ratios(figures.measured):
        processor = f", {found.processor:.1f} × less processor time a request" if found.processor else ""
        console.print(
            f"[bold]{found.work} c{found.connections}: {found.median:.2f} × {found.rival}[/bold] "
            f"({found.lowest:.2f}-{found.highest:.2f} over the rounds{processor}; p99 {found.p99:.2f} of theirs)"
        )
    if rows := verdict_rows(figures):
        _table(console, "the bar", VERDICT_COLUMNS, rows, left=(0, 1))
    for reason in figures.failed:
        console.print(f"not compared: {reason}", style="bold red", highlight=False, markup=False)
    if figures.errors:
        console.print(f"[bold red]{figures.errors} errors[/bold red]: systems with errors are compared with nothing")


def _table(
    console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], left: tuple[int, ...]
) -> None:
    table = Table(title=title, title_justify="left")
    for position, name in enumerate(columns):
        table.add_column(name, justify="left" if position in left else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
