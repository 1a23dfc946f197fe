"""What the config file, the environment and the defaults declare, as claims to names.

TOML and environment text come in, `Declaration`s come out; and a declaration, reconciled with
the record that its layer had, gives the record that the layer has now.

Source: design, "Config file".
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from plexus_registry.core.errors import ConfigError, shown
from plexus_registry.core.model import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENV_VARIABLE = "REGISTRY_BACKENDS"
_TABLE = "backend"
_URL = re.compile(
    r"(?:(\w*):)?//(?:\[([0-9A-Fa-f:.]*:[^\]]*)\]|([^:/?#@\[\]]+)):([0-9]{1,5})/?", re.ASCII
)
_REQUIRED = ("name", "host", "port")
_DECLARABLE = (*_REQUIRED, "protocol", "description", "namespace")


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """One backend as it is declared; its values keep the field rules."""

    name: str
    host: str
    port: int
    protocol: str = "ws"
    description: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """What one origin declares.

    Attributes:
        backends: By name.
        warnings: What was passed over, each on one line.
    """

    backends: Mapping[str, Declaration] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


LOCAL_HUB = Declaration(
    name="plexus", host="127.0.0.1", port=4444, description="The local Plexus hub"
)
"""The built-in entry. Source: design, "Auto source"."""


def parse_toml(text: str, *, path: str) -> Declared:
    """Read a config file.

    Args:
        text: The whole file.
        path: Where it is, for messages.

    Raises:
        ConfigError: The syntax, an entry or a field is wrong, or a name is stated twice; with
            the line where it is known.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        raise ConfigError(path, int(at[1]) if at else _last_line(text), str(error)) from error
    except RecursionError as error:
        raise ConfigError(path, None, "nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise ConfigError(path, None, str(error).partition(";")[0]) from error
    entries = document.pop(_TABLE, [])
    if not isinstance(entries, list):
        line_of = _key_line(text, 1, _TABLE)
        raise ConfigError(path, line_of, "write [[backend]] with double brackets, one a backend")
    lines = _Lines(text, len(entries))
    warnings = [
        f"{path}{_at(_key_line(text, 1, key))}: unknown key {shown(key)} is ignored"
        for key in document
    ]
    backends: dict[str, Declaration] = {}
    first_lines: dict[str, int | None] = {}
    for index, entry in enumerate(entries):
        entry_line = lines.of_entry(index)

        fail = partial(_entry_error, path, lines, index)

        declaration = _declaration(entry, fail)
        if declaration.name in backends:
            first = first_lines[declaration.name]
            where = f", first at line {first}" if first else ""
            raise fail(f"name {shown(declaration.name)} is stated twice{where}", "name")
        backends[declaration.name] = declaration
        first_lines[declaration.name] = entry_line
        warnings += [
            f"{path}{_at(lines.of_key(index, key))}:"
            f" backend {index + 1}: unknown key {shown(key)} is ignored"
            for key in entry
            if key not in _DECLARABLE
        ]
    return Declared(backends, tuple(warnings))


def parse_environment(text: str) -> Declared:
    """Read `NAME=ws://HOST:PORT` pairs, parted by commas.

    Raises:
        ConfigError: A pair is malformed, a field breaks its rule, or a name is stated twice.
    """
    backends: dict[str, Declaration] = {}
    for number, pair in enumerate((part.strip() for part in text.split(",")), start=1):
        if not pair:
            continue
        fail = partial(_pair_error, number)
        name, equals, url = pair.partition("=")
        if not equals:
            raise fail(f"{shown(pair)} must be NAME=ws://HOST:PORT")
        declaration = _declaration({"name": name.strip(), **_url_fields(url.strip(), fail)}, fail)
        if declaration.name in backends:
            raise fail(f"name {shown(declaration.name)} is stated twice")
        backends[declaration.name] = declaration
    return Declared(backends)


class Fail(Protocol):
    """Makes the error of one entry."""

    def __call__(self, reason: str, key: str | None = None, /) -> ConfigError:
        """Say what is wrong, and at which key."""
        ...


def _entry_error(
    path: str, lines: _Lines, index: int, reason: str, key: str | None = None, /
) -> ConfigError:
    return ConfigError(path, lines.of_key(index, key), f"backend {index + 1}: {reason}")


def _pair_error(number: int, reason: str, _key: str | None = None, /) -> ConfigError:
    return ConfigError(ENV_VARIABLE, None, f"backend {number}: {reason}")


def _at(line: int | None) -> str:
    return f", line {line}" if line else ""


def _url_fields(url: str, fail: Fail) -> dict[str, object]:
    parts = _URL.fullmatch(url)
    if parts is None:
        raise fail(f"{shown(url)} must be ws://HOST:PORT or wss://HOST:PORT")
    protocol, ipv6, host, port = parts.groups()
    return {"protocol": protocol or "", "host": ipv6 or host, "port": int(port)}


def _declaration(entry: object, fail: Fail) -> Declaration:
    if not isinstance(entry, dict):
        raise fail(f"{shown(entry)} must be a table")
    values: dict[str, object] = {}
    for key in _DECLARABLE:
        if key not in entry:
            if key in _REQUIRED:
                raise fail(f"{key} is missing; it must be {FIELDS[key].rule}")
            continue
        value = entry[key]
        if not FIELDS[key].accepts(value):
            raise fail(f"{key} {shown(value)} must be {FIELDS[key].rule}", key)
        values[key] = value
    for optional in ("description", "namespace"):
        if values.get(optional) == "":
            del values[optional]
    return msgspec.convert(values, Declaration)


class _Lines:
    """Where the entries of a TOML text stand; tomllib does not tell.

    Counts the `[[backend]]` headers outside multi-line strings. Where their number is not the
    number of entries (an inline array), it knows no line rather than a wrong one.
    """

    def __init__(self, text: str, entries: int) -> None:
        self._lines = dict(_lines_outside_strings(text))
        headers = [
            number
            for number, line in self._lines.items()
            if re.match(rf"\s*\[\[\s*[\"']?{_TABLE}[\"']?\s*\]\]", line)
        ]
        self._headers = headers if len(headers) == entries else []

    def of_entry(self, index: int) -> int | None:
        return self._headers[index] if self._headers else None

    def of_key(self, index: int, key: str | None) -> int | None:
        start = self.of_entry(index)
        if start is None or key is None:
            return start
        end = self._headers[index + 1] if index + 1 < len(self._headers) else None
        pattern = re.compile(rf"\s*(?:\[\s*{_TABLE}\s*\.\s*)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
        for number, line in self._lines.items():
            if number > start and (end is None or number < end) and pattern.match(line):
                return number
        return start


# Strings first, so that a "#" in one begins no comment, and a quote in a comment no string.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*',
    re.DOTALL,
)


def _lines_outside_strings(text: str) -> Iterator[tuple[int, str]]:
    """Number the lines from 1, without comments and without what stands in multi-line strings."""

    def blank(token: re.Match[str]) -> str:
        is_kept = token[0][0] != "#" and token[0][:3] not in ('"""', "'''")
        return token[0] if is_kept else "\n" * token[0].count("\n")

    return enumerate(_TOKEN.sub(blank, text).split("\n"), start=1)


def _key_line(text: str, first: int, key: str) -> int | None:
    pattern = re.compile(rf"\s*\[{{0,2}}\s*[\"']?{re.escape(key)}[\"']?\s*[\]=.]")
    for number, line in _lines_outside_strings(text):
        if number >= first and pattern.match(line):
            return number
    return None


def _last_line(text: str) -> int:
    return text.count("\n") + 1
