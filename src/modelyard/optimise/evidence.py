"""How strongly two streams of yes-or-no outcomes speak against "the candidate is not worse", at every look.

A block is what came between two looks: calls of the champion and of the candidate, and how many of each were bad. Each
block multiplies a running evidence. If the candidate is no worse than allowed, its expectation never exceeds 1 whatever
was seen before; so the chance that it *ever* reaches 1/a is at most a (Ville 1939), however often somebody looks and
whenever he stops. No normal approximation is made: one bad call of a thousand is counted as exactly that.

The bet on one block: choose a point on the edge of what is allowed, p for the champion and p + margin for the
candidate, and beside it an alternative p - x and p + margin + y with

    champion_calls x / p(1-p)  =  candidate_calls y / (p+margin)(1-p-margin)

and take the likelihood ratio of the alternative to the point. Its expectation is (1 + linear)^calls for each stream, so
its logarithm is concave in the true rates; the equation says that its slope along the edge is 0 and inwards below 0.
Hence it is at most 1 for all rates that are allowed, also if they change from block to block with the hour of the day.
This is the growth-optimal bet of Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that
allow for optional stopping" (J. Stat. Plan. Inference 230, 2024), with the null moved by a margin as in Turner and
Grünwald, "Exact anytime-valid confidence intervals for contingency tables and beyond" (Stat. Probab. Lett. 198, 2023);
we choose the point first, which leaves nothing to be solved. See also Grünwald, de Heide and Koolen, "Safe testing"
(JRSS B 86, 2024); Lindon, Sanden and Shirikian, "Rapid regression detection in software deployments through sequential
testing" (KDD 2022).

How much worse the candidate is, is not known: the bet is a mixture over `EFFECTS` and over not betting at all,
weighted by how well each explains what came before. Weights from the past keep the expectation; a candidate that looks
good stops being bet against, so evidence is not frittered away while it serves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# How much worse, in log-odds beyond what is allowed: from a seventh more to two thousand times as many.
EFFECTS = np.array([0.15, 0.3, 0.5, 0.75, 1.05, 1.4, 1.8, 2.3, 3.0, 4.0, 5.5, 7.5])
NO_BET = 0.3  # the weight of not betting, before anything was seen
_ROUNDS = 2  # of choosing the point; any point is fair, a near one grows faster
_TINY = 1e-9


class Table(NamedTuple):
    """Calls and bad ones among them, of both: arrays of one shape, a test for each element. Parts of calls occur."""

    champion_calls: Array
    champion_bad: Array
    candidate_calls: Array
    candidate_bad: Array


def log_evidence(seen: Table, block: Table, margin: float) -> Array:
    """The natural logarithm of what `block` multiplies the evidence by, for each test; `seen` is what came before it.

    The claim that is tested: the candidate's rate is at most the champion's plus `margin` (0 to 0.5). 0 where nothing
    can be said: before the champion was seen, or where one of the two had no call.
    """
    base = (seen.champion_bad + 0.5) / (seen.champion_calls + 1.0)
    is_open = (seen.champion_calls > 0) & (block.champion_calls > 0) & (block.candidate_calls > 0)
    is_open &= base + margin < 0.999
    base = np.where(is_open, base, 0.25)[..., None]
    worse = _shifted(base + margin, EFFECTS)
    bets = _bets(base, worse, Table(*(part[..., None] for part in block)), margin)
    weights = _weights(base + margin, worse, seen.candidate_calls[..., None], seen.candidate_bad[..., None])
    mixed = _log_sum(weights + np.concatenate([np.zeros_like(base), bets], axis=-1))
    return np.where(is_open, mixed, 0.0)


def _bets(base: Array, worse: Array, block: Table, margin: float) -> Array:
    """The logarithm of each bet's outcome; `base` and `worse` are where the two rates are thought to be."""
    here, there = np.maximum(block.champion_calls, _TINY), np.maximum(block.candidate_calls, _TINY)
    point = np.broadcast_to(base, worse.shape)
    for _ in range(_ROUNDS):
        ratio = _variance(point) / _variance(point + margin)
        point = (here * base + there * ratio * (worse - margin)) / (here + there * ratio)
        point = np.clip(point, _TINY, 1 - margin - _TINY)
    edge = point + margin
    up = np.maximum(worse - edge, 0.0)
    down = up * there / here * _variance(point) / _variance(edge)
    fits = np.minimum(1.0, 0.98 * point / np.maximum(down, _TINY**2))  # a rate stays above 0
    up, down = up * fits, down * fits
    outcome: Array = (
        block.champion_bad * np.log1p(-down / point)
        + (block.champion_calls - block.champion_bad) * np.log1p(down / (1 - point))
        + block.candidate_bad * np.log1p(up / edge)
        + (block.candidate_calls - block.candidate_bad) * np.log1p(-up / (1 - edge))
    )
    return outcome


def _weights(edge: Array, worse: Array, calls: Array, bad: Array) -> Array:
    """Logarithms of the weights of no bet and of each effect, by what the candidate did before; they sum to 1."""
    fine = np.minimum((bad + 0.5) / (calls + 1.0), edge)
    rates = np.concatenate([fine, worse], axis=-1)
    prior = np.log(np.concatenate([[NO_BET], np.full(len(EFFECTS), (1 - NO_BET) / len(EFFECTS))]))
    weights: Array = prior + bad * np.log(rates) + (calls - bad) * np.log1p(-rates)
    return weights - _log_sum(weights)[..., None]


def _variance(rate: Array) -> Array:
    return rate * (1.0 - rate)


def _shifted(rate: Array, log_odds: Array) -> Array:
    moved: Array = 1.0 / (1.0 + (1.0 - rate) / rate * np.exp(-log_odds))
    return moved


def _log_sum(logs: Array) -> Array:
    """The logarithm of the sum over the last axis, without overflow."""
    top = logs.max(axis=-1, keepdims=True)
    sums: Array = np.log(np.exp(logs - top).sum(axis=-1)) + top[..., 0]
    return sums


def log_mean(logs: Array) -> Array:
    """The evidence of several tests together, over the last axis: the mean of what each says is again a fair bet."""
    mean: Array = _log_sum(logs) - np.log(logs.shape[-1])
    return mean
