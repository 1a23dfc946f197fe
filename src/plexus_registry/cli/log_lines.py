"""Log lines as they are written: one line an event, whatever is in it.

Some of what is logged comes from peers, and some of the loggers are other people's. Here is the
last place where a control character can be kept from steering the terminal of whoever reads the
log, and a line end from faking an event.
"""

from __future__ import annotations

import logging

from plexus_registry.cli.display import escaped

MAX_LINE = 4096
_MARGIN = "  "


class LineFormatter(logging.Formatter):
    """Writes an event on one line, escaped and of bounded length; a trace follows indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Write the line itself."""
        return bounded(escaped(super().formatMessage(record)))

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802 - logging's name
        """Write a trace: each of its lines is indented, so that none passes for an event."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(_MARGIN + bounded(escaped(line)) for line in lines)


def bounded(line: str) -> str:
    """Keep a line from being long."""
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}... ({len(line)} characters)"
