"""Text for people: backends, aligned and in colour, and log lines.

Names, descriptions and some log lines come from anybody. Here is the last place that can
keep a control character from steering the terminal, and a line end from faking a log line.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plexus_registry.rules.backend import Backend
    from plexus_registry.rules.events import Reloaded
    from plexus_registry.rules.states import Step

COLUMNS = ("NAME", "URL", "STATE", "SINCE", "LATENCY", "SEEN", "SOURCE", "DESCRIPTION")
MAX_CELL = 60
MIN_DESCRIPTION = 20
MAX_LOG_LINE = 4096
_GAP = "  "
_CUT = "..."
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def escaped(text: str) -> str:
    """Write a text on one line, with an escape for each character that is not printable.

    To Python, control characters, line ends, lone surrogates, invisible characters and those that
    change the direction of writing are not printable.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unknown(problem: str, word: str, known: Iterable[str]) -> str:
    """Write that a word is not known, and which of the known words was probably meant."""
    from plexus_registry.rules.methods import nearest

    guess = nearest(word, known, least=0.6)
    hint = f"did you mean {guess}?" if guess else f"there are {', '.join(known)}"
    return f"{problem} '{escaped(word)}': {hint}"


def echo(text: str) -> None:
    """Print for people; the colour goes if the output is no terminal, or with NO_COLOR."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    try:
        click.echo(text, color=False if plain else None)
    except BrokenPipeError:
        raise  # the reader has left: click ends without a message
    except OSError as error:
        raise click.ClickException(f"cannot write the output: {error.strerror}") from error


def echo_json(value: object) -> None:
    """Print a value as one line of JSON, with invisible characters escaped."""
    from plexus_registry.rules.events import encode_value

    echo("".join(c if c.isprintable() else _json_escape(c) for c in encode_value(value)))


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def ago(then: int | None, now: float) -> str:
    """Write how long ago a time was, in the largest unit; both times are Unix seconds."""
    if then is None:
        return "never"
    age = _age(then, now)
    return f"{age} ago" if age else "just now"


def _age(then: int, now: float) -> str:
    for unit, length in _UNITS:
        count = int(now - then) // length
        if count > 0:
            return f"{count} {unit}"
    return ""


def state(backend: Backend) -> str:
    """Write the state of a backend, in colour if it is inactive."""
    if backend.health is not None:
        word = escaped(backend.health.state)
    else:
        word = "active" if backend.is_active else "inactive"
    return word if backend.is_active else click.style(word, fg="yellow")


def _latency(backend: Backend) -> str:
    latency = None if backend.health is None else backend.health.latency_ms
    return "" if latency is None else f"{latency:.1f} ms"


def _seen(backend: Backend) -> int | None:
    """Find the last sign of life: a ping, or a probe that was answered."""
    health, seen = backend.health, backend.last_seen
    if health is None or health.last_probe is None or not backend.is_active:
        return seen
    if health.failures or health.latency_ms is None:  # the last probe was not answered
        return seen
    return max(seen or 0, health.last_probe)


def table(backends: Sequence[Backend], *, columns: int | None = None) -> str:
    """Write backends as a table, one line each.

    `columns` is the width of the terminal, for which long descriptions are cut; None if the output
    is no terminal.
    """
    now = time.time()
    rows = [
        (
            _cell(backend.name),
            _cell(backend.url),
            state(backend),
            _age(backend.health.since if backend.health else backend.registered_at, now) or "now",
            _latency(backend),
            ago(_seen(backend), now),
            escaped(backend.source),
        )
        for backend in backends
    ]
    taken = sum(width + len(_GAP) for width in _widths([COLUMNS[:-1], *rows]))
    room = MAX_CELL if columns is None else min(MAX_CELL, max(MIN_DESCRIPTION, columns - taken))
    described = [
        (*row, _cell(backend.description or "", room))
        for row, backend in zip(rows, backends, strict=True)
    ]
    return _aligned([COLUMNS, *described])


def terminal_columns() -> int | None:
    """Return the width of the terminal; None if the output is no terminal."""
    stream = sys.stdout
    if stream is None or not stream.isatty():
        return None
    return shutil.get_terminal_size().columns


def details(backend: Backend) -> str:
    """Write all facts about a backend, one line each."""
    from plexus_registry.rules.backend import OPTIONAL

    now, health = time.time(), backend.health
    rows: dict[str, str | None] = {
        "name": backend.name,
        "url": backend.url,
        "state": state(backend),
    }
    if health is not None:
        rows |= {
            "since": ago(health.since, now),
            "reason": health.reason,
            "probed": None if health.last_probe is None else ago(health.last_probe, now),
            "latency": _latency(backend),
            "failures": str(health.failures) if health.failures else None,
            "schema hash": health.schema_hash,
        }
    rows |= {
        "seen": ago(_seen(backend), now),
        "source": backend.source,
        "registered": ago(backend.registered_at, now),
        "updated": ago(backend.updated_at, now),
        **{name: getattr(backend, name) for name in OPTIONAL},
        "id": backend.id,
    }
    # The state is not escaped again: its colour would be lost.
    return _aligned(
        [(key, text if key == "state" else escaped(text)) for key, text in rows.items() if text]
    )


def checked(steps: Iterable[Step]) -> str:
    """Write the steps of a probe, one line each."""
    failed = click.style("failed", fg="yellow")
    return _aligned(
        [
            (
                "ok" if each.ok else failed,
                escaped(each.step),
                f"{each.ms:.1f} ms",
                escaped(each.detail),
            )
            for each in steps
        ]
    )


def changed_names(reloaded: Reloaded) -> str:
    """Write the names that changed when the config file was read; empty if nothing changed."""
    changed = {
        "added": reloaded.added,
        "updated": reloaded.updated,
        "removed": reloaded.removed,
    }
    return "; ".join(
        f"{word} {', '.join(map(escaped, names))}" for word, names in changed.items() if names
    )


def _cell(text: str, columns: int = MAX_CELL) -> str:
    """Escape a text, and cut it to a width."""
    shown = escaped(text[: columns + 1])
    if _width(shown) <= columns:
        return shown
    kept = shown[: columns - len(_CUT)]
    while _width(kept) > columns - len(_CUT):
        kept = kept[:-1]
    return kept + _CUT


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = _widths(rows)
    return "\n".join(
        _GAP.join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(*rows, strict=True)]


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(character) else 1 + (east_asian_width(character) in "WF")
        for character in plain
    )


def set_up_logging(line: str, levels: Mapping[str, int]) -> None:
    """Write the log to standard error, in lines of a format.

    `levels` has the level of each logger that is named; the name of the root logger is empty.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(line))
    logging.basicConfig(level=levels.get("", logging.INFO), handlers=[handler])
    for name, level in levels.items():
        if name:
            logging.getLogger(name).setLevel(level)


class LineFormatter(logging.Formatter):
    """Writes an event on one line, escaped and of bounded length; a trace follows, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Write the line itself."""
        return _bounded(escaped(super().formatMessage(record)))

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802 - logging's name
        """Write a trace; each of its lines is indented, so that none looks like an event."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {_bounded(escaped(line))}" for line in lines)


def _bounded(line: str) -> str:
    if len(line) <= MAX_LOG_LINE:
        return line
    return f"{line[:MAX_LOG_LINE]}... ({len(line)} characters)"
