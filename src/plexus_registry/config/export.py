"""Backends as the text of a config file that loads back to the same backends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import tomli_w

from plexus_registry.rules.backend import DECLARABLE, FIELDS, Backend
from plexus_registry.rules.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    tables = [f"[[backend]]\n{_escaped(tomli_w.dumps(entry))}" for entry in entries]
    return "".join(left_out) + "\n".join(tables)


def _escaped(toml: str) -> str:
    """Escape what a terminal or an editor would act on instead of showing it.

    `tomli_w` writes every text as a basic string on one line, where such an escape is valid.
    """
    return _NOT_ASCII.sub(_escape, toml)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() and character not in _FILLERS:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
