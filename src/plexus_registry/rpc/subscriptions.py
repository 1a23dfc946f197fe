"""The streams of one connection: their numbers, and how each comes to its one end.

A stream lives from its acknowledgement to its last item, or until its client unsubscribes. Most
say what they have to say at once; a watch goes on. Numbers count up and are never used again:
clients go on listening for a number that they lost interest in, also on their next connection. So
each connection counts on from its own random number.

Source: manual/protocol.md, "Subscriptions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plexus_registry.rpc.items import notifications
from plexus_registry.rules.errors import SubscriptionLimitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plexus_registry.rpc.routes import Stream
    from plexus_registry.rules.change_log import WatchCursor


FIRST_NUMBER_BITS = 52
"""The size of the number that a connection counts on from. Clients read numbers as JavaScript does,
exactly below 2**53: nobody ever asks for so many streams that the other half is used up."""


class Finite(NamedTuple):
    """A stream that says some items, the last of which ends it."""

    stream: Stream
    items: Sequence[str]


class Following(NamedTuple):
    """A stream that tells changes as they come."""

    stream: Stream
    watch: WatchCursor


class Subscriptions:
    """The streams of one connection.

    Attributes:
        followings: The streams that tell changes, by number, from when their acknowledgements
            were sent.
    """

    def __init__(self, *, max_subscriptions: int, numbers_after: int) -> None:
        """Begin without streams.

        Args:
            max_subscriptions: How many streams may be live at a time.
            numbers_after: The number to count on from, of `FIRST_NUMBER_BITS` random bits.
        """
        self.followings: dict[int, Following] = {}
        self._max_subscriptions = max_subscriptions
        self._last = numbers_after
        self._finite: dict[int, Finite] = {}
        self._unsent: dict[int, Following] = {}

    def begin(self, live: Finite | Following) -> int:
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
        if isinstance(live, Finite):
            self._finite[self._last] = live
        else:
            self._unsent[self._last] = live
        return self._last

    def unsubscribe(self, method: str, subscription: int | None) -> bool:
        """End a stream before its end; tells whether it was live, and of that method."""
        if subscription is None:
            return False
        for streams in self._all():
            live = streams.get(subscription)
            if live is not None and live.stream.method == method:
                del streams[subscription]
                return True
        return False

    def flush(self) -> list[str]:
        """Give the frames that are due after the acknowledgements; their streams end."""
        frames = [
            frame
            for subscription, live in self._finite.items()
            for frame in notifications(live.stream.notification, subscription, live.items)
        ]
        self._finite.clear()
        return frames

    def note_sent(self) -> bool:
        """Take all acknowledgements to be sent, and tell whether more is to follow on one."""
        is_followed = bool(self._unsent)
        self.followings |= self._unsent
        self._unsent.clear()
        return is_followed

    def in_turn(self) -> Iterator[int]:
        """Give the numbers of the followings; the next round begins where this one is left."""
        for subscription in [*self.followings]:
            self.followings[subscription] = self.followings.pop(subscription)
            yield subscription

    def _all(
        self,
    ) -> tuple[dict[int, Finite] | dict[int, Following], ...]:
        return self._finite, self._unsent, self.followings
