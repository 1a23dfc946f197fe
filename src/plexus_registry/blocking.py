"""The seam through which blocking work leaves the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class RunSync(Protocol):
    """Runs a blocking function without blocking the other tasks."""

    def __call__(self, sync_fn: Callable[[], T], /) -> Awaitable[T]:
        """Run it and give its result; cancellation does not abandon it."""
        ...


async def run_in_thread(sync_fn: Callable[[], T], /) -> T:
    """Run a blocking function in a worker thread, to its end."""
    return await trio.to_thread.run_sync(sync_fn)
