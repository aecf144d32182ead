"""Verbs that run servers: `serve` (the gateway alone) and `up` (gateway, control and jobs in one tree)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.cli.context import Context
from modelyard.cli.exits import Exit
from modelyard.contract.errors import InvalidInput, NotReady
from modelyard.contract.plan import GatewayState
from modelyard.contract.settings import Settings

if TYPE_CHECKING:
    from modelyard.cli.tree import Child, Tree

READY_WITHIN_S = 60.0


class UpState(msgspec.Struct, frozen=True):
    """What `up` says of itself while it runs, for `status`: its flags may differ from the home's settings."""

    pid: int
    control_url: str


GATEWAY_MODULE = "modelyard.serve.fleet"
UP_FILE = "up.json"  # in the home's `run`


def add(verbs: Any) -> None:
    """The words of these verbs."""
    up = verbs.add_parser("up", help="run gateway, control and jobs until Ctrl-C")
    add_server_flags(up)
    up.add_argument("--control-port", type=int, metavar="PORT", help="of the management API and the admin pages (8080)")
    up.set_defaults(run=run_up)
    serve = verbs.add_parser("serve", help="run the gateway alone, in the foreground, logs on stderr")
    add_server_flags(serve)
    serve.set_defaults(run=run_serve)


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of everything that listens."""
    parser.add_argument("--host", help="address to listen on (127.0.0.1); others than loopback need --require-keys")
    parser.add_argument("--gateway-port", type=int, metavar="PORT", help="where predictions are asked for (8000)")
    parser.add_argument("--grpc-port", type=int, metavar="PORT", help="where they are asked for over gRPC (8001)")
    parser.add_argument("--workers", type=int, metavar="N", help="gateway processes (one for each core)")
    parser.add_argument(
        "--require-keys", action=argparse.BooleanOptionalAction, default=None, help="refuse calls without an API key"
    )


def run_serve(context: Context) -> int:
    """Become the gateway. Returns only if that fails."""
    from modelyard.cli.tree import check_port
    from modelyard.control.setup import environment_of

    settings = context.settings
    check_platform()
    check_binding(settings)
    check_port(settings.host, settings.gateway_port, "--gateway-port", "MODELYARD_GATEWAY_PORT")
    check_port(settings.host, settings.grpc_port, "--grpc-port", "MODELYARD_GRPC_PORT")
    context.home.prepare()
    context.console.note("gateway_starts", url=gateway_url(settings))
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", GATEWAY_MODULE], environment_of(settings))  # noqa: S606


def run_up(context: Context) -> int:
    """Run everything until a signal asks to stop."""
    check_before_start(context)
    first_steps(context)
    with standing(context) as running:
        if running is None:
            return Exit.FAILED
        show_addresses(context)
        context.console.note("stop_with_ctrl_c", style="dim")
        running.watch()
        context.console.note("stopping")
    context.console.note("stopped")
    return Exit.OK


@contextmanager
def standing(context: Context) -> Iterator[Tree | None]:
    """The whole tree, up and answering; None if it does not come up. Nothing of it outlives the `with` block."""
    state = context.home.run / UP_FILE
    with tree(context) as running:
        try:
            state.write_bytes(msgspec.json.encode(UpState(os.getpid(), control_url(context.settings))))
            here = come_up(context, running)
            yield running if here or running.signals else None
        finally:
            state.unlink(missing_ok=True)


def check_before_start(context: Context) -> None:
    """Everything that is better said before anything starts."""
    from modelyard.cli.tree import answers, check_port

    settings = context.settings
    check_platform()
    check_binding(settings)
    if (state := running_gateway(context)) is not None and answers(settings.host, settings.gateway_port):
        raise InvalidInput(context.console.text("already_up", url=state.url, pid=state.pid))
    check_port(settings.host, settings.gateway_port, "--gateway-port", "MODELYARD_GATEWAY_PORT")
    check_port(settings.host, settings.grpc_port, "--grpc-port", "MODELYARD_GRPC_PORT")
    check_port(settings.host, settings.control_port, "--control-port", "MODELYARD_CONTROL_PORT")


def check_platform() -> None:
    """The gateway runs where sockets can be handed to other processes."""
    if sys.platform == "win32":
        raise InvalidInput("the gateway runs on Linux and macOS; on Windows use the client, `modelyard.load`, or WSL")


def check_binding(settings: Settings) -> None:
    """What other machines can reach asks for keys."""
    if not settings.is_loopback and not settings.require_keys:
        raise InvalidInput(
            f"{settings.host} can be reached from other machines; add --require-keys, or listen on 127.0.0.1"
        )


def first_steps(context: Context) -> None:
    """Home, database and administrator, in a process of its own: this one stays small for as long as it runs."""
    from modelyard.cli.look import plan_on_disk
    from modelyard.control.setup import environment_of

    command = [sys.executable, "-m", "modelyard.cli.main", "init", "--quiet", "--lang", context.console.language]
    done = subprocess.run(command, env=environment_of(context.settings), stdin=subprocess.DEVNULL, check=False)
    if not done.returncode:
        return
    if plan_on_disk(context) is None:
        raise NotReady("the control plane's home could not be prepared; the lines above say why")
    context.console.note("control_waits", style="yellow")  # its database is away: what is planned is served


def tree(context: Context) -> Tree:
    """The three children, not started yet."""
    from modelyard.cli.tree import Child, Tree
    from modelyard.control.setup import environment_of

    def child(name: str, module: str, essential: bool = False) -> Child:
        return Child(name, [sys.executable, "-m", module], context.home.logs / f"{name}.log", essential)

    def died(child: Child, status: int) -> None:
        context.console.note("child_died", style="yellow", name=child.name, status=status, log=child.log)

    children = [
        child("gateway", GATEWAY_MODULE, essential=True),
        child("control", "modelyard.control.main"),
        child("jobs", "modelyard.control.runner"),
    ]
    return Tree(children, environment_of(context.settings), context.settings.drain_s, died)


def come_up(context: Context, running: Tree) -> bool:
    """Whether gateway and control answer; a control that does not come is said, and serving goes on without it."""
    from modelyard.cli.log_files import last_lines
    from modelyard.cli.look import plan_on_disk
    from modelyard.cli.tree import answers

    settings = context.settings
    gateway = running.children[0]

    def gateway_serves() -> bool:
        state = running_gateway(context)
        if state is None or gateway.process is None or state.pid != gateway.process.pid or not state.workers:
            return False
        plan = plan_on_disk(context)
        wanted = plan.revision if plan else 0
        return all(worker.pid and max(worker.revision, worker.refused) >= wanted for worker in state.workers)

    context.console.note("starting")
    if not running.watch(until=gateway_serves, timeout_s=READY_WITHIN_S):
        if not running.stopping:
            context.console.note("gateway_late", style="bold red", seconds=READY_WITHIN_S, log=gateway.log)
        return False
    here = running.watch(until=lambda: answers(settings.host, settings.control_port), timeout_s=READY_WITHIN_S)
    if not here and not running.stopping:
        control = running.children[1]
        context.console.note("control_late", style="yellow", log=control.log)
        for line in last_lines(control.log, 5):
            context.console.err().print(f"  {line}", markup=False, style="dim")
    return not running.stopping


def show_addresses(context: Context) -> None:
    """Where everything is, on stdout."""
    settings = context.settings
    state = running_gateway(context)
    gateway = reachable_url(state.url) if state else gateway_url(settings)
    context.console.say("address_gateway", url=gateway)
    if state is not None and state.grpc_url:
        context.console.say("address_grpc", url=reachable_url(state.grpc_url))
    context.console.say("address_docs", url=gateway)
    context.console.say("address_control", url=control_url(settings))


def reachable_url(url: str) -> str:
    """A gateway's own address as this machine reaches it: one that listens everywhere is asked here."""
    return url.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")


def gateway_url(settings: Settings) -> str:
    """Where this machine reaches the gateway."""
    return _url(settings, settings.gateway_port)


def control_url(settings: Settings) -> str:
    """Where this machine reaches control."""
    return _url(settings, settings.control_port)


def _url(settings: Settings, port: int) -> str:
    from modelyard.cli.tree import reachable

    host = reachable(settings.host)
    return f"{'https' if settings.tls_certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def known_control_url(context: Context) -> str:
    """Where the control that `up` started is reached; where it would be if `up` does not run."""
    from modelyard.control.deployments.wait import is_alive

    try:
        state = msgspec.json.decode((context.home.run / UP_FILE).read_bytes(), type=UpState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return control_url(context.settings)
    return state.control_url if is_alive(state.pid) else control_url(context.settings)


def running_gateway(context: Context) -> GatewayState | None:
    """What the gateway of this home says of itself; None if none runs."""
    from modelyard.control.deployments.wait import gateway_state

    state: GatewayState | None = gateway_state(context.home)
    return state
