"""One WebSocket: its frames are answered in order, and its watches get their events.

Two tasks send on a connection. The task of the connection reads frames and sends their answers.
The watch sender, which starts with the first watch, sends events. It takes them from the change log
only when they can be sent, so a peer that does not read holds up only its own watches.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import asynccontextmanager, closing, nullcontext, suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.concurrency import Wakeup
from plexus_registry.rpc.fairness import LONG_CHARACTERS
from plexus_registry.rpc.handler import Handler
from plexus_registry.rpc.streams import FIRST_NUMBER_BITS
from plexus_registry.rules.errors import shown
from plexus_registry.websocket_frames import CloseCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from plexus_registry.registry import Registry
    from plexus_registry.rpc.plexus import Hub
    from plexus_registry.server.shutdown import Shutdown
    from plexus_registry.server.websocket import WebSocket

log = logging.getLogger(__name__)

STOPPING = "the registry is stopping"
FAILED = "internal error, see the log of the registry"
END_SECONDS = 1.0
"""How long a peer may take to receive that its request was not finished."""

KEPT_CHARACTERS = 1024 * 1024
"""Up to this size, an answer stays in memory until the next one is made, because new memory for
each long answer costs more time than making it. A longer one is released when it is sent."""

LONG_FRAME = 16 * 1024
"""A longer frame takes so long to read that it needs a turn."""


async def serve_connection(
    registry: Registry, hub: Hub, websocket: WebSocket, shutdown: Shutdown
) -> None:
    """Answer every frame of one WebSocket until the peer leaves or the registry stops.

    A frame is read only after the one before it is answered. So the requests of a connection take
    effect in order, and no frame is read from a peer that does not read its answers.
    """
    numbers_after = secrets.randbits(FIRST_NUMBER_BITS)
    handler = Handler(registry, hub, websocket.caller, numbers_after=numbers_after, peer=websocket)
    watch_sender = WatchSender(registry, handler, websocket)
    handler.in_parts = watch_sender.pause
    current: str | bytes | list[str] | None = None
    sent_before = None
    try:
        with shutdown.request_loop() as loop:
            while not loop.must_end():
                frame = websocket.read()
                if frame is None:
                    await websocket.flush()
                    loop.is_busy = False
                    await websocket.wait()
                    loop.is_busy = True
                    continue
                current, sent_before = frame, websocket.sent
                if len(frame) > LONG_FRAME:
                    await websocket.share.wait_for_turn()
                answer = handler.answer(frame)
                if isinstance(answer, list):
                    frames = current = answer
                    size = sum(map(len, frames))
                    if size > LONG_CHARACTERS:
                        sent_before = websocket.sent
                        await websocket.send(frames)
                        handler.release()
                    else:
                        websocket.queue(frames)
                        current = None
                        if websocket.is_queue_full:
                            await websocket.flush()
                else:
                    with closing(answer):
                        # A request is carried out even if its peer has left meanwhile.
                        with suppress(ConnectionClosed):
                            await websocket.flush()
                        frames = current = await answer
                    sent_before = None
                    async with watch_sender.pause():
                        sent_before = websocket.sent
                        await websocket.send(frames)
                        if handler.note_sent():
                            watch_sender.wake()
                    size = sum(map(len, frames))
                current = sent_before = None
                if size > KEPT_CHARACTERS:
                    del answer, frames
        await watch_sender.finish()
        await websocket.close(CloseCode.GOING_AWAY, STOPPING)
    except ConnectionClosed as closed:
        reason = closed.reason
        log.debug("peer left: %s", reason and f"{reason.code} {shown(reason.reason or '')}")
    except trio.Cancelled:
        code, why = CloseCode.INTERNAL_ERROR, FAILED
        if shutdown.begun.is_set():
            code, why = CloseCode.GOING_AWAY, STOPPING
        unsent = _unsent(websocket, handler, current, sent_before, why)
        with trio.move_on_after(END_SECONDS, shield=True):
            await _break_off(websocket, unsent, code, why)
        raise
    except Exception:
        log.exception("a frame could not be answered")
        unsent = _unsent(websocket, handler, current, sent_before, FAILED)
        with trio.move_on_after(END_SECONDS, shield=True):
            await _break_off(websocket, unsent, CloseCode.INTERNAL_ERROR, FAILED)
    finally:
        handler.release()
        # The two refer to each other, and a connection must leave no cycles: see `app`.
        handler.in_parts = nullcontext


def _unsent(
    websocket: WebSocket,
    handler: Handler,
    current: str | bytes | list[str] | None,
    sent_before: int | None,
    why: str,
) -> list[str]:
    """Return the frames that are left to send when a connection ends early.

    They are the answer, if it is made and not begun to be sent, or else an error for each request.

    Args:
        websocket: The connection.
        handler: The handler of its frames.
        current: The frame that is being answered, or its answer.
        sent_before: The value of `websocket.sent` before the answer was begun to be sent.
        why: Why the connection ends.
    """
    if current is None:
        return []
    if isinstance(current, list):
        return current if sent_before in (None, websocket.sent) else []
    # The answer to a batch is sent in parts while it is made.
    is_begun = current.lstrip()[:1] in ("[", b"[") and sent_before != websocket.sent
    return [] if is_begun else handler.break_off(current, why)


async def _break_off(websocket: WebSocket, unsent: list[str], code: int, why: str) -> None:
    """Send the frames that are left, and close the connection."""
    if websocket.sending is not None:
        return  # a frame was cut in the middle: the peer would take the next one for its rest
    with suppress(ConnectionClosed):
        await websocket.send(unsent)
        await websocket.close(code, why)


class WatchSender:
    """Sends the events of all watches of one connection."""

    def __init__(self, registry: Registry, handler: Handler, websocket: WebSocket) -> None:
        self._registry = registry
        self._handler = handler
        self._websocket = websocket
        self._wakeup = Wakeup()
        self._sending = trio.Lock()
        self._has_begun = False
        self._is_over = False
        self._ended = trio.Event()

    def wake(self) -> None:
        """Send the events that are due, now and after every change from now on."""
        self._wakeup.set()
        if not self._has_begun:
            self._has_begun = True
            self._websocket.start_soon(self._send_forever)

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """Make a context in which no event is sent.

        The answer to an unsubscription is sent inside, and no event of that watch comes after it.
        """
        if not self._has_begun:
            yield
            return
        async with self._sending:
            yield

    async def finish(self) -> None:
        """Wait until the current events are sent, and send no more."""
        self._is_over = True
        if self._has_begun:
            self._wakeup.set()
            await self._ended.wait()

    async def _send_forever(self) -> None:
        # When the peer leaves, the task that reads its frames ends the connection.
        with self._registry.wake_on_change(self._wakeup), suppress(ConnectionClosed):
            while not self._is_over:
                await self._wakeup.wait()
                await self._send_due()
        self._ended.set()

    async def _send_due(self) -> None:
        while not self._is_over and self._handler.is_behind():
            # The lock is a checkpoint, so other connections have their turn between two rounds.
            async with self._sending:
                share = self._websocket.share
                if self._handler.is_beginning:
                    await share.wait_for_room()
                frames = self._handler.due()
                held = sum(map(share.hold, frames))
                try:
                    await self._websocket.send(frames)
                finally:
                    share.release(held)
