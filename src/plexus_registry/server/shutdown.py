"""Stopping without cutting anyone off in the middle of a request."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


class ConnectionSlot:
    """One connection's part in the shutdown.

    Attributes:
        is_busy: Whether a request is being answered; the connection sets it.
    """

    __slots__ = ("_scope", "_shutdown", "is_busy")

    def __init__(self, shutdown: Shutdown, scope: trio.CancelScope) -> None:
        self._shutdown = shutdown
        self._scope = scope
        self.is_busy = False

    def is_leaving(self) -> bool:
        """Tell whether to take up no further request."""
        return self._shutdown.begun.is_set()

    def ask_to_leave(self) -> None:
        """End the wait for the next request; a request in hand goes on."""
        if not self.is_busy:
            self._scope.cancel()


class Shutdown:
    """Ends connections: idle ones at once, busy ones after the request in hand.

    Attributes:
        begun: Set once the shutdown began.
    """

    def __init__(self) -> None:
        self.begun = trio.Event()
        self._slots: set[ConnectionSlot] = set()

    def begin(self) -> None:
        """Begin the shutdown; a second call changes nothing."""
        self.begun.set()
        for slot in self._slots:
            slot.ask_to_leave()

    @contextmanager
    def slot(self) -> Iterator[ConnectionSlot]:
        """Run a connection inside the block; it is cut short only between two requests."""
        with trio.CancelScope() as scope:
            slot = ConnectionSlot(self, scope)
            self._slots.add(slot)
            try:
                yield slot
            finally:
                self._slots.discard(slot)
