"""Where things lie under the home folder; the one place that knows."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Home(msgspec.Struct, frozen=True):
    """Paths only; nothing is made until `prepare`."""

    root: Path

    @property
    def shelf(self) -> Path:
        """Artifacts by digest, and `names.json`."""
        return self.root / "shelf"

    @property
    def names(self) -> Path:
        """Which digest `model:alias` and `model:version` mean, signed."""
        return self.root / "shelf" / "names.json"

    @property
    def plan(self) -> Path:
        """The signed serving plan."""
        return self.root / "plan.json"

    @property
    def keys(self) -> Path:
        """Signing keys and secrets; outside the database, 0700."""
        return self.root / "keys"

    @property
    def database(self) -> Path:
        """SQLite of the control plane."""
        return self.root / "control.sqlite3"

    @property
    def records(self) -> Path:
        """Segments of prediction records and feedback."""
        return self.root / "records"

    @property
    def run(self) -> Path:
        """What running processes say of themselves: `gateway.json`, counters, process ids."""
        return self.root / "run"

    @property
    def gateway_state(self) -> Path:
        """The gateway parent's `GatewayState`."""
        return self.root / "run" / "gateway.json"

    @property
    def control_beat(self) -> Path:
        """Touched by the control plane while it lives; a canary's lease is measured from it."""
        return self.root / "run" / "control.beat"

    @property
    def graphs(self) -> Path:
        """Large graphs as the gateway's processes share them; made anew by every gateway."""
        return self.root / "run" / "graphs"

    @property
    def bulk_socket(self) -> Path:
        """Where the bulk worker is asked."""
        return self.root / "run" / "bulk.sock"

    @property
    def logs(self) -> Path:
        """One log file for each process kind."""
        return self.root / "logs"

    def prepare(self) -> Home:
        """Make the folders, readable by their owner alone."""
        for folder in (self.root, self.shelf, self.keys, self.records, self.run, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        return self
