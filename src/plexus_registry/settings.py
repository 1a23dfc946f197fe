"""What a registry can be told: one frozen record, from flags, environment and defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from plexus_registry.core.limits import Limits

DEFAULT_PORT = 4445
LOCAL_HUB_PORT = 4444


def config_folder() -> Path:
    """The folder of the default paths. Source: XDG base directories; design, "Config file"."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "plexus"


def default_config_path() -> Path:
    """Where the config file is unless one is named."""
    return config_folder() / "backends.toml"


def default_db_path() -> Path:
    """Where the database is unless one is named."""
    return config_folder() / "registry.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one registry.

    Attributes:
        host: The address to listen on.
        port: The port to listen on; 0 picks a free one.
        db_path: The SQLite file.
        config_path: The TOML file; it need not exist.
        env_backends: Backends as `NAME=ws://HOST:PORT`, parted by commas.
        hub_namespace: What the registry calls itself among Plexus hubs.
        poll_interval: Seconds between two looks at the config file.
        stale_after: Seconds of silence after which a backend that pings is stale.
        sweep_interval: Seconds between two sweeps for stale backends.
        auto_register: Whether there is a built-in entry for the local hub.
        limits: How much one connection may ask for at a time.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    db_path: Path = field(default_factory=default_db_path)
    config_path: Path = field(default_factory=default_config_path)
    env_backends: str = ""
    hub_namespace: str = "registry-hub"
    poll_interval: float = 1.0
    stale_after: float = 60.0
    sweep_interval: float = 5.0
    auto_register: bool = True
    limits: Limits = field(default_factory=Limits)

    @property
    def states_local_hub(self) -> bool:
        """Whether the built-in entry is stated: not where the registry itself listens there."""
        return self.auto_register and self.port != LOCAL_HUB_PORT
