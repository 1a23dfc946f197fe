"""What a caller can ask for: one frozen record a method, checked when it is made.

The parameters of a command are also those of its method: `methods` makes the schemas, the
documentation and the checks of calls from them. A member that is None was not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from plexus_registry.rules.backend import FIELDS, MAX_METADATA_BYTES, Field
from plexus_registry.rules.errors import InvalidParamsError, shown


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: The name, as a member of an object; its place counts in an array.
        field: What it may hold.
        doc: What it means, in a sentence.
        required: Whether it must be given; null counts as not given.
    """

    name: str
    field: Field
    doc: str
    required: bool = False

    def missing(self) -> InvalidParamsError:
        """Say that it must be given."""
        return InvalidParamsError(
            f"Missing parameter {self.name}: it must be {self.field.rule}",
            param=self.name,
            problem="missing",
        )

    def malformed(self, value: object) -> InvalidParamsError:
        """Say that a value breaks the rule."""
        return InvalidParamsError(
            f"Parameter {self.name} is {shown(value)}: it must be {self.field.rule}",
            param=self.name,
            problem="malformed",
        )


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the registry, ready to be carried out.

    Raises:
        InvalidParamsError: On construction, for the first parameter that breaks its rule.
    """

    parameters: ClassVar[tuple[Parameter, ...]] = ()

    def __post_init__(self) -> None:
        for parameter in self.parameters:
            value = getattr(self, parameter.name)
            if value is None:
                if parameter.required:
                    raise parameter.missing()
            elif not parameter.field.accepts(value):
                raise parameter.malformed(value)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


def _is_revision(value: object) -> bool:
    return type(value) is int and value >= 0


TEXT = Field("a string", _is_string, {"type": "string"})
REVISION = Field(
    "a revision: an integer from 0 up", _is_revision, {"type": "integer", "minimum": 0}
)
BOOLEAN = Field("true or false", _is_boolean, {"type": "boolean"})

# An adopted database may hold names that nobody could register: whoever asks may say them.
_KNOWN_NAME = Parameter("name", TEXT, "The backend's name.", required=True)


def _optional(name: str, doc: str) -> Parameter:
    return Parameter(name, FIELDS[name], doc)


class Register(Command, frozen=True):
    """Claim a name for an address."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("name", FIELDS["name"], "The backend's name.", required=True),
        Parameter("host", FIELDS["host"], "The host that it listens on.", required=True),
        Parameter("port", FIELDS["port"], "The port that it listens on.", required=True),
        _optional("protocol", "How to connect: `ws` (the default) or `wss`."),
        _optional("description", "What it is, for people."),
        _optional("namespace", "The Plexus namespace that it serves."),
        _optional("version", "The backend's own version."),
        _optional(
            "metadata",
            f"Anything more, a JSON object of at most {MAX_METADATA_BYTES // 1024} KiB, or the text"
            " of one; it comes back as JSON text.",
        ),
        _optional(
            "source",
            "`auto` where the backend registers itself: it then always wins its own name."
            " Otherwise `manual` (the default).",
        ),
        Parameter("replace", BOOLEAN, "`true` takes the name even from a live backend."),
    )

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
    """Change what is given; an empty description or namespace clears it."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        _KNOWN_NAME,
        _optional("host", "The new host."),
        _optional("port", "The new port."),
        _optional("protocol", "The new protocol."),
        _optional("description", "The new description; an empty one clears it."),
        _optional("namespace", "The new namespace; an empty one clears it."),
    )

    name: str
    host: str | None = None
    port: int | None = None
    protocol: str | None = None
    description: str | None = None
    namespace: str | None = None


class Delete(Command, frozen=True):
    """Make the name not exist."""

    parameters: ClassVar[tuple[Parameter, ...]] = (_KNOWN_NAME,)

    name: str


class Deregister(Command, frozen=True):
    """Say goodbye: the record stays, inactive."""

    parameters: ClassVar[tuple[Parameter, ...]] = (_KNOWN_NAME,)

    name: str


class Ping(Command, frozen=True):
    """Give a sign of life."""

    parameters: ClassVar[tuple[Parameter, ...]] = (_KNOWN_NAME,)

    name: str


class Check(Command, frozen=True):
    """Probe a backend now."""

    parameters: ClassVar[tuple[Parameter, ...]] = (_KNOWN_NAME,)

    name: str


class Get(Command, frozen=True):
    """Ask for one effective backend."""

    parameters: ClassVar[tuple[Parameter, ...]] = (_KNOWN_NAME,)

    name: str


class List(Command, frozen=True):
    """Ask for all effective backends."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("active_only", BOOLEAN, "`true` (the default) leaves out inactive backends."),
    )

    active_only: bool = True


class Reload(Command, frozen=True):
    """Read the config file now."""


class Watch(Command, frozen=True):
    """Follow the changes."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "since",
            REVISION,
            "Only what happened after this revision, without a snapshot.",
        ),
        Parameter("name", TEXT, "Only what happens to this backend."),
        Parameter("namespace", TEXT, "Only what happens to backends of this namespace."),
    )

    since: int | None = None
    name: str | None = None
    namespace: str | None = None
