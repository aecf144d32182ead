"""One gateway worker: a loop, a socket, the plan. Started by `fleet.py`, never by hand."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import ssl
import sys
import time

import msgspec
import uvloop

from modelyard.artifacts.store import Shelf
from modelyard.contract.errors import InvalidInput, ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan, WorkerState
from modelyard.contract.settings import Settings
from modelyard.runtimes.version import LoadedVersion
from modelyard.secure.request_ids import request_ids
from modelyard.serve.admission import Admission
from modelyard.serve.counters import Counters
from modelyard.serve.gateway import Gateway
from modelyard.serve.http import HttpServer
from modelyard.serve.log import log, set_up
from modelyard.serve.plans import POLL_S, PlanFile
from modelyard.serve.rates import RateTable
from modelyard.serve.reconcile import Drain, Load, Swap, next_action
from modelyard.serve.replica import Replica
from modelyard.serve.routing import Deployment, Route, Routes
from modelyard.serve.telemetry import Telemetry

HEARTBEAT_S = 0.5
GC_THRESHOLDS = (20_000, 50, 100)  # requests make and drop objects without cycles: look for cycles seldom


class Worker:
    """Moves what runs towards the plan, and tells the parent how it goes."""

    def __init__(self, number: int, settings: Settings, parent: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        home = Home(settings.root)
        self.number, self.settings, self.loop = number, settings, loop
        self.shelf = Shelf(home.shelf)
        self.plans = PlanFile(home)
        self.rates = RateTable(home.run / "rates.table")
        self.counters = Counters(home.run / "counters", number)
        self.telemetry = Telemetry(self.counters, home.records, number, settings.record_bytes)
        admission = Admission(settings, ServingPlan(revision=0, published_at=0.0), self.rates)
        ids = request_ids(home.keys)
        self.gateway = Gateway(settings, admission, self.telemetry, ids, home.run / "counters")
        self.replicas: dict[str, Replica] = {}  # by artifact digest
        self.state = WorkerState(number, os.getpid())
        self._parent = parent
        self._revision = self.counters.gauge("modelyard_plan_revision")
        self._published = self.counters.gauge("modelyard_plan_published_timestamp_seconds")
        self._lag = self.counters.gauge("modelyard_loop_lag_seconds")
        self._connections = self.counters.gauge("modelyard_connections")
        self.stopping = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Serve until told to stop, then finish what was begun."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stopping.set)
        self.loop.add_reader(self._parent, self._parent_spoke)
        await self._first_plan()
        http = HttpServer(self.settings, self.gateway, self.loop)
        server = await self.loop.create_server(http, sock=listener, ssl=_tls(self.settings), backlog=4096)
        gc.collect()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.freeze()  # what was loaded so far lives on: full collections need not look at it again
        self._report()
        followers = [asyncio.create_task(self._follow_plan()), asyncio.create_task(self._beat(http))]
        await self.stopping.wait()
        for follower in followers:
            follower.cancel()
        server.close()
        await self._drain(http)
        self.telemetry.close()
        self.counters.close()
        self.rates.close()

    async def apply(self, plan: ServingPlan) -> None:
        """Make the plan what is served, or keep what is served and say why. Keys count at once."""
        if plan.revision < self.state.revision:
            return
        wanted = frozenset(planned.digest for endpoint in plan.endpoints for planned in endpoint.versions)
        is_swapped = False
        try:
            self.gateway.admission = Admission(self.settings, plan, self.rates)
            while (step := next_action(wanted, frozenset(self.replicas), is_swapped)) is not None:
                match step:
                    case Load(digest):
                        self.replicas[digest] = await self._load(digest, plan)
                    case Swap():
                        self.gateway.routes = self._routes(plan)
                        is_swapped = True
                        self._serves(plan)
                    case Drain(digest):
                        self.loop.create_task(self._retire(self.replicas.pop(digest)))
        except Exception as error:  # ONNX Runtime's own derive from nothing narrower; the last good plan serves on
            log.error("plan refused", revision=plan.revision, reason=str(error))
            self.state = msgspec.structs.replace(self.state, refused=plan.revision, reason=str(error)[:500])
            self._report()

    async def _first_plan(self) -> None:
        try:
            plan = self.plans.first()
        except InvalidInput as error:
            log.error("no plan can be read", reason=str(error))
            return
        if plan is not None:
            await self.apply(plan)

    async def _follow_plan(self) -> None:
        """One plan after the other; but the keys of a newer one count at once, also while an older one still loads."""
        moving: asyncio.Task[None] | None = None
        waiting: ServingPlan | None = None
        while True:
            await asyncio.sleep(POLL_S)
            is_moving = moving is not None and not moving.done()
            if (plan := self._newer_plan()) is not None:
                waiting = plan
                if is_moving:
                    self._admit_early(plan)
            if waiting is not None and not is_moving:
                moving, waiting = self.loop.create_task(self.apply(waiting)), None

    def _newer_plan(self) -> ServingPlan | None:
        try:
            return self.plans.changed()
        except (InvalidInput, OSError) as error:
            log.error("plan ignored", reason=str(error))
            self.state = msgspec.structs.replace(self.state, reason=str(error)[:500])
            self._report()
            return None

    def _admit_early(self, plan: ServingPlan) -> None:
        try:
            self.gateway.admission = Admission(self.settings, plan, self.rates)
        except (ModelyardError, ValueError) as error:  # `apply` refuses the plan when its turn comes
            log.error("keys ignored", revision=plan.revision, reason=str(error))

    async def _load(self, digest: str, plan: ServingPlan) -> Replica:
        name = next(e.model for e in plan.endpoints for p in e.versions if p.digest == digest)
        loaded, curve, explain_s = await self.loop.run_in_executor(None, _load_and_warm, self.shelf, digest)
        log.info("loaded", model=name, digest=digest[:12], one_row_us=round(curve[1] * 1e6, 1))
        return Replica(loaded, curve, explain_s, self.loop, self.counters, self.settings.max_queued_rows, name)

    def _routes(self, plan: ServingPlan) -> Routes:
        routes = {}
        for endpoint in plan.endpoints:
            deployments = {
                planned.version: Deployment(endpoint, planned.version, self.replicas[planned.digest], self.counters)
                for planned in endpoint.versions
            }
            routes[endpoint.name] = Route(endpoint, deployments)
        return Routes(plan, routes)

    def _serves(self, plan: ServingPlan) -> None:
        self.telemetry.revision = plan.revision
        self.counters.cells[self._revision] = plan.revision * 1_000_000
        self.counters.cells[self._published] = int(plan.published_at * 1e6)
        self.state = WorkerState(self.number, os.getpid(), plan.revision)
        self.plans.keep()
        log.info("plan served", revision=plan.revision, endpoints=[endpoint.name for endpoint in plan.endpoints])
        self._report()

    async def _retire(self, replica: Replica) -> None:
        while not replica.is_idle:
            await asyncio.sleep(0.05)
        replica.close()

    async def _beat(self, http: HttpServer) -> None:
        """Tell the parent that the loop turns, and how late it woke."""
        while True:
            due = time.monotonic() + HEARTBEAT_S
            await asyncio.sleep(HEARTBEAT_S)
            self.counters.cells[self._lag] = int(max(0.0, time.monotonic() - due) * 1e6)
            self.counters.cells[self._connections] = len(http.connections) * 1_000_000
            self._report()

    async def _drain(self, http: HttpServer) -> None:
        http.drain()
        until = self.loop.time() + self.settings.drain_s
        while http.connections and self.loop.time() < until:
            await asyncio.sleep(0.02)

    def _report(self) -> None:
        try:
            self._parent.send(msgspec.json.encode(self.state) + b"\n")
        except BlockingIOError:
            pass  # the parent is slow; the next beat says the same
        except OSError:
            self.stopping.set()

    def _parent_spoke(self) -> None:
        """The parent says nothing after the start: readable means that it is gone."""
        if not self._parent.recv(4096):
            self.loop.remove_reader(self._parent)
            self.stopping.set()


def _load_and_warm(shelf: Shelf, digest: str) -> tuple[LoadedVersion, dict[int, float], float]:
    loaded = LoadedVersion(shelf.open(digest))
    return loaded, loaded.warm(), loaded.explain_cost()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context


def main(arguments: list[str]) -> None:
    """`python -m modelyard.serve.main NUMBER LISTENER PARENT`: file descriptors that the parent handed down."""
    number, listener, parent = map(int, arguments)
    line = socket.socket(fileno=parent)
    with line.makefile("rb") as settings_line:
        settings = msgspec.json.decode(settings_line.readline(), type=Settings)
    line.setblocking(False)
    set_up(settings.log_level, process="gateway", worker=number)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        worker = Worker(number, settings, line, loop)
        runner.run(worker.run(socket.socket(fileno=listener)))


if __name__ == "__main__":
    main(sys.argv[1:])
