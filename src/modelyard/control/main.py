"""The control plane's web process: gunicorn with threads, started for one home.

`python -m modelyard.control.main`, with settings from flags of its own, the environment and `modelyard.toml`.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.app.base import BaseApplication

from modelyard.contract.errors import InvalidInput, ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings, load_settings
from modelyard.control.setup import environment_of, start

log = logging.getLogger("modelyard.control")

THREADS = 2


class ControlServer(BaseApplication):
    """Gunicorn, configured by our settings alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what our settings say."""
        for name, value in gunicorn_options(self.settings).items():
            self.cfg.set(name, value)
        if "control_socket_disable" in self.cfg.settings:  # newer ones open a socket in the person's home folder
            self.cfg.set("control_socket_disable", True)

    def load(self) -> Callable[..., Any]:
        """The application, made in the worker."""
        from modelyard.control import database_guard
        from modelyard.control.wsgi import application

        database_guard.leave = partial(os.kill, os.getppid(), signal.SIGTERM)  # gunicorn's own parent process
        return application


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """Gunicorn's options for these settings. Raises InvalidInput for an address that strangers reach unguarded."""
    if not settings.is_loopback and not settings.require_keys:
        raise InvalidInput(
            f"host {settings.host} can be reached from other machines: set require_keys = true, or use 127.0.0.1"
        )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    options: dict[str, Any] = {
        "bind": f"{host}:{settings.control_port}",
        "worker_class": "gthread",
        "workers": 1,
        "threads": THREADS,
        "timeout": 90,
        "graceful_timeout": int(settings.drain_s),
        "keepalive": 5,
        "limit_request_line": min(settings.max_header_bytes, 8190),
        "limit_request_fields": settings.max_headers,
        "pidfile": str(Home(settings.root).run / "control.pid"),
        "worker_tmp_dir": str(Home(settings.root).run),
        "umask": 0o077,
        "proc_name": "modelyard-control",
        "loglevel": settings.log_level,
        "errorlog": "-",
        "accesslog": None,
        "forwarded_allow_ips": "",
    }
    if settings.tls_certificate:
        options |= {"certfile": settings.tls_certificate, "keyfile": settings.tls_key}
    return options


def serve(settings: Settings) -> None:
    """Serve until told to stop; does not return."""
    gunicorn_options(settings)  # refuse before anything is made
    settings = start(settings)
    os.environ.update(environment_of(settings))  # the worker is another process and reads them there
    from django.db import connections

    from modelyard.control.deployments.publish import accept_settings, publish_if_needed

    try:
        accept_settings(settings)
        publish_if_needed()
    except (ModelyardError, OSError) as error:
        log.error("the plan stays as it is: %s", error)
    connections.close_all()  # a connection must not be carried across a fork
    if not settings.is_loopback and not settings.tls_certificate:
        log.warning("passwords and tokens travel unencrypted on %s; set tls_certificate and tls_key", settings.host)
    ControlServer(settings).run()


def main(arguments: list[str] | None = None) -> int:
    """Start it; what cannot be started is said in one line, with status 2."""
    parser = argparse.ArgumentParser(prog="python -m modelyard.control.main", description=__doc__.splitlines()[0])
    parser.add_argument("--home")
    parser.add_argument("--host")
    parser.add_argument("--control-port", type=int)
    try:
        serve(load_settings(vars(parser.parse_args(arguments)))[0])
    except ModelyardError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
