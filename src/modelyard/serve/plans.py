"""Where a worker's plan comes from: a signed file, looked at ten times a second; the last good one is kept."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan, SignedPlan
from modelyard.secure.signing import verifier

POLL_S = 0.1  # with the time to apply it, how long a revoked key still works

_decode_signed = msgspec.json.Decoder(SignedPlan).decode
_decode_plan = msgspec.json.Decoder(ServingPlan).decode


def read_plan(path: Path, keys: Path) -> ServingPlan:
    """The verified plan in a file. Raises FileNotFoundError, or InvalidInput that says what is wrong with it."""
    return _verified(path.read_bytes(), path.name, keys)


def _verified(data: bytes, name: str, keys: Path) -> ServingPlan:
    try:
        signed = _decode_signed(data)
        if not verifier(keys).accepts(bytes(signed.plan), signed.signature):
            raise InvalidInput(f"{name}: the signature is not this home's")
        return _decode_plan(signed.plan)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInput(f"{name} is not a plan: {error}") from None


class PlanFile:
    """The plan file as it changes. Older revisions than the newest seen are ignored."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._good = home.run / "plan.good.json"
        self._seen: tuple[int, int, int] | None = None
        self._data = b""
        self.newest = 0

    def first(self) -> ServingPlan | None:
        """The plan to start with: the published one, or the last good one if that is gone or cannot be read."""
        try:
            return self.changed() or self._last_good()
        except InvalidInput:
            if (plan := self._last_good()) is not None:
                return plan
            raise

    def _last_good(self) -> ServingPlan | None:
        with contextlib.suppress(FileNotFoundError, InvalidInput):
            plan = read_plan(self._good, self._home.keys)
            self.newest = plan.revision
            return plan
        return None

    def changed(self) -> ServingPlan | None:
        """A newer plan since the last look, or None. Raises InvalidInput once for each bad file."""
        try:
            stat = os.stat(self._home.plan)
        except FileNotFoundError:
            return None
        mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            data = self._home.plan.read_bytes()
            plan = _verified(data, self._home.plan.name, self._home.keys)
        except FileNotFoundError:
            return None
        if plan.revision <= self.newest:
            return None
        self._data, self.newest = data, plan.revision
        return plan

    def keep(self) -> None:
        """The plan that is served now becomes the last good one."""
        if not self._data:  # it is the last good one already
            return
        staging = self._good.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            staging.write_bytes(self._data)
            staging.chmod(0o600)
            staging.replace(self._good)
