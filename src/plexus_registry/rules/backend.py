"""Backends: their states and health, the layers that state them, and the table of their fields."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec reads the annotations
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypedDict

import msgspec

from plexus_registry.rules.parameters import (
    BOOLEAN,
    HOST,
    KNOWN_NAME,
    MAX_METADATA_BYTES,
    METADATA,
    NAME,
    PORT,
    TEXT,
    Command,
    Parameter,
    Values,
    one_of,
)


class Source(StrEnum):
    """Where a record came from, as the record says of itself."""

    MANUAL = "manual"
    ENV = "env"
    FILE = "file"
    AUTO = "auto"


class Layer(StrEnum):
    """Where a record ranks in the merge, highest first.

    `ADOPTED` holds what the database of an original registry says of the config file, until the
    config file itself was read for the first time.
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
"""What calls wrote, in this run or an earlier one; only these layers can hold a tombstone."""

SOURCE_OF: dict[Layer, Source] = {
    Layer.ENV: Source.ENV,
    Layer.FILE: Source.FILE,
    Layer.AUTO: Source.AUTO,
}
"""The layers that some origin declares, and the source of their backends."""


class State(StrEnum):
    """The state of a backend. Source: manual/health.md, "States"."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    WRONG_HUB = "wrong_hub"
    DEREGISTERED = "deregistered"
    STALE = "stale"


ACTIVE_STATES = frozenset({State.UNKNOWN, State.UP})
"""A backend is active unless there is evidence against it."""


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The signs of a backend's life.

    Attributes:
        state: Its state.
        since: When it came into this state, in Unix seconds.
        last_probe: The time of the last probe, in Unix seconds; forgotten at a restart.
        latency_ms: How long its last answer took, in milliseconds.
        failures: How many probes in a row failed up to now.
        schema_hash: The hash of its schema, if it gave one.
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

    Times are Unix seconds. `metadata` is JSON text. `health` is None until the first sign.
    Values are checked on input (see `FIELDS`), not here: a database that the original wrote may
    hold anything.

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
        """The URL to connect to, with an IPv6 literal in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"

    @property
    def address(self) -> tuple[str, int, str]:
        """Host, port and protocol: equal addresses mean the same hub."""
        return (self.host.lower(), self.port, self.protocol)

    @property
    def pings(self) -> bool:
        """Whether it has ever pinged: only such a backend can go stale."""
        return self.last_seen is not None

    @property
    def state(self) -> State:
        """Its state; without health, it follows from whether it is active and pings."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field that can be stated of a backend.

    Attributes:
        name: Its name: as a member, a key of the config file, a column, an option.
        values: The values that it may hold.
        doc: Its meaning, in a sentence.
        required: Whether a backend cannot be stated without it.
        new: Its meaning in an update; None if an update cannot change it.
        is_clearable: Whether an empty text clears it.
        example: A value for the starter config file, as TOML; None if no config file may state it.
        note: The comment on that example.
    """

    name: str
    values: Values
    doc: str
    required: bool = False
    new: str | None = None
    is_clearable: bool = False
    example: str | None = None
    note: str = ""


_FIELDS = (
    Field(
        name="name",
        values=NAME,
        doc="The backend's name.",
        required=True,
        example='"hub2"',
        note="how clients ask for it; each name once",
    ),
    Field(
        name="host",
        values=HOST,
        doc="The host that it listens on.",
        required=True,
        new="The new host.",
        example='"127.0.0.1"',
        note="a host name, IPv4 or IPv6 address",
    ),
    Field(
        name="port",
        values=PORT,
        doc="The port that it listens on.",
        required=True,
        new="The new port.",
        example="5001",
        note="1 to 65535",
    ),
    Field(
        name="protocol",
        values=one_of("ws", "wss"),
        doc="How to connect: `ws` (the default) or `wss`.",
        new="The new protocol.",
        example='"ws"',
        note='"ws" (the default) or "wss"',
    ),
    Field(
        name="description",
        values=TEXT,
        doc="What it is, for people.",
        new="The new description; an empty one clears it.",
        is_clearable=True,
        example='"My second hub"',
        note="optional, for people",
    ),
    Field(
        name="namespace",
        values=TEXT,
        doc="The Plexus namespace that it serves.",
        new="The new namespace; an empty one clears it.",
        is_clearable=True,
        example='"hub2"',
        note="optional, the Plexus namespace that it serves",
    ),
    Field(name="version", values=TEXT, doc="The backend's own version."),
    Field(
        name="metadata",
        values=METADATA,
        doc=f"Anything more, a JSON object of at most {MAX_METADATA_BYTES // 1024} KiB, or the text"
        " of one; it comes back as JSON text.",
    ),
    Field(
        name="source",
        # What a caller may say of itself; env, file and the built-in entry are stated elsewhere.
        values=one_of(Source.MANUAL, Source.AUTO),
        doc="`auto` where the backend registers itself: it then always wins its own name."
        " Otherwise `manual` (the default).",
    ),
)
FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}
"""The field table. A new field stands last, since parameters count by position.

The annotations of `Backend`, `Declaration`, `Register`, `Update` and `Details` repeat the table for
type checkers, and a test compares them; everything else is made from it.
"""

DECLARABLE = tuple(field.name for field in _FIELDS if field.example is not None)
"""What the config file may state."""
OPTIONAL = tuple(
    field.name
    for field in msgspec.structs.fields(Backend)
    if field.name in FIELDS and field.default is None
)
"""What a backend may be without."""


class Declaration(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One backend as it is declared; its values keep the field rules."""

    name: str
    host: str
    port: int
    protocol: str = "ws"
    description: str | None = None
    namespace: str | None = None


# `replace` keeps its position behind `source`, whatever fields are added.
_REGISTERED = [Parameter(each.name, each.values, each.doc, each.required) for each in _FIELDS]
_REGISTERED.insert(
    [*FIELDS].index("source") + 1,
    Parameter("replace", BOOLEAN, "`true` takes the name even from a live backend."),
)


class Register(Command, frozen=True):
    """Claim a name for an address."""

    parameters: ClassVar[tuple[Parameter, ...]] = tuple(_REGISTERED)

    name: str
    host: str
    port: int
    protocol: str = "ws"
    description: str | None = None
    namespace: str | None = None
    version: str | None = None
    metadata: Mapping[str, object] | str | None = None
    source: str = "manual"
    replace: bool = False


class Update(Command, frozen=True):
    """Change the given fields; an empty description or namespace clears it."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        KNOWN_NAME,
        *(Parameter(each.name, each.values, each.new) for each in _FIELDS if each.new is not None),
    )

    name: str
    host: str | None = None
    port: int | None = None
    protocol: str | None = None
    description: str | None = None
    namespace: str | None = None


class Details(TypedDict, total=False):
    """What an update can change beside the address, as keyword arguments of the client."""

    description: str | None
    namespace: str | None


class AllDetails(Details, total=False):
    """What can be registered beside the address, as keyword arguments of the client."""

    version: str | None
    metadata: Mapping[str, object] | None
