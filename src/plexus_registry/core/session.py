"""The streams of one connection: their numbers, and how each comes to its one end.

A stream lives from its acknowledgement to its last item, or until its client unsubscribes.
Numbers count up and are never used again: clients go on listening for a number that they lost
interest in.

Source: wire protocol, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plexus_registry.core.errors import SubscriptionLimitError
from plexus_registry.core.items import notifications

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class _Live:
    method: str
    notification: str
    items: Sequence[str]


class Session:
    """The streams of one connection."""

    def __init__(self, *, max_subscriptions: int) -> None:
        self._max_subscriptions = max_subscriptions
        self._last = 0
        self._live: dict[int, _Live] = {}

    def begin(self, method: str, notification: str, items: Sequence[str]) -> int:
        """Begin a stream that says some items and ends.

        Args:
            method: The method that it is of.
            notification: What its notifications are called.
            items: Its items, the last of which ends it.

        Returns:
            The number to acknowledge it with.

        Raises:
            SubscriptionLimitError: Too many streams are live.
        """
        if len(self._live) >= self._max_subscriptions:
            raise SubscriptionLimitError(
                "Too many subscriptions on the connection",
                reason=f"Exceeded max limit of {self._max_subscriptions}",
            )
        self._last += 1
        self._live[self._last] = _Live(method, notification, items)
        return self._last

    def unsubscribe(self, method: str, subscription: int | None) -> bool:
        """End a stream before its end; tells whether it was live, and of that method."""
        if subscription is None:
            return False
        live = self._live.get(subscription)
        if live is None or live.method != method:
            return False
        del self._live[subscription]
        return True

    def flush(self) -> list[str]:
        """Give the frames that are due after the acknowledgements; their streams end."""
        frames = [
            frame
            for subscription, live in self._live.items()
            for frame in notifications(live.notification, subscription, live.items)
        ]
        self._live.clear()
        return frames
