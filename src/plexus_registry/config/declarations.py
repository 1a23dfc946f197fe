"""The declarations of the config file and the environment, and the export that loads back to them.

Source: manual/config.md, "The config file".
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import msgspec
import tomli_w

from plexus_registry.rules.backend import DECLARABLE, FIELDS, Backend, Declaration
from plexus_registry.rules.errors import ConfigError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Fail = Callable[[str, str | None], ConfigError]
    """Makes the error of one entry from a reason and the key that it is about."""

ENV_VARIABLE = "REGISTRY_BACKENDS"
_TABLE = "backend"
_URL = re.compile(
    r"(?:(\w*):)?//(?:\[([0-9A-Fa-f:.]*:[^\]]*)\]|([^:/?#@\[\]]+)):([0-9]{1,5})/?", re.ASCII
)
_DECLARABLE_SET = frozenset(DECLARABLE)
_MOST_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class Declared:
    """The declarations of one origin.

    Attributes:
        backends: By name.
        warnings: The ignored parts, one line each.
    """

    backends: Mapping[str, Declaration] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def parse_toml(text: str, *, path: str) -> Declared:
    """Read a whole config file; `path` is for messages.

    Raises:
        ConfigError: The syntax, an entry or a field is wrong, or a name is stated twice; with
            the line if it is known.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        raise ConfigError(path, line, str(error)) from error
    except RecursionError as error:
        raise ConfigError(path, None, "nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise ConfigError(path, None, str(error).partition(";")[0]) from error
    entries = document.pop(_TABLE, None)
    lines = _Lines(text, len(entries) if isinstance(entries, list) else 0)
    if entries is None:
        _refuse_mistyped_table(document, lines, path)
        entries = []
    if not isinstance(entries, list):
        reason = "write [[backend]] with double brackets, one a backend"
        raise ConfigError(path, lines.of_top(_TABLE), reason)
    ignored = []
    for key in document:
        hint = f"; did you mean [[{_TABLE}]]?" if _nearest(key, [_TABLE]) else ""
        reason = f"unknown key {shown(key)} is ignored{hint}"
        ignored.append(ConfigError(path, lines.of_top(key), reason))
    backends: dict[str, Declaration] = {}
    indexes: dict[str, int] = {}
    for index, entry in enumerate(entries):
        fail = partial(_entry_error, path, lines, index)
        declaration = _declaration(entry, fail)
        name = declaration.name
        if name in backends:
            first = lines.of_entry(indexes[name])
            where = f", first at line {first}" if first else ""
            raise fail(f"name {shown(name)} is stated twice{where}", "name")
        backends[name], indexes[name] = declaration, index
        ignored += [
            fail(f"unknown key {shown(key)} is ignored{_hint(key, entry)}", key)
            for key in entry
            if key not in _DECLARABLE_SET
        ]
    warnings = [str(error) for error in ignored[:_MOST_WARNINGS]]
    if len(ignored) > _MOST_WARNINGS:
        more = len(ignored) - _MOST_WARNINGS
        warnings.append(f"{path}: {more} more unknown keys are ignored")
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
            raise fail(f"{shown(pair)} must be NAME=ws://HOST:PORT", None)
        declaration = _declaration({"name": name.strip(), **_url_fields(url.strip(), fail)}, fail)
        if declaration.name in backends:
            raise fail(f"name {shown(declaration.name)} is stated twice", None)
        backends[declaration.name] = declaration
    return Declared(backends)


def _entry_error(path: str, lines: _Lines, index: int, reason: str, key: str | None) -> ConfigError:
    return ConfigError(path, lines.of_key(index, key), f"backend {index + 1}: {reason}")


def _pair_error(number: int, reason: str, _key: str | None) -> ConfigError:
    return ConfigError(ENV_VARIABLE, None, f"backend {number}: {reason}")


def _url_fields(url: str, fail: Fail) -> dict[str, object]:
    parts = _URL.fullmatch(url)
    if parts is None:
        raise fail(f"{shown(url)} must be ws://HOST:PORT or wss://HOST:PORT", None)
    protocol, ipv6, host, port = parts.groups()
    return {"protocol": protocol or "", "host": ipv6 or host, "port": int(port)}


def _declaration(entry: object, fail: Fail) -> Declaration:
    if not isinstance(entry, dict):
        raise fail(f"{shown(entry)} must be a table", None)
    values: dict[str, object] = {}
    for key in DECLARABLE:
        field, value = FIELDS[key], entry.get(key)
        if key not in entry:
            if field.required:
                hint = _hint_of_missing(key, entry)
                raise fail(f"{key} is missing{hint}; it must be {field.values.rule}", None)
        elif not field.values.accepts(value):
            raise fail(f"{key} {shown(value)} must be {field.values.rule}", key)
        elif value != "" or not field.is_clearable:
            values[key] = value
    return msgspec.convert(values, Declaration)


def _refuse_mistyped_table(document: Mapping[str, object], lines: _Lines, path: str) -> None:
    """Refuse a file that has entries under a mistyped key only: all backends would be removed."""
    tables = (key for key, value in document.items() if isinstance(value, (list, dict)))
    key = _nearest(_TABLE, tables)
    if key is not None:
        reason = f"unknown key {shown(key)}; did you mean [[{_TABLE}]]?"
        raise ConfigError(path, lines.of_top(key), reason)


def _hint(key: str, entry: Mapping[str, object]) -> str:
    """Suggest the key that an unknown one may stand for, first one that accepts its value."""
    absent = [each for each in DECLARABLE if each not in entry]
    fitting = [each for each in absent if FIELDS[each].values.accepts(entry[key])]
    guess = _nearest(key, fitting) or _nearest(key, absent)
    return f"; did you mean {guess}?" if guess else ""


def _hint_of_missing(key: str, entry: Mapping[str, object]) -> str:
    fitting = [each for each in entry if FIELDS[key].values.accepts(entry[each])]
    guess = _nearest(key, [each for each in fitting if each not in _DECLARABLE_SET])
    return f" (is it what you mean by {shown(guess)}?)" if guess else ""


def _nearest(word: str, known: Iterable[str]) -> str | None:
    """Find the key that is most like a word, if any is much like it."""
    by_small = {each[:64].lower(): each for each in known}
    small = word[:64].lower()
    if small in by_small:
        return by_small[small]
    matches = difflib.get_close_matches(small, by_small, n=1, cutoff=0.6)
    return by_small[matches[0]] if matches else None


_NOT_ASCII = re.compile(r"[^\n -~]")
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe0e\ufe0f")
"""Letters and marks that show nothing, and are printable to Python."""


def export_toml(backends: Iterable[Backend]) -> str:
    """Write backends as a config file, by name.

    A backend with values that no config file may state (an older registry may have left one) is
    left out, and a comment names it.
    """
    entries, left_out = [], []
    for backend in sorted(backends, key=lambda each: each.name):
        values = {field: getattr(backend, field) for field in DECLARABLE}
        entry = {field: value for field, value in values.items() if value is not None}
        broken = [name for name, value in entry.items() if not FIELDS[name].values.accepts(value)]
        if broken:
            left_out.append(f"# Left out {shown(backend.name)}: not a valid {broken[0]}.\n")
        else:
            entries.append(entry)
    # One table each, so that a person can add another, and an error can name its line.
    tables = [f"[[backend]]\n{_NOT_ASCII.sub(_escape, tomli_w.dumps(entry))}" for entry in entries]
    return "".join(left_out) + "\n".join(tables)


def _escape(match: re.Match[str]) -> str:
    """Escape what a terminal or an editor would act on instead of showing it.

    `tomli_w` writes every text as a basic string on one line, where such an escape is valid.
    """
    character = match[0]
    if character.isprintable() and character not in _FILLERS:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


# Multi-line strings, strings of one line (which may be keys), and comments; strings come first, so
# that a "#" in one begins no comment.
_PIECE = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}'
    r"|'{3}.*?'{3,5}"
    r"""|("(?:\\.|[^"\\])*"|'[^']*')"""
    r"|#[^\n]*",
    re.DOTALL,
)
_KEY = re.compile(r"\s*(\[{0,2})\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\]\]|[\]=.])")
_SUBKEY = re.compile(r"\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))")


