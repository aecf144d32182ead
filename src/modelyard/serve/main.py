"""One gateway worker: a loop, a socket, the plan. Started by `fleet.py`, never by hand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from modelyard.artifacts.store import Artifact, Shelf
from modelyard.contract.errors import InvalidInput, ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan, WorkerState
from modelyard.contract.settings import Settings, cores
from modelyard.runtimes.catalogue import needs_worker
from modelyard.runtimes.image_decode import allow_pixels
from modelyard.runtimes.sessions import share_in
from modelyard.secure.request_ids import request_ids
from modelyard.serve.admission import Admission
from modelyard.serve.bringing import Measured, bring_here, give_back
from modelyard.serve.bulk import Bulk
from modelyard.serve.channel import RemoteVersion
from modelyard.serve.content import MAX_BYTES
from modelyard.serve.counters import Counters
from modelyard.serve.gateway import Gateway
from modelyard.serve.grpc_methods import grpc_server
from modelyard.serve.http import HttpServer
from modelyard.serve.http2_server import Http2Server
from modelyard.serve.lazy import LazyReplica, Residents
from modelyard.serve.lease import Beat, Leases, fallen_back
from modelyard.serve.log import log, set_up
from modelyard.serve.plans import POLL_S, PlanFile
from modelyard.serve.rates import RateTable
from modelyard.serve.reconcile import Drain, Load, Swap, next_action
from modelyard.serve.replica import Replica, Version
from modelyard.serve.repository import AbsentReplica, evicted_in
from modelyard.serve.routing import Deployment, Route, Routes
from modelyard.serve.seats import seat_for, socket_path
from modelyard.serve.shadows import Shadows
from modelyard.serve.telemetry import Telemetry
from modelyard.serve.threads import threads_for

HEARTBEAT_S = 0.5
BULK_NICE = 15  # small calls go before large ones
GC_THRESHOLDS = (20_000, 50, 100)  # requests make and drop objects without cycles: look for cycles seldom


class Worker:
    """Moves what runs towards the plan, and tells the parent how it goes."""

    def __init__(
        self, number: int, settings: Settings, parent: socket.socket, loop: asyncio.AbstractEventLoop, *, is_bulk: bool
    ) -> None:
        home = Home(settings.root)
        self.number, self.settings, self.loop = number, settings, loop
        self.shelf = Shelf(home.shelf)
        self.plans = PlanFile(home)
        self.evicted = evicted_in(home.run)
        self.rates = RateTable(home.run / "rates.table")
        self.counters = Counters(home.run / "counters", number)
        self.telemetry = Telemetry(self.counters, home.records, number, settings.record_bytes)
        admission = Admission(settings, ServingPlan(revision=0, published_at=0.0), self.rates)
        ids = request_ids(home.keys)
        bulk = None if is_bulk else Bulk(home.bulk_socket, loop, settings.deadline_s)
        self.gateway = Gateway(settings, admission, self.telemetry, ids, home.run / "counters", loop, bulk)
        self.replicas: dict[str, Replica | LazyReplica] = {}  # by artifact digest
        self.residents: Residents | None = None  # None: every planned version stays in memory
        if settings.resident_bytes:
            self.residents = Residents(
                settings.resident_bytes, self._load, self._free, loop, self.counters,
                settings.max_queued_rows, settings.deadline_s,
            )  # fmt: skip
        self._measured: dict[str, Measured] = {}  # what versions cost that were in memory before
        self.leases = Leases(Beat(home.control_beat))
        self.shadows = Shadows(self.telemetry, loop, settings.max_shadow_rows)
        self.state = WorkerState(number, os.getpid())
        self.threads = threads_for(settings, cores())
        self._parent = parent
        self._revision = self.counters.gauge("modelyard_plan_revision")
        self._published = self.counters.gauge("modelyard_plan_published_timestamp_seconds")
        self._lag = self.counters.gauge("modelyard_loop_lag_seconds")
        self._connections = self.counters.gauge("modelyard_connections")
        self.stopping = asyncio.Event()

    async def run(self, listener: socket.socket, grpc_listener: socket.socket | None) -> None:
        """Serve until told to stop, then finish what was begun."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stopping.set)
        self.loop.add_reader(self._parent, self._parent_spoke)
        edges: list[HttpServer | Http2Server] = []
        followers = [asyncio.create_task(self._beat(edges))]  # also while the first plan loads, which may take minutes
        await self._first_plan()
        is_bulk = listener.family == socket.AF_UNIX
        deflate_bytes = self.settings.max_body_bytes if is_bulk else MAX_BYTES
        http = HttpServer(self.settings, self.gateway, self.loop, deflate_bytes)
        if is_bulk:
            server = await self.loop.create_unix_server(http, sock=listener, backlog=256)
        else:
            server = await self.loop.create_server(http, sock=listener, ssl=_tls(self.settings), backlog=4096)
        edges.append(http)
        doors = [server]
        if grpc_listener is not None:
            grpc = grpc_server(self.gateway, self.loop)
            tls = _tls(self.settings, "h2")
            doors.append(await self.loop.create_server(grpc, sock=grpc_listener, ssl=tls, backlog=4096))
            edges.append(grpc)
        gc.collect()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.freeze()  # what was loaded so far lives on: full collections need not look at it again
        self._report()
        followers.append(asyncio.create_task(self._follow_plan()))
        await self.stopping.wait()
        for follower in followers:
            follower.cancel()
        for door in doors:
            door.close()
        await self._drain(edges)
        if self.gateway.bulk is not None:
            self.gateway.bulk.close()
        self.gateway.pieces.close()
        self.shadows.close()
        self.telemetry.close()
        self.counters.close()
        self.rates.close()

    async def apply(self, plan: ServingPlan) -> None:
        """Make the plan what is served, or keep what is served and say why. Keys count at once."""
        if plan.revision < self.state.revision:
            return
        evicted, away = self.evicted.revision, self.evicted.wanted
        pinned = {
            p.digest
            for endpoint in plan.endpoints
            for p in endpoint.versions
            if endpoint.is_pinned or (endpoint.shadow and endpoint.shadow.version == p.version)  # no call brings those
        }
        wanted = frozenset(
            p.digest for endpoint in plan.endpoints for p in endpoint.versions if (endpoint.name, p.version) not in away
        )
        is_swapped = False
        try:
            self.gateway.admission = Admission(self.settings, plan, self.rates)
            absent = await self._absent(plan, away)
            while (step := next_action(wanted, frozenset(self.replicas), is_swapped)) is not None:
                match step:
                    case Load(digest):
                        self.replicas[digest] = await self._bring(digest, plan, digest in pinned)
                    case Swap():
                        self.gateway.routes = self._routes(plan, absent)
                        is_swapped = True
                        self._pin(pinned)
                        self._follows(evicted, away)
                        self._serves(plan)
                    case Drain(digest):
                        self._measured.pop(digest, None)
                        self.loop.create_task(self._retire(digest, self.replicas.pop(digest)))
        except Exception as error:  # ONNX Runtime's own derive from nothing narrower; the last good plan serves on
            log.error("plan refused", revision=plan.revision, reason=str(error))
            self.state = msgspec.structs.replace(self.state, refused=plan.revision, reason=str(error)[:500])
            self._report()

    async def _absent(
        self, plan: ServingPlan, away: frozenset[tuple[str, int]]
    ) -> dict[tuple[str, int], AbsentReplica]:
        """What stands where evicted versions were."""
        planned = {(endpoint.name, p.version): p.digest for endpoint in plan.endpoints for p in endpoint.versions}
        opened = {
            digest: await self.loop.run_in_executor(None, self.shelf.open, digest)
            for digest in {planned[pair] for pair in away & planned.keys()}
        }
        return {pair: AbsentReplica(opened[planned[pair]]) for pair in away & planned.keys()}

    def _follows(self, revision: int, away: frozenset[tuple[str, int]]) -> None:
        self.evicted.settle(away)
        self.state = msgspec.structs.replace(self.state, repository=revision)

    async def _first_plan(self) -> None:
        try:
            plan = self.plans.first()
        except InvalidInput as error:
            log.error("no plan can be read", reason=str(error))
            return
        if plan is not None:
            await self.apply(plan)
        else:
            self._follows(self.evicted.revision, self.evicted.wanted)

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
            if self.leases.look(self.gateway.routes.plan, self.loop.time()):
                self._fall_back()
            if self.evicted.changed() and waiting is None:
                waiting = self.gateway.routes.plan
                if waiting is None:
                    self._follows(self.evicted.revision, self.evicted.wanted)
                    self._report()
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

    async def _bring(self, digest: str, plan: ServingPlan, is_pinned: bool) -> Replica | LazyReplica:
        """A version that the plan names, in memory; with a budget only its description, unless it is pinned or new."""
        name = next(e.model for e in plan.endpoints for p in e.versions if p.digest == digest)
        if self.residents is None:
            return await self._load(digest, name)
        artifact = await self.loop.run_in_executor(None, self.shelf.describe, digest)
        lazy = LazyReplica(artifact, name, self.shelf.bytes_of(digest), self.residents)
        lazy.is_pinned = is_pinned
        if is_pinned or self.state.revision:  # a version that is deployed now must show that it can be loaded
            await self.residents.bring(lazy)
        return lazy

    def _pin(self, digests: set[str]) -> None:
        for digest, replica in self.replicas.items():
            if isinstance(replica, LazyReplica):
                replica.is_pinned = digest in digests
                if replica.is_pinned and not replica.is_resident:
                    self.residents.bring_soon(replica)  # type: ignore[union-attr]

    async def _load(self, digest: str, name: str) -> Replica:
        artifact = await self.loop.run_in_executor(None, self.shelf.open, digest)
        is_remote = needs_worker(artifact.manifest)
        if is_remote:
            self._want(digest, True)
        try:
            known = self._measured.get(digest)
            bring = self._bring_remote if is_remote else partial(bring_here, threads=self.threads, known=known)
            loaded, measured = await self.loop.run_in_executor(None, bring, artifact)
        except BaseException:
            self._want(digest, False)
            raise
        if self.residents is not None:
            self._measured[digest] = measured
        curve = measured.curve
        log.info("loaded", model=name, digest=digest[:12], one_row_us=round(curve[1] * 1e6, 1))
        queue = self.settings.max_queued_rows
        return Replica(loaded, curve, measured.explain_s, self.loop, self.counters, queue, name, is_remote=is_remote)

    def _bring_remote(self, artifact: Artifact) -> tuple[Version, Measured]:
        """A version in a model worker, once the parent has one that holds it. Raises NotReady with the reason."""
        home = Home(self.settings.root)
        seat = seat_for(self.settings, home, artifact.digest, self.number)
        remote = RemoteVersion(artifact, socket_path(home, seat), self.settings.model_timeout_s)
        try:
            remote.connect()
            return remote, Measured(remote.warm(), remote.explain_cost())
        except BaseException:
            remote.close()
            raise

    def _want(self, digest: str, is_wanted: bool) -> None:
        """Tell the parent which model workers this worker needs."""
        wants = {*self.state.wants, digest} if is_wanted else {*self.state.wants} - {digest}
        if wants != set(self.state.wants):
            self.state = msgspec.structs.replace(self.state, wants=tuple(sorted(wants)))
            self._report()

    def _routes(self, plan: ServingPlan, absent: dict[tuple[str, int], AbsentReplica]) -> Routes:
        held = {  # all of them first: a plan that cannot be served changes no shadow
            endpoint.name: {
                planned.version: Deployment(
                    endpoint,
                    planned.version,
                    absent.get((endpoint.name, planned.version)) or self.replicas[planned.digest],
                    self.counters,
                    plan.revision,
                )
                for planned in endpoint.versions
            }
            for endpoint in plan.endpoints
        }
        lapsed = self.leases.follow(plan)
        routes = {}
        for endpoint in plan.endpoints:
            deployments = held[endpoint.name]
            shadow = self.shadows.of(endpoint, deployments)
            shared = fallen_back(endpoint) if endpoint.name in lapsed else endpoint
            routes[endpoint.name] = Route(shared, deployments, shadow)
        self.shadows.keep_only(plan.endpoints)
        self._tell_leases(plan)
        return Routes(plan, routes)

    def _fall_back(self) -> None:
        """Leases have lapsed, or control has come back: share the calls of their endpoints anew."""
        routes, plan = self.gateway.routes, self.gateway.routes.plan
        if plan is None:
            return
        changed = {}
        for endpoint in plan.endpoints:
            if endpoint.lease is not None:
                shared = fallen_back(endpoint) if endpoint.name in self.leases.lapsed else endpoint
                before = routes.endpoint(endpoint.name)
                changed[endpoint.name] = Route(shared, before.deployments, before.shadow)
        self.gateway.routes = routes.with_changed(changed)
        self._tell_leases(plan)
        self._report()

    def _tell_leases(self, plan: ServingPlan) -> None:
        """Say which endpoints have fallen back, where it is not said already."""
        lapsed = tuple(sorted(self.leases.lapsed))
        for name in set(lapsed) - set(self.state.lapsed):
            log.warning("lease lapsed", endpoint=name, reason="the control plane gives no sign of life")
        for name in set(self.state.lapsed) - set(lapsed):
            log.info("lease restored", endpoint=name)
        for name in {*lapsed, *self.state.lapsed, *(one.name for one in plan.endpoints if one.lease is not None)}:
            cell = self.counters.gauge("modelyard_lease_lapsed", endpoint=name)
            self.counters.cells[cell] = 1_000_000 * (name in self.leases.lapsed)
        self.state = msgspec.structs.replace(self.state, lapsed=lapsed)

    def _serves(self, plan: ServingPlan) -> None:
        self.telemetry.revision = plan.revision
        self.counters.cells[self._revision] = plan.revision * 1_000_000
        self.counters.cells[self._published] = int(plan.published_at * 1e6)
        self.state = msgspec.structs.replace(self.state, revision=plan.revision, refused=0, reason="")
        self.plans.keep()
        log.info("plan served", revision=plan.revision, endpoints=[endpoint.name for endpoint in plan.endpoints])
        self._report()

    def _is_here(self, digest: str) -> bool:
        replica = self.replicas.get(digest)
        return replica is not None and (replica.is_resident or not replica.is_idle)

    def _free(self, digest: str, replica: Replica) -> None:
        self.loop.create_task(self._retire(digest, replica))

    async def _retire(self, digest: str, replica: Replica | LazyReplica) -> None:
        while not replica.is_idle:
            await asyncio.sleep(0.05)
        replica.close()
        if not self._is_here(digest):  # it may have come back meanwhile
            self._want(digest, False)
        await self.loop.run_in_executor(None, give_back)

    async def _beat(self, edges: list[HttpServer | Http2Server]) -> None:
        """Tell the parent that the loop turns, and how late it woke."""
        while True:
            due = time.monotonic() + HEARTBEAT_S
            await asyncio.sleep(HEARTBEAT_S)
            self.counters.cells[self._lag] = int(max(0.0, time.monotonic() - due) * 1e6)
            self.counters.cells[self._connections] = sum(len(edge.connections) for edge in edges) * 1_000_000
            self._report()

    async def _drain(self, edges: list[HttpServer | Http2Server]) -> None:
        for edge in edges:
            edge.drain()
        until = self.loop.time() + self.settings.drain_s
        while any(edge.connections for edge in edges) and self.loop.time() < until:
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


