"""The events of a watch: decoded, and kept for their reader."""

from __future__ import annotations

from typing import TypeVar, get_args

import msgspec
import trio

from plexus_registry.rules.errors import RegistryUnavailableError, WatchEnded
from plexus_registry.rules.events import (
    BackendActive,
    BackendDeleted,
    BackendRegistered,
    BackendStale,
    BackendUpdated,
    Compacted,
    Ended,
    Reloaded,
    Snapshot,
)

T = TypeVar("T")

WatchEvent = (
    Snapshot
    | BackendRegistered
    | BackendUpdated
    | BackendStale
    | BackendActive
    | BackendDeleted
    | Reloaded
    | Compacted
)
_KINDS: dict[object, type[WatchEvent | Ended]] = {
    kind.__struct_config__.tag: kind for kind in (*get_args(WatchEvent), Ended)
}

BUFFERED_EVENTS = 16_384
"""How many events of one watch may wait for its reader; with more, the watch is cut off.

A watch that begins with `since` may get all changes that a registry keeps (10,000) at once. That
is no reason to cut off a reader that takes them one by one.
"""


class _Tagged(msgspec.Struct):
    type: str


def decode(text: str | msgspec.Raw, kind: type[T], what: str) -> T:
    """Decode a text that the registry sent.

    Args:
        text: The text.
        kind: The type that it must have.
        what: What the text is, for the error.

    Raises:
        RegistryUnavailableError: It is something else, or nested too deep: such a peer is no
            registry.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RegistryUnavailableError(f"{what} makes no sense: {error}") from error


def decode_watch_event(text: msgspec.Raw) -> WatchEvent | WatchEnded | None:
    """Decode an event of a watch.

    Returns:
        The event, the end of the watch, or None for an unknown kind: a registry may be newer than
        its client.

    Raises:
        RegistryUnavailableError: It is no event, or a member that its kind needs is missing.
    """
    kind = _KINDS.get(decode(text, _Tagged, "an event").type)
    if kind is None:
        return None
    event = decode(text, kind, "an event")
    if isinstance(event, Ended):
        return WatchEnded(event.message, event.code, event.revision)
    return event


class EventStream:
    """The events of one watch, for one reader.

    Attributes:
        subscription: The number of the watch on the connection; None until it is known.
    """

    def __init__(self) -> None:
        self.subscription: int | None = None
        self._send, self._receive = trio.open_memory_channel[WatchEvent](BUFFERED_EVENTS)
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
        """Hand an event to the reader; return whether more may come."""
        if isinstance(event, WatchEnded):
            self.end(event)
            return False
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            waiting = f"{BUFFERED_EVENTS} events wait to be read"
            self.end(WatchEnded(f"the watch is cut off: {waiting}", "too_slow", self._revision))
            return False
        if not isinstance(event, Compacted):  # the missing changes are in the snapshot after it
            self._revision = event.revision
        return True

    def close(self) -> None:
        """Drop the events; a reader that waits gets `trio.ClosedResourceError`."""
        self._receive.close()

    def end(self, error: RegistryUnavailableError | WatchEnded) -> None:
        """Raise an error for the reader once it has read all events."""
        self._end = error
        self._send.close()
