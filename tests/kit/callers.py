"""Many callers at once, on plain sockets of their own: every answer is kept, every failure is told."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any


class Callers:
    """Threads that call without pause until told to stop.

    `check` gets each answer (status, decoded body, the row that was sent) and raises if it is wrong.
    """

    def __init__(
        self, port: int, path: str, rows: list[dict[str, Any]], check: Callable[[int, Any, Any], None]
    ) -> None:
        self._port, self._path, self._rows, self._check = port, path, rows, check
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.answered = 0
        self.failures: list[str] = []
        self.cut = 0
        """So many of the failures are connections that ended: no answer came, so none was wrong."""
        self._lock = threading.Lock()

    def start(self, count: int) -> Callers:
        """So many callers, each on one keep-alive connection."""
        for number in range(count):
            thread = threading.Thread(target=self._call, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """No further call; wait for those under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a caller hangs"

    def _call(self, number: int) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        turn = number
        while not self._stop.is_set():
            row = self._rows[turn % len(self._rows)]
            turn += 1
            try:
                line.request("POST", self._path, json.dumps(row))
                reply = line.getresponse()
                self._check(reply.status, json.loads(reply.read()), row)
            except Exception as error:
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    self.cut += isinstance(error, ConnectionError | http.client.HTTPException)
                line.close()
            else:
                with self._lock:
                    self.answered += 1
        line.close()
