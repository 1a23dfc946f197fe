"""The few Trio helpers that every room shares: threads, wake-ups, lone errors, quiet logs."""

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
        """Run it and return its result; cancellation does not abandon it."""
        ...


async def run_in_thread(sync_fn: Callable[[], T], /) -> T:
    """Run a blocking function in a worker thread, to its end."""
    return await trio.to_thread.run_sync(sync_fn)


class Wakeup:
    """Wakes one task, once for any number of calls of `set` since it last waited."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wake the task that waits, or the next one that does."""
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
        lone = _first_leaf(group) if errors is None else errors.exceptions[0]
    else:
        return
    raise lone


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class FailureLog:
    """Absorbs `StorageFailed` around a step that is tried again later.

    It logs when the step starts to fail and when it recovers, not every round.
    """

    def __init__(self, failing: str, recovered: str) -> None:
        """Set what is logged.

        Args:
            failing: Logged at the first failure, with `%s` for the reason.
            recovered: Logged at the first success after a failure.
        """
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
"""So many addresses are remembered of each minute; who comes after them is counted, not logged."""


@dataclass(slots=True)
class _Window:
    began: float
    said: int = 0
    kept_back: int = 0


class LogThrottle:
    """Logs refusals, of each kind only so many in a minute."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._addresses: dict[str, float] = {}

    def say(
        self,
        kind: str,
        text: str,
        *,
        level: int = logging.WARNING,
        lines: int = LINES_IN_WINDOW,
    ) -> None:
        """Log an event, or only count it if there were `lines` of its kind in this minute."""
        if self._may_say(kind, level, lines):
            log.log(level, "%s", text)

    def say_of_address(self, kind: str, address: str, text: str) -> None:
        """Log a refusal once a minute for an address, and of each kind only so many in a minute."""
        now = trio.current_time()
        logged = self._addresses.get(address)
        if logged is not None and now - logged < WINDOW_SECONDS:
            return
        if len(self._addresses) >= MOST_ADDRESSES:
            self._addresses = {
                known: when
                for known, when in self._addresses.items()
                if now - when < WINDOW_SECONDS
            }
        if len(self._addresses) < MOST_ADDRESSES:
            self._addresses[address] = now
            self.say(kind, text)

    def say_bug(self, text: str, bug: BaseException) -> None:
        """Log a bug with its trace, or count it: no peer may fill a disk with our bugs."""
        if self._may_say("bug", logging.ERROR, LINES_IN_WINDOW):
            log.error("%s", text, exc_info=bug)

    def _may_say(self, kind: str, level: int, lines: int) -> bool:
        now = trio.current_time()
        window = self._windows.get(kind)
        if window is None or now - window.began >= WINDOW_SECONDS:
            if window is not None and window.kept_back:
                log.log(level, "%d more like the next were not logged", window.kept_back)
            window = self._windows[kind] = _Window(now)
        if window.said >= lines:
            window.kept_back += 1
            return False
        window.said += 1
        return True
