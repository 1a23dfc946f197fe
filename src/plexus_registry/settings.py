"""The option table, and the settings of a registry, which are its rows.

Theory of operation. Each field of `Settings` is a row of the table: a name, a type, a default, and
an `Option` with all the rest. The options of `trio-registry serve` and the checks of `Settings` are
made from the rows, and a test compares the table in manual/options.md with them.
"""

import os
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

from plexus_registry.rules.methods import NAMESPACE
from plexus_registry.rules.parameters import (
    SECONDS,
    SECONDS_OR_NEVER,
    Limits,
    Values,
    is_name,
    whole,
)

T = TypeVar("T")

LOCAL_HUB_PORT = 4444
DEFAULT_MAX_UNREAD = 64 * 1024 * 1024
KEPT = whole(1, 100_000)
MIN_TOKEN = 16
"""The least length of a token, in characters."""

HUB_NAMESPACE = Values(
    "a letter or digit, then up to 127 letters, digits, underscores or hyphens; and not"
    f" {NAMESPACE!r}, which would hide the methods of the registry itself",
    lambda value: is_name(value) and "." not in str(value) and value != NAMESPACE,
    {"type": "string"},
)

GENERAL = "General options"
BACKENDS = "Backends"
PROBES = "Probes"
ACCESS = "Access"
LIMITS = "Limits"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the option table.

    Attributes:
        group: The heading that it stands under in the help.
        help: Its meaning, for the help and the manual.
        values: The rule for its values; None if the type says enough.
        flag: By default made from the name. If the field is true by default, its flag makes it
            false.
        short: A second, short flag.
        env: Whether an environment variable sets it, too.
        metavar: What the help calls the value, if not by its type.
        shown_default: The default in words, for the help and the manual.
        is_secret: Whether the value is hidden when the settings are printed.
        name: The field of `Settings`; `kind` is its type.
        default: The default, or the function that makes it.
    """

    group: str
    help: str
    values: Values | None = None
    flag: str = ""
    short: str | None = None
    env: bool = False
    metavar: str | None = None
    shown_default: str | None = None
    is_secret: bool = False
    name: str = ""
    kind: object = None
    default: object = None

    @property
    def variable(self) -> str | None:
        """The environment variable that sets it."""
        word = self.flag.removeprefix("--").upper().replace("-", "_")
        return f"REGISTRY_{word}" if self.env else None


class _More(TypedDict, total=False):
    flag: str
    short: str
    env: bool
    metavar: str
    shown_default: str
    is_secret: bool


def _row(
    default: T, group: str, help: str, values: Values | None = None, **more: Unpack[_More]
) -> T:
    option = Option(group, help, values, **more)
    return field(default=default, repr=not option.is_secret, metadata={"option": option})


def _path_row(name: str, help: str, flag: str = "", short: str | None = None) -> Path:
    default = f"{name} in the config folder"
    option = Option(GENERAL, help, flag=flag, short=short, env=True, shown_default=default)
    return field(default_factory=partial(_default_path, name), metadata={"option": option})


def _default_path(name: str) -> Path:
    """Return the default path of a file. Source: XDG base directories."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "plexus" / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one registry. Each is also an option of `trio-registry serve`.

    Raises:
        ValueError: On construction: a value breaks its rule, or two values do not fit together.

    Source: manual/options.md, "All options".
    """

    port: int = _row(
        4445,
        GENERAL,
        "The port to listen on; 0 picks a free one.",
        whole(0, 65535),
        short="-p",
        env=True,
    )
    host: str = _row("127.0.0.1", GENERAL, "The address to listen on.", env=True)
    db_path: Path = _path_row("registry.db", "The SQLite database.")
    start_empty: bool = _row(
        False,
        GENERAL,
        "Begin with an empty database if the former one is missing, instead of refusing to start.",
    )
    config_path: Path = _path_row(
        "backends.toml",
        "The config file; it is watched, and need not exist.",
        flag="--config",
        short="-c",
    )
    poll_interval: float = _row(
        1.0, GENERAL, "Seconds between two looks at the config file.", SECONDS
    )
    keep_changes: int = _row(10_000, GENERAL, "Changes kept for history and watches.", KEPT)
    hub_namespace: str = _row(
        "registry-hub", GENERAL, "What the registry calls itself among Plexus hubs.", HUB_NAMESPACE
    )
    env_backends: str = _row(
        "",
        BACKENDS,
        "Backends to state: dev=ws://192.168.1.100:4444,prod=wss://plexus.example.com:4444",
        flag="--backends",
        env=True,
    )
    auto_register: bool = _row(
        True,
        BACKENDS,
        "Leave out the built-in entry for the local hub, plexus at ws://127.0.0.1:4444.",
        flag="--no-auto-register",
    )
    stale_after: float = _row(
        60.0, BACKENDS, "Seconds of silence after which a backend that pings is inactive.", SECONDS
    )
    sweep_interval: float = _row(
        5.0, BACKENDS, "Seconds between two searches for silent backends.", SECONDS
    )
    probe_interval: float = _row(
        15.0,
        PROBES,
        "Seconds between two probes of one backend; 0 turns probing off.",
        SECONDS_OR_NEVER,
        env=True,
    )
    probe_timeout: float = _row(2.0, PROBES, "Seconds that one probe may take.", SECONDS, env=True)
    probe_failures: int = _row(
        3,
        PROBES,
        "How many probes in a row must fail until a backend is down; at least 2, since a single"
        " failure may be the registry's own.",
        whole(2, 1000),
        env=True,
    )
    probe_concurrency: int = _row(
        64, PROBES, "How many probes may run at the same time.", whole(1, 10_000), env=True
    )
    probe_networks: str = _row(
        "",
        PROBES,
        "The networks whose addresses are probed: 10.0.0.0/8,fd00::/8. Link-local addresses,"
        " and those that embed one, are never probed.",
        env=True,
        shown_default="all",
    )
    probe_ca: Path | None = _row(
        None,
        PROBES,
        "A file of certificates (PEM): authorities for wss backends beside those of the system.",
        env=True,
    )
    allow_hosts: tuple[str, ...] = _row(
        (),
        ACCESS,
        "Another name or address by which clients may call this registry; repeat the option, or"
        " separate several with commas.",
        flag="--allow-host",
        env=True,
        metavar="NAME",
    )
    allow_origins: tuple[str, ...] = _row(
        (),
        ACCESS,
        "An origin whose web pages may connect, as https://tools.example.com; repeat the"
        " option, or separate several with commas.",
        flag="--allow-origin",
        env=True,
        metavar="ORIGIN",
    )
    token: str | None = _row(
        None,
        ACCESS,
        "The file with the token of clients, mode 0600; or put the token itself in REGISTRY_TOKEN.",
        flag="--token-file",
        is_secret=True,
    )
    read_token: str | None = _row(
        None,
        ACCESS,
        "The file with a second token that only allows reading; or put the token itself in"
        " REGISTRY_READ_TOKEN.",
        flag="--read-token-file",
        is_secret=True,
    )
    public_reads: bool = _row(
        False, ACCESS, "Let clients without a token read; changes need the token."
    )
    allow_url_token: bool = _row(
        False,
        ACCESS,
        "Accept the token in the URL, too (?access_token=), for clients that cannot send headers.",
    )
    insecure: bool = _row(False, ACCESS, "Let other machines connect although there is no token.")
    tls_cert: Path | None = _row(
        None,
        ACCESS,
        "The certificate (PEM): the port then speaks only wss and https. SIGHUP reads it again.",
        env=True,
    )
    tls_key: Path | None = _row(
        None, ACCESS, "The key of the certificate (PEM), unless it is in the same file.", env=True
    )
    max_message_bytes: int = _row(
        Limits().message_bytes,
        LIMITS,
        "The size of a request; a larger one closes its connection (code 1009).",
        whole(1024, 2**30),
    )
    max_batch: int = _row(Limits().batch_requests, LIMITS, "Requests in one batch.", whole(1))
    max_subscriptions: int = _row(
        Limits().subscriptions, LIMITS, "Live subscriptions of one connection.", whole(1)
    )
    max_nesting: int = _row(
        Limits().nesting, LIMITS, "Levels of arrays and objects in a message.", whole(8, 256)
    )
    max_unread_bytes: int = _row(
        Limits().unread_bytes,
        LIMITS,
        "How many bytes may wait for one client to read them; once the answers of a batch"
        " exceed it, the rest of the batch is refused.",
        whole(1024),
    )
    max_unread_total: int = _row(
        DEFAULT_MAX_UNREAD,
        LIMITS,
        "How many bytes may wait for all clients together; beyond that, long answers wait for"
        " room, and a client that reads nothing for 2 seconds while others wait loses its"
        " connection.",
        whole(1024),
    )
    max_connections: int = _row(
        10_000, LIMITS, "Open connections; one more is answered with 503.", whole(1)
    )
    max_connections_per_address: int = _row(
        1_000,
        LIMITS,
        "Open connections from one remote address (of IPv6, from one /64 network).",
        whole(1),
    )
    ping_interval: float = _row(
        30.0,
        LIMITS,
        "Seconds after which an idle connection is pinged; two missed pongs end it.",
        SECONDS,
    )
    unread_seconds: float = _row(
        10.0,
        LIMITS,
        "Seconds for which a client may leave its answers unread; then its connection is cut.",
        SECONDS,
    )

    def __post_init__(self) -> None:
        for option in options():
            value, values = getattr(self, option.name), option.values
            if values is not None and not values.accepts(value):
                raise ValueError(f"{option.name} is {value!r}: it must be {values.rule}")
        needed = "give --token-file or REGISTRY_TOKEN, too"
        if self.read_token is not None and self.token is None:
            raise ValueError(f"a token for reading needs one for everything: {needed}")
        if self.read_token is not None and self.read_token == self.token:
            raise ValueError("the token for reading is the same as the one for everything")
        if self.public_reads and self.token is None:
            raise ValueError(f"--public-reads needs a token for changes: {needed}")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("--tls-key needs --tls-cert")

    @property
    def limits(self) -> Limits:
        """The limits of one connection."""
        return Limits(
            message_bytes=self.max_message_bytes,
            batch_requests=self.max_batch,
            subscriptions=self.max_subscriptions,
            nesting=self.max_nesting,
            unread_bytes=self.max_unread_bytes,
        )

    @property
    def states_local_hub(self) -> bool:
        """Whether there is a built-in entry for the local hub: not if we listen on its port."""
        return self.auto_register and self.port != LOCAL_HUB_PORT


@cache
def options() -> tuple[Option, ...]:
    """Return the option table, in the order of the help."""
    return tuple(
        replace(
            each.metadata["option"],
            name=each.name,
            kind=each.type,
            default=each.default_factory if each.default is MISSING else each.default,
            flag=each.metadata["option"].flag or f"--{each.name.replace('_', '-')}",
        )
        for each in fields(Settings)
    )
