"""The events of one watch, on their way from the connection to one reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from plexus_registry.rules.errors import RegistryUnavailableError, WatchEnded
from plexus_registry.rules.events import Compacted

if TYPE_CHECKING:
    from plexus_registry.client.events import WatchEvent

BUFFERED_EVENTS = 16_384
"""How many events of one watch wait for its reader before it is cut off.

All that a registry keeps may come at once, where a watch begins with `since`: that is 10,000
changes, and is no reason to cut off a reader that takes them one by one.
"""


class EventStream:
    """The events of one watch, for one reader.

    Attributes:
        subscription: Its number on the connection, once that is known.
    """

    def __init__(self) -> None:
        self.subscription: int | None = None
        self._send, self._receive = trio.open_memory_channel["WatchEvent"](BUFFERED_EVENTS)
        self._revision: int | None = None
        self._end: RegistryUnavailableError | WatchEnded = RegistryUnavailableError("not begun")

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> WatchEvent:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise self._end from None

    def put(self, event: WatchEvent | WatchEnded) -> bool:
        """Hand an event on, and tell whether more may come."""
        if isinstance(event, WatchEnded):
            self.end(event)
            return False
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            waiting = f"{BUFFERED_EVENTS} events wait to be read"
            self.end(WatchEnded(f"the watch is cut off: {waiting}", "too_slow", self._revision))
            return False
        if not isinstance(event, Compacted):  # what it leaves out is in the snapshot after it
            self._revision = event.revision
        return True

    def close(self) -> None:
        """Let nobody wait for more."""
        self._receive.close()

    def end(self, error: RegistryUnavailableError | WatchEnded) -> None:
        """Let the reader have what is there, and then the error."""
        self._end = error
        self._send.close()
