"""What the rounds say: medians, ratios within each round, and a table of both."""

from __future__ import annotations

import statistics
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.load import Round


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
    def errors(self) -> int:
        """Of all rounds; a figure with errors compares with nothing."""
        return sum(r.errors for r in self.rounds)


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


def ratio(ours: Measured, theirs: Measured) -> Ratio | None:
    """The comparison of two systems that ran interleaved; None if either had an error."""
    if ours.errors or theirs.errors:
        return None
    pairs = list(zip(ours.rounds, theirs.rounds, strict=True))
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
        statistics.median(mine.p99_ms / other.p99_ms for mine, other in pairs),
    )


def ratios(measured: list[Measured]) -> list[Ratio]:
    """Every comparison that may be made; the first system of each group is ours."""
    found = []
    for ours in measured:
        for theirs in measured:
            same = (ours.work, ours.connections) == (theirs.work, theirs.connections)
            if same and ours.system == "Modelyard" and theirs is not ours and (one := ratio(ours, theirs)):
                found.append(one)
    return found


def show(console: Console, measured: list[Measured], limits: dict[str, dict[int, float]]) -> None:
    """Print the table."""
    table = Table(title="medians over interleaved rounds", title_justify="left")
    for name in ("work", "system"):
        table.add_column(name)
    for name in ("conns", "req/s", "p50 ms", "p99 ms", "errors", "server µs/req", "wrk cores"):
        table.add_column(name, justify="right")
    for one in measured:
        cost = [r.server_us for r in one.rounds if r.server_us is not None]
        table.add_row(
            one.work,
            one.system,
            str(one.connections),
            f"{one.per_second:,.0f}",
            f"{statistics.median(r.p50_ms for r in one.rounds):.2f}",
            f"{statistics.median(r.p99_ms for r in one.rounds):.2f}",
            str(one.errors),
            f"{statistics.median(cost):.1f}" if cost else "–",
            f"{statistics.median(r.generator_cores for r in one.rounds):.2f}",
        )
    console.print(table)
    for work, each in limits.items():
        said = ", ".join(f"{rows} at once {us:.1f} µs a row ({1e6 / us:,.0f} rows/s)" for rows, us in each.items())
        console.print(f"limit of {work}: ONNX Runtime alone, in process, one core: {said}")
    for found in ratios(measured):
        processor = f", {found.processor:.1f} × less processor time a request" if found.processor else ""
        console.print(
            f"[bold]{found.work} c{found.connections}: {found.median:.1f} × {found.rival}[/bold] "
            f"({found.lowest:.1f}-{found.highest:.1f} over the rounds{processor}; p99 {found.p99:.2f} of theirs)"
        )


def as_json(measured: list[Measured], limits: dict[str, dict[int, float]], machine: dict[str, Any]) -> bytes:
    """Everything measured, for programs."""
    said = {"machine": machine, "measured": measured, "ratios": ratios(measured), "limits_us_per_row": limits}
    return msgspec.json.format(msgspec.json.encode(said)) + b"\n"
