"""What a registry can be told: one frozen record, from flags, environment and defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from plexus_registry.rpc.limits import Limits

DEFAULT_PORT = 4445
LOCAL_HUB_PORT = 4444
DEFAULT_MAX_UNREAD = 64 * 1024 * 1024


def config_folder() -> Path:
    """Return the folder of the default paths.

    Source: XDG base directories; manual/options.md, "Default paths".
    """
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "plexus"


def default_config_path() -> Path:
    """Where the config file is unless one is named."""
    return config_folder() / "backends.toml"


def default_db_path() -> Path:
    """Where the database is unless one is named."""
    return config_folder() / "registry.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Who may come in, and how many.

    Attributes:
        allow_hosts: More names and addresses by which clients may call this registry.
        allow_origins: More origins whose pages may connect, as `https://tools.example.com`.
        token: Grants everything; without it everybody may do everything.
        read_token: Grants looking.
        public_reads: Whether clients without a token may look.
        allow_url_token: Whether a token may stand in the URL, as `?access_token=`.
        insecure: Whether other machines may connect though there is no token.
        tls_cert: The certificate, as a PEM file; None for plain connections.
        tls_key: Its key; None where that is in the same file.
        max_connections: Open connections; one more is answered with 503.
        max_connections_per_address: The same from one address other than the loopback.
        ping_interval: Seconds after which an idle connection is pinged.
        unread_seconds: Seconds for which a peer may take nothing of what is sent to it.
        max_unread_total: What may wait for all peers together to read it, in bytes, about.
    """

    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    read_token: str | None = field(default=None, repr=False)
    public_reads: bool = False
    allow_url_token: bool = False
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_connections: int = 10_000
    max_connections_per_address: int = 1_000
    ping_interval: float = 30.0
    unread_seconds: float = 10.0
    max_unread_total: int = DEFAULT_MAX_UNREAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one registry.

    Attributes:
        host: The address to listen on.
        port: The port to listen on; 0 picks a free one.
        db_path: The SQLite file.
        start_empty: Whether to begin with an empty database where the former one is missing.
        config_path: The TOML file; it need not exist.
        env_backends: Backends as `NAME=ws://HOST:PORT`, parted by commas.
        hub_namespace: What the registry calls itself among Plexus hubs.
        poll_interval: Seconds between two looks at the config file.
        stale_after: Seconds of silence after which a backend that pings is stale.
        sweep_interval: Seconds between two sweeps for stale backends.
        probe_interval: Seconds between two probes of one backend; 0 probes none.
        probe_timeout: Seconds that one probe may take.
        probe_failures: How many probes in a row must fail until a backend is down.
        probe_concurrency: How many probes are under way at once, at most.
        probe_networks: The networks whose addresses are probed, parted by commas; all if empty.
        probe_ca: A file with more authorities that `wss` backends may rely on.
        auto_register: Whether there is a built-in entry for the local hub.
        limits: How much one connection may ask for at a time.
        server: Who may come in, and how many.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    db_path: Path = field(default_factory=default_db_path)
    start_empty: bool = False
    config_path: Path = field(default_factory=default_config_path)
    env_backends: str = ""
    hub_namespace: str = "registry-hub"
    poll_interval: float = 1.0
    stale_after: float = 60.0
    sweep_interval: float = 5.0
    probe_interval: float = 15.0
    probe_timeout: float = 2.0
    probe_failures: int = 3
    probe_concurrency: int = 64
    probe_networks: str = ""
    probe_ca: Path | None = None
    auto_register: bool = True
    limits: Limits = field(default_factory=Limits)
    server: ServerSettings = field(default_factory=ServerSettings)

    @property
    def states_local_hub(self) -> bool:
        """Whether the built-in entry is stated: not where the registry itself listens there."""
        return self.auto_register and self.port != LOCAL_HUB_PORT
