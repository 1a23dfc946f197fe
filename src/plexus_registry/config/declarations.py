"""The declarations of the config file and the environment, and the export that loads back to them.

`tomllib` does not keep the lines of keys, so `_Lines` finds them once a message needs one. If the
number of `[[backend]]` headers is not that of the entries (an inline array), no line is known.

Source: manual/config.md, "The config file".
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import msgspec
import tomli_w

from plexus_registry.rules.backend import DECLARABLE, FIELDS, Backend, Declaration
from plexus_registry.rules.errors import ConfigError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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
        warnings: What was ignored, each on one line.
    """

    backends: Mapping[str, Declaration] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def parse_toml(text: str, *, path: str) -> Declared:
    """Read a config file.

    Args:
        text: The whole file.
        path: Its path, for messages.

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
    if entries is None:
        _refuse_mistyped_table(document, _Lines(text, 0), path)
        entries = []
    if not isinstance(entries, list):
        line_of = _Lines(text, 0).of_top(_TABLE)
        raise ConfigError(path, line_of, "write [[backend]] with double brackets, one a backend")
    lines = _Lines(text, len(entries))
    unknown: list[tuple[Callable[[str], int | None], str, str]] = []
    for key in document:
        hint = f"; did you mean [[{_TABLE}]]?" if _nearest(key, [_TABLE]) else ""
        unknown.append((lines.of_top, key, f"unknown key {shown(key)} is ignored{hint}"))
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
        for key in [each for each in entry if each not in _DECLARABLE_SET]:
            text = f"backend {index + 1}: unknown key {shown(key)} is ignored{_hint(key, entry)}"
            unknown.append((partial(lines.of_key, index), key, text))
    return Declared(backends, _warnings(path, unknown))


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
        """Make an error with a reason and the key that it is about."""
        ...


def _entry_error(
    path: str, lines: _Lines, index: int, reason: str, key: str | None = None, /
) -> ConfigError:
    return ConfigError(path, lines.of_key(index, key), f"backend {index + 1}: {reason}")


def _pair_error(number: int, reason: str, _key: str | None = None, /) -> ConfigError:
    return ConfigError(ENV_VARIABLE, None, f"backend {number}: {reason}")


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
    for key in DECLARABLE:
        field, value = FIELDS[key], entry.get(key)
        if key not in entry:
            if field.required:
                hint = _hint_of_missing(key, entry)
                raise fail(f"{key} is missing{hint}; it must be {field.values.rule}")
            continue
        if not field.values.accepts(value):
            raise fail(f"{key} {shown(value)} must be {field.values.rule}", key)
        if value != "" or not field.is_clearable:
            values[key] = value
    return msgspec.convert(values, Declaration)


def _warnings(
    path: str, unknown: Sequence[tuple[Callable[[str], int | None], str, str]]
) -> tuple[str, ...]:
    """Warn of unknown keys: of each what finds its line, the key, and the text."""
    warnings = []
    for line_of, key, text in unknown[:_MOST_WARNINGS]:
        line = line_of(key)
        warnings.append(f"{path}{f', line {line}' if line else ''}: {text}")
    if len(unknown) > _MOST_WARNINGS:
        more = len(unknown) - _MOST_WARNINGS
        warnings.append(f"{path}: {more} more unknown keys are ignored")
    return tuple(warnings)


def _refuse_mistyped_table(document: Mapping[str, object], lines: _Lines, path: str) -> None:
    """Refuse a file that has entries under a mistyped key only: all backends would be removed."""
    tables = (key for key, value in document.items() if isinstance(value, (list, dict)))
    key = _nearest(_TABLE, tables)
    if key is not None:
        raise ConfigError(
            path, lines.of_top(key), f"unknown key {shown(key)}; did you mean [[{_TABLE}]]?"
        )


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


# Strings first, so that a "#" in one begins no comment.
_PIECE = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\])*"|\'[^\']*\'|#')
_END = {
    '"""': re.compile(r'(?:\\.|[^\\])*?"{3,5}'),
    "'''": re.compile(r".*?'{3,5}"),
}
_KEY = re.compile(r"\s*(\[{0,2})\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\]\]|[\]=.])")
_SUBKEY = re.compile(r"\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))")


class _Lines:
    """The lines of a text and the keys that begin them."""

    def __init__(self, text: str, entries: int) -> None:
        self._text = text
        self._entries = entries

    def of_top(self, key: str) -> int | None:
        """Find the first line that states a key of the document."""
        return self._index[0].get(key)

    def of_entry(self, index: int) -> int | None:
        """Find the header of an entry, counted from 0."""
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
        for number, line in _lines_outside_strings(self._text):
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


def _lines_outside_strings(text: str) -> Iterator[tuple[int, str]]:
    """Number the lines from 1, without comments and multi-line strings."""
    open_quotes = None
    for number, line in enumerate(text.split("\n"), start=1):
        kept: list[str] = []
        position = 0
        while position < len(line):
            if open_quotes is not None:
                end = _END[open_quotes].match(line, position)
                if end is None:
                    break
                open_quotes, position = None, end.end()
                continue
            piece = _PIECE.search(line, position)
            if piece is None:
                kept.append(line[position:])
                break
            kept.append(line[position : piece.start()])
            if piece[0] == "#":
                break
            if piece[0] in _END:
                open_quotes = piece[0]
            else:
                kept.append(piece[0])
            position = piece.end()
        yield number, "".join(kept)
