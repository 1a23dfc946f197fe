"""Waking one task, from anywhere, as often as there is something for it."""

from __future__ import annotations

import trio


class Bell:
    """Rings once for any number of rings that nobody has heard yet."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake the task that waits, or the next one that does."""
        self._rung.set()

    async def wait(self) -> None:
        """Wait until it rings, or hear at once that it rang."""
        await self._rung.wait()
        self._rung = trio.Event()
