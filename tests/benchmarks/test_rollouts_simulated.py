"""The simulation decides as the product does, and its bounds hold for a smaller number of rollouts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rollouts import COLUMNS, PAGE, SCENARIOS, Rollouts, Scenario, simulate, write
from modelyard.contract.counters import Counts
from modelyard.optimise.promotion import (
    Advance,
    Figures,
    Finish,
    Progress,
    RollBack,
    advanced,
    finding_of,
    next_action,
    take_in,
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def figures_of(came: dict[str, np.ndarray], at: int) -> Figures:
    """What one rollout's gateway would have counted."""

    def side(name: str) -> Counts:
        part = {key.removeprefix(f"{name}_"): values[at] for key, values in came.items() if key.startswith(name)}
        answered = part["calls"] - part["errors"] - part["violations"]
        numbers = (answered, part["errors"], part["violations"], part["batches"])
        return Counts(*(int(number) for number in numbers), tuple(int(count) for count in part["latency"]))

    return Figures(side("champion"), side("candidate"))


@pytest.mark.parametrize(
    "name", ["errors 1 % -> 3 %", "latency x 1.5, batches of 16", "as good: 1 % errors, 20 calls/s"]
)
def test_what_is_simulated_is_what_the_product_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = BY_NAME[name]
    many = Rollouts(scenario, 3, np.random.default_rng(5))
    drawn: list[dict[str, np.ndarray]] = []
    draw = many._calls

    def kept() -> dict[str, np.ndarray]:
        came = draw()
        drawn.append({key: values.copy() for key, values in came.items()})
        return came

    monkeypatch.setattr(many, "_calls", kept)
    ones, ended = [Progress()] * 3, [""] * 3
    for _ in range(400):
        many.look()
        evidence = np.stack([watch.evidence() for watch in many.watches])
        for at in range(3):
            if ended[at]:
                continue
            ones[at] = take_in(scenario.policy, ones[at], figures_of(drawn[-1], at), 1.0)
            for guard, log in zip(scenario.policy.guards, evidence[:, at], strict=True):
                said = finding_of(guard, scenario.policy, ones[at]).evidence
                assert math.log(said) == pytest.approx(min(log, 700), abs=1e-6)
            match next_action(scenario.policy, ones[at]):
                case RollBack(_, finding):
                    ended[at] = finding.kind
                case Finish():
                    ended[at] = "finished"
                case Advance(step):
                    ones[at] = advanced(ones[at], step)
            assert many.ended[at] == ended[at]
            assert ended[at] or many.step[at] == ones[at].step
        if all(ended):
            break
    assert all(ended)


@pytest.mark.parametrize("name", ["as good: 1 % errors, 20,000 calls/s", "on the edge: errors 0.2 points more"])
def test_few_good_ones_are_rolled_back(name: str) -> None:
    """At most 5 % are promised; of 50, seven or more would be one chance in a hundred even then."""
    assert simulate(BY_NAME[name], 50, seed=1).share <= 6 / 50


@pytest.mark.parametrize("name", ["errors 0.5 % -> 5 %", "latency x 2", "violations 0 -> 3 %"])
def test_most_bad_ones_are_found(name: str) -> None:
    """At least 90 % are promised; of 50, fewer than 40 would be one chance in two hundred."""
    outcome = simulate(BY_NAME[name], 50, seed=1)
    assert outcome.share >= 40 / 50
    assert np.median(outcome.calls) < 1000


def test_every_scenario_stands_in_the_docs(tmp_path: Path) -> None:
    text = PAGE.read_text("utf-8")
    assert " | ".join(COLUMNS) in text
    for scenario in SCENARIOS:
        assert f"| {scenario.name} |" in text
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    write([simulate(BY_NAME["errors 0 -> 100 %"], 5)], page)
    assert "5 rollouts of each scenario" in page.read_text("utf-8")
    assert page.read_text("utf-8").startswith(text[:200])


def test_a_drift_and_a_burst_do_something() -> None:
    for name in (
        "as good: errors rise a hundredfold meanwhile",
        "as good: one second of twenty, a fifth of all calls fails",
    ):
        scenario: Scenario = BY_NAME[name]
        rollouts = Rollouts(scenario, 20, np.random.default_rng(0))
        rollouts.looks = 600
        errors = sum(float(rollouts._calls()["champion_errors"].mean()) for _ in range(40)) / 40
        assert errors > 15
