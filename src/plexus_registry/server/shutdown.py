"""The gentle stop: a connection is ended between two requests, never in the middle of one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


class RequestLoop:
    """The part of a connection's task that receives requests and answers them.

    Attributes:
        is_busy: Whether a request is being answered; the connection sets it.
    """

    __slots__ = ("_scope", "_shutdown", "is_busy")

    def __init__(self, shutdown: Shutdown, scope: trio.CancelScope) -> None:
        self._shutdown = shutdown
        self._scope = scope
        self.is_busy = False

    def must_end(self) -> bool:
        """Check whether the shutdown has begun, so that no further request may begin."""
        return self._shutdown.begun.is_set()

    def stop_waiting(self) -> None:
        """Cancel the wait for the next request; a request that is being answered goes on."""
        if not self.is_busy:
            self._scope.cancel()


class Shutdown:
    """Ends connections: idle ones at once, busy ones after their current request.

    Attributes:
        begun: Set when the shutdown begins.
    """

    def __init__(self) -> None:
        self.begun = trio.Event()
        self._loops: set[RequestLoop] = set()

    def begin(self) -> None:
        """Begin the shutdown; a second call changes nothing."""
        self.begun.set()
        for loop in self._loops:
            loop.stop_waiting()

    @contextmanager
    def request_loop(self) -> Iterator[RequestLoop]:
        """Make a context that the shutdown cancels, but only between two requests."""
        with trio.CancelScope() as scope:
            loop = RequestLoop(self, scope)
            self._loops.add(loop)
            try:
                yield loop
            finally:
                self._loops.discard(loop)
