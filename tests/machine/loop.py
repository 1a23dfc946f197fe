"""A Trio run in a thread of its own, on a clock that only moves when it is told to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
P = ParamSpec("P")


class Loop:
    """Runs async functions one after the other, in one Trio run that lasts."""

    def __init__(self) -> None:
        self._clock = trio.testing.MockClock()
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), kwargs=self._options())
        self._thread.start()
        self._started.wait()

    def _options(self) -> dict[str, trio.abc.Clock]:
        return {"clock": self._clock}

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with trio.open_nursery() as self.nursery:
            self._started.set()
            await self._end.wait()
            self.nursery.cancel_scope.cancel()

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        async def call() -> T:
            return await function(*args, **kwargs)

        return trio.from_thread.run(call, trio_token=self._token)

    def jump(self, seconds: float) -> None:
        """Move the monotonic clock."""
        trio.from_thread.run_sync(self._clock.jump, seconds, trio_token=self._token)

    def close(self) -> None:
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join()
