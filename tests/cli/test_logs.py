"""Log lines: one an event, escaped and bounded, whatever a peer put into them."""

from __future__ import annotations

import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.cli.display import MAX_LOG_LINE, LineFormatter

FORMATTER = LineFormatter("%(levelname)s %(name)s: %(message)s")


def record(message: str, *, error: str | None = None) -> str:
    made = logging.LogRecord("peer", logging.INFO, __file__, 1, "%s", (message,), None)
    if error is not None:
        try:
            raise ValueError(error)  # noqa: TRY301 - to be caught here
        except ValueError:
            made.exc_info = sys.exc_info()
    return FORMATTER.format(made)


@given(text=st.text())
def test_an_event_is_one_harmless_line(text: str) -> None:
    line = record(text)
    assert line.isprintable()
    assert line.startswith("INFO peer: ")


@given(text=st.text())
def test_a_trace_never_passes_for_an_event(text: str) -> None:
    first, *rest = record("failed", error=f"\n2026-01-01 INFO faked\x1b[31m{text}").split("\n")
    assert first == "INFO peer: failed"
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert any("faked" in line for line in rest)


def test_a_line_is_bounded() -> None:
    line = record("x" * 100_000)
    assert len(line) < MAX_LOG_LINE + 40
    assert line.endswith("characters)")