def _give_way() -> None:
    """Compute when others need not.

    Linux may share processors among sessions first, and each worker is one: then its own priority counts only within.
    """
    os.nice(BULK_NICE)
    with contextlib.suppress(OSError):  # no Linux, or one that does not group by sessions
        Path("/proc/self/autogroup").write_text(str(BULK_NICE))


def _tls(settings: Settings, protocol: str = "http/1.1") -> ssl.SSLContext | None:
    if not settings.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    context.set_alpn_protocols([protocol])
    return context


def main(arguments: list[str]) -> None:
    """`python -m modelyard.serve.main NUMBER LISTENER PARENT [GRPC]`: file descriptors that the parent handed down.

    A listener that is a unix socket makes this the bulk worker.
    """
    number, listener, parent, *grpc = map(int, arguments)
    line = socket.socket(fileno=parent)
    with line.makefile("rb") as settings_line:
        settings = msgspec.json.decode(settings_line.readline(), type=Settings)
    line.setblocking(False)
    set_up(settings.log_level, process="gateway", worker=number)
    allow_pixels(settings.max_pixels)
    share_in(Home(settings.root).graphs)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        door = socket.socket(fileno=listener)
        is_bulk = door.family == socket.AF_UNIX
        if is_bulk:
            _give_way()
        worker = Worker(number, settings, line, loop, is_bulk=is_bulk)
        runner.run(worker.run(door, socket.socket(fileno=grpc[0]) if grpc else None))


if __name__ == "__main__":
    main(sys.argv[1:])