class _Lines:
    """The lines of a text and the keys that begin them; `tomllib` does not keep them.

    The index is made once a message needs a line. If the number of `[[backend]]` headers is not
    that of the entries (an inline array), no line of an entry is known.
    """

    def __init__(self, text: str, entries: int) -> None:
        self._text = text
        self._entries = entries

    def of_top(self, key: str) -> int | None:
        return self._index[0].get(key)

    def of_entry(self, index: int) -> int | None:
        headers = self._index[1]
        return headers[index] if len(headers) == self._entries else None

    def of_key(self, index: int, key: str | None) -> int | None:
        """Find a key of an entry; the entry's header if the key is not found."""
        start = self.of_entry(index)
        if start is None or key is None:
            return start
        return self._index[2].get((start, key), start)

    @cached_property
    def _index(self) -> tuple[dict[str, int], list[int], dict[tuple[int, str], int]]:
        top: dict[str, int] = {}
        headers: list[int] = []
        of_entries: dict[tuple[int, str], int] = {}
        # Without comments and multi-line strings, but with all line ends.
        text = _PIECE.sub(lambda piece: piece[1] or "\n" * piece[0].count("\n"), self._text)
        for number, line in enumerate(text.split("\n"), start=1):
            found = _KEY.match(line)
            if found is None:
                continue
            brackets, *names, end = found.groups()
            key = next(name for name in names if name is not None)
            top.setdefault(key, number)
            if brackets == "[[" and key == _TABLE and end == "]]":
                headers.append(number)
            elif headers and key == _TABLE and brackets == "[" and end == ".":
                below = _SUBKEY.match(line, found.end())
                if below is not None:
                    subkey = next((name for name in below.groups() if name is not None), "")
                    of_entries.setdefault((headers[-1], subkey), number)
            elif headers and not brackets:
                of_entries.setdefault((headers[-1], key), number)
        return top, headers, of_entries
