"""What changes while a soak calls: one version after the other, or how three of them share the calls."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping

import numpy as np

from benchmarks.caller import Judge, Said, difference
from benchmarks.gateway import Gateway, Traffic
from benchmarks.work import Work, graph_answers
from modelyard.contract.plan import Shadow, TrafficSplit
from modelyard.contract.split import Spans, move_slots
from modelyard.serve.routing import slot_of

SERVED_S = 30.0  # within which every worker must follow
SHARES: tuple[dict[int, int], ...] = (
    {1: 100}, {1: 99, 2: 1}, {1: 90, 2: 10}, {1: 50, 2: 50}, {1: 40, 2: 30, 3: 30}, {2: 20, 3: 80}, {3: 100},
)  # fmt: skip
HEADER = "x-customer"


class Followed:
    """How long the workers took to follow."""

    def __init__(self) -> None:
        self.count = 0
        self.slowest_s = 0.0

    async def publish(
        self, gateway: Gateway, held: Mapping[str, Mapping[int, str]], traffic: Mapping[str, Traffic] | None = None
    ) -> None:
        """Publish, and wait until every worker follows."""
        began = time.monotonic()
        revision = gateway.publish(held, traffic or {})
        while not gateway.serves(revision) and time.monotonic() < began + SERVED_S:
            await asyncio.sleep(0.02)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.count += 1


class NewVersions:
    """Two works take turns behind one endpoint, a new version each time."""

    def __init__(self, works: tuple[Work, Work], endpoints: dict[str, dict[int, str]]) -> None:
        self.works, self.endpoints = works, endpoints
        self.followed = Followed()
        self._live = {1}  # versions that may answer now
        self._answers: dict[str, list[list[np.ndarray]]] = {}  # of both, by the work whose bodies are asked

    def headers(self, caller: int) -> dict[str, str]:
        """What a caller says besides."""
        return {}

    def judge(self, caller: int, work: Work) -> Judge:
        """Version n is work n - 1, modulo two: each answers the same rows differently."""
        answers = self.answers(work)

        def judge(said: Said, at: int) -> str | None:
            version = int(said.model_version)
            if version not in self._live:
                return f"version {version} answered while {sorted(self._live)} were deployed"
            return difference(said, answers[(version - 1) % 2][at], work.output)

        return judge

    def answers(self, work: Work) -> list[list[np.ndarray]]:
        """What each of the two says to the bodies of a work behind their endpoint."""
        if work.name not in self._answers:
            both = [graph_answers(one, work.bodies) for one in self.works]
            self._answers[work.name] = [[np.array(each) for each in one] for one in both]
        return self._answers[work.name]

    async def run(self, gateway: Gateway, until: float, every_s: float) -> None:
        """Deploy one after the other."""
        moving = self.works[0].endpoint
        number = 1
        while time.monotonic() + every_s < until:
            await asyncio.sleep(every_s)
            number += 1
            self._live = {number - 1, number}
            held = {**self.endpoints, moving: {number: self.works[(number - 1) % 2].digest}}
            await self.followed.publish(gateway, held)


class NewSplits(NewVersions):
    """Three versions share the calls of one endpoint, each time otherwise: by chance or by header, shadowed or not."""

    def __init__(self, works: tuple[Work, Work], endpoints: dict[str, dict[int, str]]) -> None:
        super().__init__(works, endpoints)
        self._spans: Spans = move_slots((), SHARES[0])
        self._held = {number: works[(number - 1) % 2].digest for number in (1, 2, 3)}
        endpoints[works[0].endpoint] = self._held
        self._in_force: list[TrafficSplit] = []  # the last split and the one before it: some workers may follow it yet
        self._random = random.Random(7)

    def headers(self, caller: int) -> dict[str, str]:
        """Every caller is a customer of his own."""
        return {HEADER: str(caller)}

    def judge(self, caller: int, work: Work) -> Judge:
        """Right is what the version itself answers, and that it may answer this customer."""
        answers = self.answers(work)
        slot = slot_of(str(caller).encode(), self.works[0].endpoint)

        def judge(said: Said, at: int) -> str | None:
            version = int(said.model_version)
            allowed: set[int] = {max(self._held)} if len(self._in_force) < 2 else set()
            for split in self._in_force:
                owners = [number for number, width in split.spans for _ in range(width)]
                allowed |= {owners[slot]} if split.sticky_by else set(owners)
            if version not in allowed:
                return f"version {version} answered where only {sorted(allowed)} may"
            return difference(said, answers[(version - 1) % 2][at], work.output)

        return judge

    async def run(self, gateway: Gateway, until: float, every_s: float) -> None:
        """Share the calls anew, at this pace."""
        due = time.monotonic()
        while (due := due + every_s) < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            chance = self._random
            weights = chance.choice(SHARES)
            self._spans = move_slots(self._spans, weights)
            split = TrafficSplit(weights, chance.choice((HEADER, None)), self._spans)
            idle = [number for number in self._held if not weights.get(number)]
            shadow = Shadow(chance.choice(idle), chance.choice((10, 100))) if idle and chance.random() < 0.5 else None
            self._in_force = [*self._in_force[-1:], split]
            traffic = {self.works[0].endpoint: Traffic(split, shadow)}
            await self.followed.publish(gateway, self.endpoints, traffic)
