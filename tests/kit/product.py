"""The whole product in a home of its own, driven by its own command, as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from kit.gateway import until

COMMAND = str(Path(sys.executable).with_name("modelyard"))


class Product:
    """One home, its ports, and the `modelyard` command on it."""

    def __init__(self, root: Path, database_url: str = "") -> None:
        self.root = root
        self.gateway_port, self.control_port = free_ports(2)
        kept = {name: text for name, text in os.environ.items() if not name.startswith("MODELYARD_")}
        self.environment = kept | {
            "MODELYARD_HOME": str(root),
            "MODELYARD_GATEWAY_PORT": str(self.gateway_port),
            "MODELYARD_GRPC_PORT": "0",
            "MODELYARD_CONTROL_PORT": str(self.control_port),
            "MODELYARD_WORKERS": "2",
            "MODELYARD_DATABASE_URL": database_url,
            "LANG": "C.UTF-8",
        }
        self.url = f"http://127.0.0.1:{self.gateway_port}"
        self.control_url = f"http://127.0.0.1:{self.control_port}"

    def run(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """One command, to its end; its status must be `expect`."""
        done = subprocess.run(
            [COMMAND, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == expect, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.run(*words, "--json").stdout)

    @contextlib.contextmanager
    def up(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """`modelyard up`, until the block ends; it must then stop cleanly."""
        log = self.root.parent / f"{self.root.name}-up.log"
        with open(log, "ab") as output:
            process = subprocess.Popen([COMMAND, "up", *words], env=self.environment, stdout=output, stderr=output)
        try:
            until(lambda: self.is_ready() or process.poll() is not None, "the product is up", 60)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0, log.read_text()

    def is_ready(self) -> bool:
        """Whether gateway and control answer."""
        try:
            return all(
                httpx.get(url, timeout=5).status_code == 200
                for url in (f"{self.url}/readyz", f"{self.control_url}/healthz")
            )
        except httpx.TransportError:
            return False

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """One POST to the gateway."""
        return httpx.post(self.url + path, json=body, timeout=60, **options)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
