"""The streams of one connection: their numbers, their frames, and how each comes to its one end.

A stream lives from its acknowledgement to its last item, or until its client unsubscribes. Most
streams have all their items at once; a watch goes on. Numbers count up and are never used again:
clients go on listening for a number that they lost interest in, also on their next connection. So
each connection counts on from its own random number.

Source: manual/protocol.md, "Subscriptions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plexus_registry.rpc.streams import notifications
from plexus_registry.rules.errors import SubscriptionLimitError, WatchEnded
from plexus_registry.rules.events import encode_ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plexus_registry.rpc.streams import Stream, StreamEncoder
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import ChangeLog, WatchCursor


FIRST_NUMBER_BITS = 52
"""The size of the number that a connection counts on from. Clients read numbers as JavaScript does,
exactly below 2**53: nobody ever asks for so many streams that the other half is used up."""

EVENTS_AT_ONCE = 256
"""How many changes one watch goes through at a time, so that those beside it have their turn."""
LOOKS_AT_ONCE = 2_000
"""How many changes or backends the watches of a connection go through at a time, about."""
CHARACTERS_AT_ONCE = 256 * 1024
"""About how much the watches of a connection get at a time: a thousand snapshots are a lot."""


class FiniteStream(NamedTuple):
    """A stream whose items are known; the last one ends it."""

    stream: Stream
    items: Sequence[str]


class WatchStream(NamedTuple):
    """A stream of changes as they come."""

    stream: Stream
    cursor: WatchCursor


class Subscriptions:
    """The streams of one connection."""

    def __init__(self, *, max_subscriptions: int, numbers_after: int) -> None:
        """Begin without streams.

        Args:
            max_subscriptions: How many streams may be live at a time.
            numbers_after: The number to count on from, of `FIRST_NUMBER_BITS` random bits.
        """
        self._max_subscriptions = max_subscriptions
        self._last = numbers_after
        self._finite: dict[int, FiniteStream] = {}
        # Watches whose acknowledgement was not sent yet, and those that send changes.
        self._unsent: dict[int, WatchStream] = {}
        self._watches: dict[int, WatchStream] = {}

    def begin(self, live: FiniteStream | WatchStream) -> int:
        """Begin a stream.

        Returns:
            The number to acknowledge it with.

        Raises:
            SubscriptionLimitError: Too many streams are live.
        """
        if sum(map(len, self._all())) >= self._max_subscriptions:
            raise SubscriptionLimitError(
                "Too many subscriptions on the connection",
                reason=f"Exceeded max limit of {self._max_subscriptions}",
            )
        self._last += 1
        if isinstance(live, FiniteStream):
            self._finite[self._last] = live
        else:
            self._unsent[self._last] = live
        return self._last

    def unsubscribe(self, method: str, subscription: int | None) -> bool:
        """End a stream before its end; return whether it was live, and of that method."""
        if subscription is None:
            return False
        for streams in self._all():
            live = streams.get(subscription)
            if live is not None and live.stream.method == method:
                del streams[subscription]
                return True
        return False

    def flush(self) -> list[str]:
        """Return the frames that follow the acknowledgements; their streams end."""
        frames = [
            frame
            for subscription, live in self._finite.items()
            for frame in notifications(live.stream.notification, subscription, live.items)
        ]
        self._finite.clear()
        return frames

    def note_sent(self) -> bool:
        """Record that all acknowledgements were sent; return whether a watch is among them."""
        has_new = bool(self._unsent)
        self._watches |= self._unsent
        self._unsent.clear()
        return has_new

    def is_behind(self, change_log: ChangeLog) -> bool:
        """Whether there may be more for the watches."""
        return any(each.cursor.is_behind(change_log) for each in self._watches.values())

    @property
    def is_beginning(self) -> bool:
        """Whether a watch waits for its snapshot, which may be long."""
        return not all(each.cursor.has_begun for each in self._watches.values())

    def due(
        self, change_log: ChangeLog, catalog: Catalog, encoder: StreamEncoder, *, now: int
    ) -> list[str]:
        """Return the next frames of the watches: as many as may be made at a time.

        The watches take turns; the next round begins with the watch after the last one.
        """
        frames: list[str] = []
        looks = 0
        for number in [*self._watches]:
            stream, cursor = self._watches[number] = self._watches.pop(number)
            try:
                events, looked = cursor.due(change_log, catalog, most=EVENTS_AT_ONCE)
                end = []
            except WatchEnded as error:
                events, looked = [encode_ended(error)], 0
                end = encoder.end_items(stream.content, now=now)
                del self._watches[number]
            items = [
                item
                for each in events
                for item in encoder.data_items(stream.content, each, now=now)
            ]
            frames += notifications(stream.notification, number, [*items, *end])
            looks += looked
            if looks > LOOKS_AT_ONCE or sum(map(len, frames)) > CHARACTERS_AT_ONCE:
                break
        return frames

    def _all(self) -> tuple[dict[int, FiniteStream] | dict[int, WatchStream], ...]:
        return self._finite, self._unsent, self._watches
