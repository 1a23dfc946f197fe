"""The streams of one connection, and the frames that watches share.

A stream lives from its acknowledgement to its last item, or until its client unsubscribes. Most
streams have all their items at once; a watch goes on. Numbers count up and are never used again:
clients go on listening for a number that they lost interest in, also on their next connection. So
each connection counts on from its own random number.

Source: manual/protocol.md, "Subscriptions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plexus_registry.rules.errors import SubscriptionLimitError, WatchEnded
from plexus_registry.rules.events import encode_ended
from plexus_registry.websocket_frames import Opcode, encode_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from plexus_registry.rpc.streams import StreamEncoder
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import ChangeLog, WatchCursor

FIRST_NUMBER_BITS = 52
"""The size of the number that a connection counts on from. Clients read numbers as JavaScript does,
exactly below 2**53: nobody ever asks for so many streams that the other half is used up."""

EVENTS_AT_ONCE = 256
"""How many changes one watch goes through at a time, so that those beside it have their turn."""
LOOKS_AT_ONCE = 2_000
"""How many changes or backends the watches of a connection go through at a time, about."""
_SHARED_BYTES, _KEY_BYTES = 4 * 1024 * 1024, 256
"""How much of the frames that watches share is kept, and about what one key takes of it."""
CHARACTERS_AT_ONCE = 256 * 1024
"""About how much the watches of a connection get at a time: a thousand snapshots are a lot."""


class FiniteStream(NamedTuple):
    """A stream whose frames are known and wait for its acknowledgement."""

    encoder: StreamEncoder
    frames: list[str]


class WatchStream(NamedTuple):
    """A stream of changes as they come."""

    encoder: StreamEncoder
    cursor: WatchCursor


class ChangeFrames:
    """Encodes what watches get; those of one kind that are equally far share their frames.

    A frame depends on its watch only by the number in it. So the frames of several changes are kept
    as the parts between the numbers.

    Attributes:
        log: The changes.
        now: Returns the time in Unix seconds.
    """

    def __init__(self, log: ChangeLog, catalog: Catalog, now: Callable[[], int]) -> None:
        self.log = log
        self.now = now
        self._catalog = catalog
        self._parts: dict[tuple[object, ...], list[bytes]] = {}
        self._bytes = 0

    def due(
        self, watch: WatchStream, number: int, until: int, *, now: int
    ) -> tuple[list[str | bytes], int]:
        """Return the next messages of a watch; they count as sent.

        Args:
            watch: The watch.
            number: Its number.
            until: The last revision to include; at most `EVENTS_AT_ONCE` changes are examined.
            now: Unix seconds.

        Returns:
            Messages as text, or the frames of several ones as bytes, and how many changes or
            backends were examined for them.

        Raises:
            WatchEnded: The next change is no longer kept.
        """
        encoder, cursor = watch
        if not cursor.has_begun:
            events, looks = cursor.due(self.log, self._catalog, most=EVENTS_AT_ONCE)
            return [encoder.data(number, each, now=now) for each in events], looks
        # While others had their turn, this watch may have come further by itself.
        first = cursor.revision
        last = max(first, min(until, first + EVENTS_AT_ONCE))
        digits = b"%d" % number
        key = (encoder, cursor.filters, first, last, len(digits), now)
        parts = self._parts.get(key)
        if parts is None:
            events, _ = cursor.due(self.log, self._catalog, most=last - first)
            parts = _frames_around_number(encoder, events, len(digits), now)
            size = sum(map(len, parts)) + _KEY_BYTES
            if self._bytes + size > _SHARED_BYTES:
                self._parts.clear()
                self._bytes = 0
            self._parts[key] = parts
            self._bytes += size
        else:
            cursor.revision = last
        return ([digits.join(parts)] if len(parts) > 1 else []), last - first


def _frames_around_number(
    encoder: StreamEncoder, events: list[str], digits: int, now: int
) -> list[bytes]:
    """Encode the frames of events, and return the parts around the numbers in them."""
    before = encoder.head.encode()
    parts = [b""]
    for event in events:
        after = encoder.after_number(event, now=now).encode()
        header = encode_header(Opcode.TEXT, len(before) + digits + len(after))
        parts[-1] += header + before
        parts.append(after)
    return parts


class Subscriptions:
    """The streams of one connection."""

    def __init__(self, *, max_subscriptions: int, numbers_after: int) -> None:
        """Begin without streams; their numbers count on from `FIRST_NUMBER_BITS` random bits."""
        self._max_subscriptions = max_subscriptions
        self._last = numbers_after
        self._finite: dict[int, FiniteStream] = {}
        # Watches whose acknowledgement was not sent yet, and those that send changes.
        self._unsent: dict[int, WatchStream] = {}
        self._watches: dict[int, WatchStream] = {}

    def next_number(self) -> int:
        """Return the number of a new stream, to acknowledge it with.

        Raises:
            SubscriptionLimitError: Too many streams are live.
        """
        live = len(self._finite) + len(self._unsent) + len(self._watches)
        if live >= self._max_subscriptions:
            raise SubscriptionLimitError(
                "Too many subscriptions on the connection",
                reason=f"Exceeded max limit of {self._max_subscriptions}",
            )
        self._last += 1
        return self._last

    def begin(self, number: int, live: FiniteStream | WatchStream) -> None:
        """Begin a stream that is sent with `flush`, or with `due` after its acknowledgement."""
        if isinstance(live, FiniteStream):
            self._finite[number] = live
        else:
            self._unsent[number] = live

    def unsubscribe(self, method: str, subscription: int | None) -> bool:
        """End a stream before its end; return whether it was live, and of that method."""
        if subscription is None:
            return False
        streams: dict[int, FiniteStream] | dict[int, WatchStream]
        for streams in (self._finite, self._unsent, self._watches):
            live = streams.get(subscription)
            if live is not None and live.encoder.method == method:
                del streams[subscription]
                return True
        return False

    def flush(self) -> list[str]:
        """Return the frames that follow the acknowledgements; their streams end."""
        if not self._finite:
            return []
        frames = [frame for live in self._finite.values() for frame in live.frames]
        self._finite.clear()
        return frames

    def note_sent(self) -> bool:
        """Record that all acknowledgements were sent; return whether a watch is among them."""
        has_new = bool(self._unsent)
        self._watches |= self._unsent
        self._unsent.clear()
        return has_new

    def revisions(self) -> list[int]:
        """List how far each watch has come."""
        return [each.cursor.revision for each in self._watches.values() if each.cursor.has_begun]

    def is_behind(self, changes: ChangeFrames) -> bool:
        """Whether there may be more for the watches."""
        return any(each.cursor.is_behind(changes.log) for each in self._watches.values())

    @property
    def is_beginning(self) -> bool:
        """Whether a watch waits for its snapshot, which may be long."""
        return not all(each.cursor.has_begun for each in self._watches.values())

    def due(self, changes: ChangeFrames, until: int) -> list[str | bytes]:
        """Return the next messages of the watches: as many as may be made at a time.

        The watches take turns; the next round begins with the watch after the last one.

        Returns:
            Messages as text, and the frames of several ones as bytes, up to the revision `until`.
        """
        due: list[str | bytes] = []
        looks, size, now = 0, 0, changes.now()
        for number in [*self._watches]:
            watch = self._watches[number] = self._watches.pop(number)
            messages: list[str | bytes]
            try:
                messages, looked = changes.due(watch, number, until, now=now)
            except WatchEnded as error:
                last = watch.encoder.data(number, encode_ended(error), now=now)
                messages, looked = [last, *watch.encoder.end(number, now=now)], 0
                del self._watches[number]
            due += messages
            looks += looked
            size += sum(map(len, messages))
            if looks > LOOKS_AT_ONCE or size > CHARACTERS_AT_ONCE:
                break
        return due
