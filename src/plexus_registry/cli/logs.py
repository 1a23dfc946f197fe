"""The log of a process: its levels, and its lines.

Some of what is logged comes from peers, and some loggers belong to other libraries. This is the
last place that can keep a control character from steering the terminal of a reader, and a line end
from faking an event.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from plexus_registry.cli.display import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL,
}
MAX_LINE = 4096
_MARGIN = "  "


def parse_levels(text: str) -> dict[str, int]:
    """Read levels as in `RUST_LOG`: `info`, or by module `plexus_registry=debug,info`.

    Returns:
        The level of each logger that is named; the name of the root logger is empty.

    Raises:
        ValueError: There is no such level.
    """
    levels: dict[str, int] = {}
    for directive in text.split(","):
        target, _, level = directive.strip().rpartition("=")
        if level.lower() not in LEVELS:
            raise ValueError(
                f"{directive!r} is no log level: use one of {', '.join(LEVELS)},"
                " or plexus_registry=debug,info"
            )
        # Rust programs separate the parts of a module path with "::".
        levels[target.replace("::", ".")] = LEVELS[level.lower()]
    return levels


def set_up_logging(line: str, levels: Mapping[str, int]) -> None:
    """Write the log to standard error.

    Args:
        line: The format of a line.
        levels: The level of each logger that is named; the name of the root logger is empty.
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
        return "\n".join(_MARGIN + _bounded(escaped(line)) for line in lines)


def _bounded(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}... ({len(line)} characters)"
