"""What a registry knows: backends, who says so, and which values a field may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


class Source(StrEnum):
    """Where a record came from, as the record says of itself."""

    MANUAL = "manual"
    ENV = "env"
    FILE = "file"
    AUTO = "auto"


class Layer(StrEnum):
    """Where a record ranks in the merge, highest first.

    `ADOPTED` is there between two moments only: it holds what an original registry's database
    says of the config file, until the config file itself was read for the first time.
    """

    RUNTIME = "runtime"
    DATABASE = "database"
    ENV = "env"
    FILE = "file"
    ADOPTED = "adopted"
    AUTO = "auto"


RANK: dict[Layer, int] = {layer: rank for rank, layer in enumerate(Layer)}
"""0 is the highest. Source: manual/config.md, "Which source wins"."""

MANUAL_LAYERS = frozenset({Layer.RUNTIME, Layer.DATABASE})
"""What calls wrote, in this run or an earlier one; only here can a name be stated deleted."""


class State(StrEnum):
    """How a backend is, by all that is known of it. Source: manual/health.md, "States"."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    WRONG_HUB = "wrong_hub"
    DEREGISTERED = "deregistered"
    STALE = "stale"


ACTIVE_STATES = frozenset({State.UNKNOWN, State.UP})
"""Who is not known to be away is taken to be there."""


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known of a backend's life.

    Attributes:
        state: How it is.
        since: Since when, in Unix seconds.
        last_probe: When it was last asked, in Unix seconds; forgotten at a restart.
        latency_ms: How long its last answer took, in milliseconds.
        failures: How many probes in a row failed up to now.
        schema_hash: The hash of what it offers, where it said one.
        reason: Why it is in this state, or what went wrong last.
    """

    state: State
    since: int
    last_probe: int | None = None
    latency_ms: float | None = None
    failures: int
    schema_hash: str | None = None
    reason: str | None = None


class Backend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A Plexus hub that can be connected to, with the members and order of the wire format.

    Times are Unix seconds. `metadata` is JSON text. `health` is None until anything is known.
    Values are checked where they come in (see `FIELDS`), not here: a database that the original
    wrote may hold anything.

    Source: manual/protocol.md, "Backends".
    """

    id: str
    name: str
    host: str
    port: int
    protocol: str
    description: str | None = None
    namespace: str | None = None
    version: str | None = None
    metadata: str | None = None
    source: Source
    is_active: bool
    registered_at: int
    last_seen: int | None = None
    created_at: int
    updated_at: int
    health: Health | None = None

    @property
    def url(self) -> str:
        """Where to connect, with an IPv6 literal in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"

    @property
    def address(self) -> tuple[str, int, str]:
        """Host, port and protocol: two claims with equal addresses mean the same hub."""
        return (self.host.lower(), self.port, self.protocol)

    @property
    def pings(self) -> bool:
        """Whether it has ever pinged: only such a backend can go stale."""
        return self.last_seen is not None

    @property
    def state(self) -> State:
        """How it is, also where nothing was learned of it but whether it is active and pings."""
        if self.health is not None:
            return self.health.state
        if self.is_active:
            return State.UP if self.pings else State.UNKNOWN
        return State.STALE if self.pings else State.DEREGISTERED


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One layer's statement about one name; without a backend it is a tombstone."""

    name: str
    layer: Layer
    backend: Backend | None

    @property
    def is_tombstone(self) -> bool:
        """Whether it states that the name is deleted."""
        return self.backend is None


@dataclass(frozen=True, slots=True)
class Field:
    """What one field may hold.

    Attributes:
        rule: The rule in words, to follow "must be".
        accepts: Whether a value, of any type at all, keeps the rule.
        schema: The JSON Schema of its values, with one plain `type`.
    """

    rule: str
    accepts: Callable[[object], bool]
    schema: Mapping[str, str | int]


_STRING = {"type": "string"}
MAX_HOST = 253
MAX_TEXT_BYTES = 4096
MAX_METADATA_BYTES = 16 * 1024
PROTOCOLS = ("ws", "wss")
# What a caller may say of itself; env, file and the built-in entry are stated elsewhere.
CLAIMABLE_SOURCES = (Source.MANUAL, Source.AUTO)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_BYTE}\.){{3}}{_BYTE}", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)


def is_name(value: object) -> bool:
    """Whether a backend may be called so: clients use names as path segments and file names."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def is_host(value: object) -> bool:
    """Whether it is a host name, an IPv4 or an IPv6 literal, and nothing more."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_HOST:
        return False
    if ":" in value:
        address, percent, zone = value.partition("%")
        return _is_ipv6(address) and (not percent or _ZONE.fullmatch(zone) is not None)
    labels = value.removesuffix(".").split(".")
    # A host that ends in a number is an IPv4 address to every client (URL standard).
    if labels[-1].isdecimal():
        return _IPV4.fullmatch(value) is not None
    return all(_LABEL.fullmatch(label) for label in labels)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def is_port(value: object) -> bool:
    """Whether it is a port to connect to: neither `true` nor 4444.0 is."""
    return type(value) is int and 1 <= value <= 65535


def is_protocol(value: object) -> bool:
    """Whether clients know how to connect with it."""
    return value in PROTOCOLS


def is_text(value: object) -> bool:
    """Whether it is a text of a size that every reply can carry."""
    if not isinstance(value, str):
        return False
    try:
        return len(value.encode()) <= MAX_TEXT_BYTES
    except UnicodeEncodeError:  # a lone surrogate is no text that JSON or SQLite can hold
        return False


def metadata_text(value: object) -> str:
    """Encode metadata as it is stored and returned: as the JSON text of an object.

    Args:
        value: A JSON object, or its text: clients send back what they were shown.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str) and len(value) <= MAX_METADATA_BYTES:
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise ValueError(str(error)) from error
    if not isinstance(value, Mapping):
        raise ValueError("no JSON object")  # noqa: TRY004 - a value, not a caller's bug
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, RecursionError) as error:  # nothing that JSON can hold
        raise ValueError(str(error)) from error


def is_metadata(value: object) -> bool:
    """Whether it is a JSON object, or the text of one, that is not too large."""
    try:
        return len(metadata_text(value).encode()) <= MAX_METADATA_BYTES
    except ValueError:
        return False


def is_claimable_source(value: object) -> bool:
    """Whether a caller may say it of a backend."""
    return value in CLAIMABLE_SOURCES


_TEXT = Field(f"a string of at most {MAX_TEXT_BYTES} bytes", is_text, _STRING)

FIELDS: dict[str, Field] = {
    "name": Field(
        "a letter or digit, then up to 127 letters, digits, dots, underscores or hyphens",
        is_name,
        _STRING,
    ),
    "host": Field(
        f"a host name, IPv4 or IPv6 address of 1 to {MAX_HOST} characters,"
        " without scheme, brackets, port or path",
        is_host,
        _STRING,
    ),
    "port": Field(
        "an integer from 1 to 65535",
        is_port,
        {"type": "integer", "format": "uint16", "minimum": 1, "maximum": 65535},
    ),
    "protocol": Field('"ws" or "wss"', is_protocol, _STRING),
    "description": _TEXT,
    "namespace": _TEXT,
    "version": _TEXT,
    "metadata": Field(
        f"a JSON object, or its text, of at most {MAX_METADATA_BYTES} bytes as JSON text",
        is_metadata,
        {"type": "object"},
    ),
    "source": Field('"manual" or "auto"', is_claimable_source, _STRING),
}
"""The same for calls, the config file and the environment. Source: manual/methods.md, "Values"."""
