"""Which values may be given: the rules of fields and parameters, commands that keep them, limits.

The same rules hold for calls, the config file and the environment.

Source: manual/methods.md, "Values".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from math import inf
from typing import TYPE_CHECKING, ClassVar

import msgspec

from plexus_registry.rules.errors import InvalidParamsError, shown

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Values:
    """The values that a field or a parameter may hold.

    Attributes:
        rule: The rule in words, to follow "must be".
        accepts: Whether a value, of any type at all, keeps the rule.
        schema: The JSON Schema of the values, with one plain `type`.
    """

    rule: str
    accepts: Callable[[object], bool]
    schema: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method, by its name in an object or its place in an array.

    Attributes:
        doc: Its meaning, in a sentence.
        required: Whether it must be given; null counts as not given.
    """

    name: str
    values: Values
    doc: str
    required: bool = False


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the registry, checked when it is made. A parameter that was not given is None.

    Raises:
        InvalidParamsError: On construction, for the first parameter that breaks its rule.
    """

    parameters: ClassVar[tuple[Parameter, ...]] = ()

    def __post_init__(self) -> None:
        for parameter in self.parameters:
            value = getattr(self, parameter.name)
            if value is None:
                if not parameter.required:
                    continue
                message, problem = f"Missing parameter {parameter.name}", "missing"
            elif parameter.values.accepts(value):
                continue
            else:
                message = f"Parameter {parameter.name} is {shown(value)}"
                problem = "malformed"
            raise InvalidParamsError(
                f"{message}: it must be {parameter.values.rule}",
                param=parameter.name,
                problem=problem,
            )


MAX_HOST = 253
MAX_TEXT_BYTES = 4096
MAX_METADATA_BYTES = 16 * 1024
MAX_SECONDS = 1e9

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_BYTE}\.){{3}}{_BYTE}", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)


def is_name(value: object) -> bool:
    """Whether a backend may be called so: clients use names as path segments and file names."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_host(value: object) -> bool:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_HOST:
        return False
    if ":" in value:
        address, percent, zone = value.partition("%")
        try:
            IPv6Address(address)
        except AddressValueError:
            return False
        return not percent or _ZONE.fullmatch(zone) is not None
    # A host that ends in a number is an IPv4 address to every client (URL standard).
    if value.removesuffix(".").rpartition(".")[2].isdecimal():
        return _IPV4.fullmatch(value) is not None
    return _HOST_NAME.fullmatch(value) is not None


def _is_port(value: object) -> bool:
    # Neither `true` nor 4444.0 is one.
    return type(value) is int and 1 <= value <= 65535


def is_text(value: object) -> bool:
    """Whether it is a text of a size that every reply can carry."""
    if not isinstance(value, str):
        return False
    try:
        return len(value.encode()) <= MAX_TEXT_BYTES
    except UnicodeEncodeError:  # a lone surrogate is no text that JSON or SQLite can hold
        return False


def metadata_text(value: object) -> str:
    """Encode metadata, an object or its JSON text, as it is stored and returned: as JSON text.

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


def _is_metadata(value: object) -> bool:
    try:
        return len(metadata_text(value).encode()) <= MAX_METADATA_BYTES
    except ValueError:
        return False


_STRING = {"type": "string"}


def one_of(*words: str) -> Values:
    """Make the rule that a value is one of some words."""
    return Values(" or ".join(f'"{word}"' for word in words), words.__contains__, _STRING)


def _is_between(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and least <= value <= most


def whole(least: int, most: int | None = None) -> Values:
    """Make the rule that a value is a whole number within bounds, which belong to it."""
    schema: dict[str, str | int] = {"type": "integer", "minimum": least}
    if most is None:
        return Values(f"at least {least}", lambda value: _is_between(value, least, inf), schema)
    schema["maximum"] = most
    return Values(f"from {least} to {most}", lambda value: _is_between(value, least, most), schema)


NAME = Values(
    "a letter or digit, then up to 127 letters, digits, dots, underscores or hyphens",
    is_name,
    _STRING,
)
HOST = Values(
    f"a host name, IPv4 or IPv6 address of 1 to {MAX_HOST} characters,"
    " without scheme, brackets, port or path",
    _is_host,
    _STRING,
)
PORT = Values(
    "an integer from 1 to 65535",
    _is_port,
    {"type": "integer", "format": "uint16", "minimum": 1, "maximum": 65535},
)
TEXT = Values(f"a string of at most {MAX_TEXT_BYTES} bytes", is_text, _STRING)
METADATA = Values(
    f"a JSON object, or its text, of at most {MAX_METADATA_BYTES} bytes as JSON text",
    _is_metadata,
    {"type": "object"},
)
ANY_STRING = Values("a string", lambda value: isinstance(value, str), _STRING)
REVISION = Values(
    "a revision: an integer from 0 up",
    lambda value: type(value) is int and value >= 0,
    {"type": "integer", "minimum": 0},
)
BOOLEAN = Values("true or false", lambda value: isinstance(value, bool), {"type": "boolean"})
SECONDS = Values(
    "a number of seconds above 0",
    lambda value: value != 0 and _is_between(value, 0, MAX_SECONDS),
    {"type": "number", "exclusiveMinimum": 0},
)
SECONDS_OR_NEVER = Values(
    "a number of seconds, or 0 for never",
    lambda value: _is_between(value, 0, MAX_SECONDS),
    {"type": "number", "minimum": 0},
)

# An adopted database may hold names that nobody could register; a caller may ask for them.
KNOWN_NAME = Parameter("name", ANY_STRING, "The backend's name.", required=True)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one connection; clients find them in `_info`.

    Attributes:
        message_bytes: The size of a request; a larger one closes the connection (1009).
        batch_requests: Requests in one batch; more of them are refused (-32010).
        subscriptions: Live streams; one more is refused (-32006).
        nesting: The levels of arrays and objects in a message; a deeper one is refused (-32700).
        unread_bytes: What may wait for one peer to read it; if the answers of a batch are more,
            the rest of it is refused (-32008).

    Source: manual/protocol.md, "Limits".
    """

    message_bytes: int = 1024 * 1024
    batch_requests: int = 1000
    subscriptions: int = 1024
    nesting: int = 64
    unread_bytes: int = 16 * 1024 * 1024
