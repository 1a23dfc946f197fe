"""Stopping without cutting anyone off in the middle of a request."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


class Seat:
    """One conversation's place at the table.

    Attributes:
        is_busy: Whether a request is in hand; the conversation says so.
    """

    __slots__ = ("_drain", "_scope", "is_busy")

    def __init__(self, drain: Drain, scope: trio.CancelScope) -> None:
        self._drain = drain
        self._scope = scope
        self.is_busy = False

    def is_leaving(self) -> bool:
        """Tell whether to take up no further request."""
        return self._drain.begun.is_set()

    def ask_to_leave(self) -> None:
        """End the wait for the next request; a request in hand goes on."""
        if not self.is_busy:
            self._scope.cancel()


class Drain:
    """Tells conversations to end: at once where they wait, else after the request in hand.

    Attributes:
        begun: Set once draining began.
    """

    def __init__(self) -> None:
        self.begun = trio.Event()
        self._seats: set[Seat] = set()

    def begin(self) -> None:
        """Begin to drain; doing so again changes nothing."""
        self.begun.set()
        for seat in self._seats:
            seat.ask_to_leave()

    @contextmanager
    def seat(self) -> Iterator[Seat]:
        """Hold a conversation inside; it is cut short only between two requests."""
        with trio.CancelScope() as scope:
            seat = Seat(self, scope)
            self._seats.add(seat)
            try:
                yield seat
            finally:
                self._seats.discard(seat)
