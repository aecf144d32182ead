"""Every setting of one home, its limits included: one frozen value, and where each part came from.

Strongest first: a command's flag, the environment (`MODELYARD_GATEWAY_PORT`), the file `modelyard.toml` in the home
or in the working folder, the default. What is not known here is refused by name.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from modelyard.contract.errors import InvalidInput

ENVIRONMENT = "MODELYARD_"
NOT_SETTINGS = frozenset({"key", "token", "url"})  # MODELYARD_KEY and the like: what a caller holds, not what a home is


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be set. Lists are written with commas in the environment."""

    home: str = ".modelyard"
    host: str = "127.0.0.1"  # gateway and control listen here; another than loopback needs require_keys
    gateway_port: int = 8000
    grpc_port: int = 8001
    control_port: int = 8080
    workers: int = 0  # gateway processes; 0: as many as there are cores
    threads: int = 0  # of the numeric libraries in each worker; 0: the cores shared out among the workers
    require_keys: bool = False  # off only on loopback: an address that others can reach is refused without keys
    allowed_hosts: tuple[str, ...] = ()  # names besides loopback's that Host may say; guards against DNS rebinding
    cors_origins: tuple[str, ...] = ()  # web origins that browsers may call from
    tls_certificate: str = ""  # PEM files; both or neither
    tls_key: str = ""
    max_body_bytes: int = 8 * 1024 * 1024
    max_inflated_bytes: int = 8 * 1024 * 1024  # a compressed body, once inflated
    max_pending_bytes: int = 256 * 1024 * 1024  # of bodies that wait in one worker to be whole; above it: 503
    bulk_bytes: int = 64 * 1024  # larger bodies are answered by the bulk worker, so that they hold nobody up
    max_header_bytes: int = 16 * 1024  # request line and headers together
    max_headers: int = 100
    max_rows: int = 10_000  # rows in one call
    max_pixels: int = 25_000_000  # of one image, by its header; a larger one is refused before it is decoded
    max_connections: int = 20_000  # for each worker
    max_outstanding: int = 8  # unanswered requests on one connection
    max_queued_rows: int = 50_000  # waiting rows in one worker; above it: 503
    max_shadow_rows: int = 2_000  # rows of copies that wait for one shadow in one worker; further copies are dropped
    header_timeout_s: float = 10.0  # from a request's first byte to the end of its headers
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    write_timeout_s: float = 30.0  # for a reader that does not read
    deadline_s: float = 30.0  # from the whole request to its answer
    resident_bytes: int = 0  # of versions in each worker; above 0 they load when called, and the longest unused go
    model_workers: int = 0  # processes for each version that needs its own; 0: as many as workers, 1 if it is large
    model_memory_bytes: int = 0  # resident memory of one model process; above it, it is ended. 0: half the machine's
    model_timeout_s: float = 30.0  # one batch in a model process; above it, it is ended
    job_memory_bytes: int = 0  # resident memory of a job and what it starts; above it, it is ended. 0: three quarters
    drain_s: float = 20.0  # how long a stopping worker finishes what it holds
    record_bytes: int = 256 * 1024 * 1024  # prediction records kept on disk by each worker; the oldest go first
    log_level: str = "info"
    language: str = ""  # en or zh; empty: as the terminal says
    database_url: str = ""  # empty: SQLite in the home
    database_connect_s: float = 5.0  # for a connection to PostgreSQL; above it, the server is away
    database_wait_s: float = 20.0  # how long a change waits for one that holds the same rows (SQLite: the database)
    database_timeout_s: float = 30.0  # one query on PostgreSQL; above it, it is cancelled

    def __post_init__(self) -> None:
        for name in (
            "max_body_bytes",
            "max_inflated_bytes",
            "max_pending_bytes",
            "bulk_bytes",
            "max_header_bytes",
            "max_headers",
            "max_rows",
            "max_connections",
            "max_outstanding",
            "max_queued_rows",
            "max_shadow_rows",
            "record_bytes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")
        for name in (
            "header_timeout_s",
            "body_timeout_s",
            "idle_timeout_s",
            "write_timeout_s",
            "deadline_s",
            "model_timeout_s",
            "database_connect_s",
            "database_wait_s",
            "database_timeout_s",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a number of seconds above 0")
        if self.max_pending_bytes < self.max_body_bytes:
            raise ValueError("max_pending_bytes is at least max_body_bytes: one body must fit")
        if not 0 <= self.drain_s < math.inf:
            raise ValueError("drain_s is a number of seconds, 0 or more")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ValueError("log_level is debug, info, warning or error")
        if self.language not in ("", "en", "zh"):
            raise ValueError("language is en or zh, or empty for the terminal's")
        if self.workers < 0 or self.workers > 256:
            raise ValueError("workers lies between 0 (as many as cores) and 256")
        if self.resident_bytes < 0:
            raise ValueError("resident_bytes is 0 (every planned version stays in memory) or more")
        if not 1 <= self.max_pixels <= 178_956_970:
            raise ValueError("max_pixels lies between 1 and 178956970, what the decoder itself opens at most")
        if self.job_memory_bytes < 0:
            raise ValueError("job_memory_bytes is 0 (three quarters of the machine's memory) or more")
        if self.model_memory_bytes < 0:
            raise ValueError("model_memory_bytes is 0 (half the machine's memory) or more")
        if not 0 <= self.threads <= 256:
            raise ValueError("threads lies between 0 (an equal share of the cores) and 256")
        if not 0 <= self.model_workers <= 64:
            raise ValueError("model_workers lies between 0 (as many as workers) and 64")
        if not all(0 <= port < 65536 for port in (self.gateway_port, self.grpc_port, self.control_port)):
            raise ValueError("a port lies between 0 and 65535")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key are set together")

    @property
    def root(self) -> Path:
        """The home folder; everything that Modelyard remembers lies under it."""
        return Path(self.home)

    @property
    def worker_count(self) -> int:
        """How many gateway processes there are."""
        return self.workers or cores()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach what listens."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_settings(
    flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """The settings and, for each, where its value came from. Raises InvalidInput that names the wrong one."""
    environment = os.environ if environment is None else environment
    known = {field.name: field for field in msgspec.structs.fields(Settings)}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")

    def take(name: str, value: Any, origin: str) -> None:
        if name not in known:
            raise InvalidInput(f"{origin}: there is no setting {name!r}")
        try:
            values[name] = msgspec.convert(value, known[name].type, strict=not isinstance(value, str))
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{origin}: {name}: {error}") from None
        origins[name] = origin

    from_environment = {
        name: value
        for key, value in environment.items()
        if key.startswith(ENVIRONMENT) and (name := key[len(ENVIRONMENT) :].lower()) not in NOT_SETTINGS
    }
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    outer = (folder or Path()) / "modelyard.toml"
    for name, value in _read(outer).items():
        take(name, value, str(outer))
    home = Path(given.get("home") or from_environment.get("home") or values.get("home") or known["home"].default)
    inner = home / "modelyard.toml"
    for name, value in _read(inner).items() if inner.absolute() != outer.absolute() else ():
        if name == "home":
            raise InvalidInput(f"{inner}: a home's own file cannot set 'home'")
        take(name, value, str(inner))
    for name, text in from_environment.items():
        take(name, _from_text(text, known[name].type if name in known else str), f"{ENVIRONMENT}{name.upper()}")
    for name, value in given.items():
        take(name, value, "command line")
    try:
        return Settings(**{**values, "home": str(home)}), origins
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not TOML: {error}") from None


def _from_text(text: str, kind: Any) -> Any:
    if kind is bool:
        return {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }.get(text.lower(), text)
    if kind == tuple[str, ...]:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
