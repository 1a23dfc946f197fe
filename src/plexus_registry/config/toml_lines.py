"""The lines of the keys of a TOML text; `tomllib` does not keep them.

A text is read line by line, once the first line is asked for. If the number of `[[backend]]`
headers is not that of the entries (an inline array), no line is known.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Strings first, so that a "#" in one begins no comment.
_PIECE = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\])*"|\'[^\']*\'|#')
_END = {
    '"""': re.compile(r'(?:\\.|[^\\])*?"{3,5}'),
    "'''": re.compile(r".*?'{3,5}"),
}
_KEY = re.compile(r"\s*(\[{0,2})\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\]\]|[\]=.])")
_SUBKEY = re.compile(r"\s*(?:\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+))")


class Lines:
    """The lines of a text and the keys that begin them."""

    def __init__(self, text: str, table: str, entries: int) -> None:
        """Keep the text; it is read later.

        Args:
            text: The whole text.
            table: The name of the array of tables whose entries are counted.
            entries: How many entries it has.
        """
        self._text = text
        self._table = table
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
            if brackets == "[[" and key == self._table and end == "]]":
                headers.append(number)
            elif headers and key == self._table and brackets == "[" and end == ".":
                below = _SUBKEY.match(line, found.end())
                if below is not None:
                    subkey = next((name for name in below.groups() if name is not None), "")
                    of_entries.setdefault((headers[-1], subkey), number)
            elif headers and not brackets:
                of_entries.setdefault((headers[-1], key), number)
        return top, headers, of_entries


def last_line(text: str) -> int:
    """Count the lines."""
    return text.count("\n") + 1


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
