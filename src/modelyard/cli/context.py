"""What every verb is given: the flags, the settings they lead to, the home, and the console."""

from __future__ import annotations

import argparse
import getpass
import os
from functools import cached_property
from pathlib import Path

import msgspec

from modelyard.cli.console import Console, language_of
from modelyard.contract.errors import ModelyardError
from modelyard.contract.home import Home
from modelyard.contract.settings import Settings, load_settings

# Flags that are settings: the same names on the command line and in modelyard.toml.
SETTING_FLAGS = ("home", "host", "gateway_port", "grpc_port", "control_port", "workers", "require_keys")


class Context:
    """One run of the command. Settings are read when a verb first asks."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.console = Console(language_of(getattr(args, "lang", None), self._language()))

    @cached_property
    def loaded(self) -> tuple[Settings, dict[str, str]]:
        """The settings, and where each came from; the home is absolute, so that children find it from anywhere."""
        flags = {name: getattr(self.args, name, None) for name in SETTING_FLAGS}
        settings, origins = load_settings(flags)
        return msgspec.structs.replace(settings, home=str(settings.root.expanduser().resolve())), origins

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.loaded[0]

    @property
    def home(self) -> Home:
        """Where everything lies."""
        return Home(Path(self.settings.home))

    @property
    def by(self) -> str:
        """Who gives this command, for the log: the system's user of this process."""
        try:
            import pwd
        except ImportError:  # Windows
            return f"local:{getpass.getuser()}"
        try:
            return f"local:{pwd.getpwuid(os.getuid()).pw_name}"
        except KeyError:  # a container's user without a name
            return f"local:{os.getuid()}"

    @property
    def wants_json(self) -> bool:
        """Whether a program reads the answer."""
        return bool(getattr(self.args, "json", False))

    def _language(self) -> str:
        try:
            return self.settings.language
        except ModelyardError:  # the verb itself will say what is wrong with the settings
            return ""
