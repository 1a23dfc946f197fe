"""The peer of a connection, and what all share: turns for long work, memory for unread answers.

Trio runs every task that is ready before it looks for new input, so a client waits for as long as
all of them take together: one round of the scheduler. Long work is cut into slices, and one slice
begins in each round. Long answers are made only while there is room: what one peer does not read is
memory that the others lack.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from plexus_registry.measures import Requests
from plexus_registry.settings import DEFAULT_MAX_UNREAD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLICE_SECONDS = 0.0005
"""How long one task works before it waits for its next turn."""
LONG_CHARACTERS = 64 * 1024
"""A longer answer is held to the budget for unread answers."""
VERY_LONG_CHARACTERS = 1024 * 1024
"""A longer answer takes so long to make that it needs a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The rights of one connection's peer, and its refused requests.

    Attributes:
        may_write: Whether it may change anything.
        may_subscribe: Whether it can receive more than one answer to a request.
        peer: Its address and port, for the history.
        token: What its token allows: `write` or `read`; `none` if it needs no token.
        refused: How much was refused, by the name of the limit; all callers share it.
        requests: Counts the requests; all callers share it, too.
    """

    may_write: bool = True
    may_subscribe: bool = True
    peer: str | None = None
    token: str | None = None
    refused: Counter[str] = field(default_factory=Counter)
    requests: Requests = field(default_factory=Requests)


class Fairness:
    """The turns and the budget of one process.

    Attributes:
        unread: How much is made and not sent yet, in characters.
    """

    def __init__(self, *, max_unread: int = DEFAULT_MAX_UNREAD) -> None:
        self.unread = 0
        self._max_unread = max_unread
        self._is_taken = False
        self._turns = trio.lowlevel.ParkingLot()
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def is_full(self) -> bool:
        """Whether long answers must wait."""
        return self.unread >= self._max_unread

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for others to read their answers."""
        return bool(self._waiting)

    async def wait_for_turn(self) -> None:
        """Wait for a slice; one of them is given in each round of the scheduler."""
        # First come, first served. Thousands may come in one round: to queue must cost little.
        if self._is_taken:
            await self._turns.park()
            self._is_taken = bool(self._turns.unpark())
            return
        self._is_taken = True
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._is_taken = bool(self._turns.unpark())

    async def wait_for_room(self) -> None:
        """Wait for a turn in which a long answer may be made.

        There is room until the next checkpoint: make the answer and count it before that.
        """
        await self.wait_for_turn()
        while self.is_full:
            await self._waiting.park()
            await self.wait_for_turn()

    def release(self, size: int) -> None:
        """Count no longer an answer that was sent, or never will be."""
        self.unread -= size
        if not self.is_full:
            self._waiting.unpark_all()


class Share:
    """One connection's share of the budget, and its turns.

    Attributes:
        held: How much of its answers is made and not sent yet, in characters.
    """

    def __init__(self, fairness: Fairness) -> None:
        self.held = 0
        self._fairness = fairness
        self._began = 0.0

    @property
    def is_full(self) -> bool:
        """Whether long answers must wait."""
        return self._fairness.is_full

    @property
    def must_give_way(self) -> bool:
        """Whether others wait for the room that this connection has."""
        return self.held > 0 and self._fairness.is_awaited

    async def wait_for_turn(self) -> None:
        """Wait for a slice to work in, unless the last one is not over yet."""
        if time.perf_counter() - self._began > SLICE_SECONDS:
            await self._fairness.wait_for_turn()
            self._began = time.perf_counter()

    async def wait_for_room(self) -> None:
        """Wait for a turn in which a long answer may be made."""
        await self._fairness.wait_for_room()
        self._began = time.perf_counter()

    def hold(self, text: str | bytes) -> int:
        """Count an answer if it is long, and return the size to release later."""
        size = len(text)
        if size <= LONG_CHARACTERS:
            return 0
        self.held += size
        self._fairness.unread += size
        return size

    def release(self, size: int) -> None:
        """Count no longer an answer that was sent, or never will be."""
        if size:
            self.held -= size
            self._fairness.release(size)


class Peer(Protocol):
    """The client at the other end of the connection."""

    share: Share

    @property
    def is_gone(self) -> bool:
        """Whether it has left."""
        ...

    def start_soon(self, task: Callable[[], Awaitable[None]], /) -> None:
        """Start a task, which has to end before the connection is closed."""
        ...

    async def send_part(self, text: str, *, is_first: bool, is_last: bool) -> None:
        """Send it a part of a message."""
        ...


def bytes_of(text: str) -> int:
    """Return the size of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
