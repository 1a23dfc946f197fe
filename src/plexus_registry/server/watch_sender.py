"""What the watches of one connection have to tell, sent as it comes.

A task of its own sends it, begun with the first watch of a connection. A peer that does not read
makes it wait, and nobody else; what is told is taken from the change log only when it can be sent.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.concurrency import Wakeup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from plexus_registry.registry import Registry
    from plexus_registry.rpc.handler import Handler
    from plexus_registry.server.websocket import WebSocket


class WatchSender:
    """Tells the changes on one connection."""

    def __init__(self, registry: Registry, handler: Handler, websocket: WebSocket) -> None:
        self._registry = registry
        self._handler = handler
        self._wire = websocket
        self._wakeup = Wakeup()
        self._sending = trio.Lock()
        self._has_begun = False
        self._is_over = False
        self._ended = trio.Event()

    def tell(self) -> None:
        """Look for what there is to tell, now and with every change from now on."""
        self._wakeup.set()
        if not self._has_begun:
            self._has_begun = True
            self._wire.start_soon(self._tell_forever)

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """Tell nothing inside: what answers an unsubscription is the last that is heard of it."""
        if not self._has_begun:
            yield
            return
        async with self._sending:
            yield

    async def finish(self) -> None:
        """Let what is being sent be sent, and tell nothing more."""
        self._is_over = True
        if self._has_begun:
            self._wakeup.set()
            await self._ended.wait()

    async def _tell_forever(self) -> None:
        # When the peer leaves, the task that reads its frames ends the connection.
        with self._registry.wake_on_change(self._wakeup), suppress(ConnectionClosed):
            while not self._is_over:
                await self._wakeup.wait()
                await self._tell_all()
        self._ended.set()

    async def _tell_all(self) -> None:
        while not self._is_over and self._handler.is_behind():
            # The lock is a checkpoint: whatever this connection watches, others have their turn.
            async with self._sending:
                if self._handler.is_beginning:
                    await self._wire.share.wait_for_room()
                frames = self._handler.due()
                held = sum(map(self._wire.share.hold, frames))
                try:
                    await self._wire.send(frames)
                finally:
                    self._wire.share.release(held)
