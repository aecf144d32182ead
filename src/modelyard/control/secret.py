"""The secret that signs sessions: made once, kept in the home's keys, never in the database."""

import os
import secrets

from modelyard.contract.home import Home


def secret_key(home: Home) -> str:
    """This home's secret; the first call makes it. The file is its owner's alone."""
    path = home.keys / "session.key"
    if not path.exists():
        home.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(64))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(staging, path)
        except FileExistsError:
            pass  # another process was first; its secret is the home's
        finally:
            staging.unlink()
    return path.read_text("ascii")
