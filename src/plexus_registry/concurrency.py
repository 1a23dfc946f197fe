"""Helpers for Trio that all rooms share: threads, wake-ups, lone errors, and logs with a limit."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from plexus_registry.rules.errors import StorageFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger(__name__)

T = TypeVar("T")


class RunSync(Protocol):
    """Runs a blocking function without blocking the other tasks."""

    def __call__(self, sync_fn: Callable[[], T], /) -> Awaitable[T]:
        """Run a function to its end, even if cancelled, and return its result."""
        ...


async def run_in_thread(sync_fn: Callable[[], T], /) -> T:
    """Run a blocking function in a worker thread, to its end."""
    return await trio.to_thread.run_sync(sync_fn)


class Wakeup:
    """Wakes one task, once for all calls of `set` since it last waited."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wake the waiting task, or let its next wait return at once."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for `set`; return at once if it was called since the last wait."""
        await self._event.wait()
        self._event = trio.Event()


@contextmanager
def lone_error() -> Iterator[None]:
    """Raise the only error of a nursery's group without the group.

    A group that the block itself raised stays whole. A cancellation beside the error is dropped:
    the scope that asked for it sees the error instead.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)
        if errors is not None and len(errors.exceptions) > 1:
            raise errors from None
        lone = first_error(group) if errors is None else errors.exceptions[0]
    else:
        return
    raise lone


def first_error(error: BaseException) -> BaseException:
    """Return the first error that is not a group: of a group, the first one inside."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class FailureLog:
    """Absorbs `StorageFailed` around a step that is tried again later.

    It logs when the step starts to fail (`%s` is the reason) and when it recovers, not every round.
    """

    def __init__(self, failing: str, recovered: str) -> None:
        self._failing = failing
        self._recovered = recovered
        self._is_failing = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if error is not None and not isinstance(error, StorageFailed):
            return False
        if error is not None and not self._is_failing:
            log.warning(self._failing, error)
        elif error is None and self._is_failing:
            log.info("%s", self._recovered)
        self._is_failing = error is not None
        return True


WINDOW_SECONDS = 60.0
LINES_IN_WINDOW = 10
MOST_ADDRESSES = 1_000
"""The number of addresses that are remembered in a minute; others are not logged."""


@dataclass(slots=True)
class _Window:
    began: float
    logged: int = 0
    dropped: int = 0


class LogThrottle:
    """Logs events that peers can cause, of each kind only a few lines in a minute."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._addresses: dict[str, float] = {}

    def log(
        self, kind: str, text: str, *, level: int = logging.WARNING, lines: int = LINES_IN_WINDOW
    ) -> None:
        """Log an event, or only count it after `lines` events of its kind in this minute."""
        if self._may_log(kind, level, lines):
            log.log(level, "%s", text)

    def log_address(self, kind: str, address: str, text: str) -> None:
        """Log an event once in a minute for each address, within the limit of its kind."""
        now = trio.current_time()
        logged = self._addresses.get(address)
        if logged is not None and now - logged < WINDOW_SECONDS:
            return
        if len(self._addresses) >= MOST_ADDRESSES:
            recent = [item for item in self._addresses.items() if now - item[1] < WINDOW_SECONDS]
            self._addresses = dict(recent)
        if len(self._addresses) < MOST_ADDRESSES:
            self._addresses[address] = now
            self.log(kind, text)

    def log_bug(self, text: str, bug: BaseException) -> None:
        """Log a bug with its traceback. The limit keeps a peer from filling the disk with it."""
        if self._may_log("bug", logging.ERROR, LINES_IN_WINDOW):
            log.error("%s", text, exc_info=bug)

    def _may_log(self, kind: str, level: int, lines: int) -> bool:
        now = trio.current_time()
        window = self._windows.get(kind)
        if window is None or now - window.began >= WINDOW_SECONDS:
            if window is not None and window.dropped:
                log.log(level, "%d more like the next were not logged", window.dropped)
            window = self._windows[kind] = _Window(now)
        if window.logged >= lines:
            window.dropped += 1
            return False
        window.logged += 1
        return True
