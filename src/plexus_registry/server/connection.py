"""One WebSocket: its frames are answered in order, and its watches get their events.

The task of the connection reads frames and sends their answers. One task for all connections sends
the changes to their watches (`Watchers`). They are taken from the change log when they can be sent:
of a watch, nothing is kept but the revision that it has seen.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import closing, nullcontext, suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.concurrency import Wakeup
from plexus_registry.rpc.fairness import LONG_CHARACTERS, Share
from plexus_registry.rpc.handler import Handler
from plexus_registry.rpc.subscriptions import FIRST_NUMBER_BITS, ChangeFrames
from plexus_registry.rules.errors import shown
from plexus_registry.websocket_frames import PIECE_BYTES, CloseCode

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from plexus_registry.registry import Registry
    from plexus_registry.rpc.fairness import Fairness
    from plexus_registry.rpc.plexus import Hub
    from plexus_registry.server.handshake import Shutdown
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
    registry: Registry, hub: Hub, websocket: WebSocket, shutdown: Shutdown, watchers: Watchers
) -> None:
    """Answer every frame of one WebSocket until the peer leaves or the registry stops.

    A frame is read only after the one before it is answered. So the requests of a connection take
    effect in order, and no frame is read from a peer that does not read its answers.
    """
    numbers_after = secrets.randbits(FIRST_NUMBER_BITS)
    handler = Handler(registry, hub, websocket.caller, numbers_after=numbers_after, peer=websocket)
    watch_sender = WatchSender(watchers, handler, websocket)
    handler.in_parts = watch_sender.pause
    current: str | bytes | list[str] | None = None
    try:
        with shutdown.request_loop() as loop:
            loop.is_busy = True  # requests may have come with the handshake
            while not loop.must_end():
                if websocket.queued > PIECE_BYTES:
                    await websocket.flush()
                frame = websocket.read()
                if frame is None:
                    await websocket.flush()
                    loop.is_busy = False
                    await websocket.wait()
                    loop.is_busy = True
                    continue
                current = frame
                if len(frame) > LONG_FRAME:
                    await websocket.share.wait_for_turn()
                answer = handler.answer(frame)
                if isinstance(answer, list):
                    current = answer
                    size = await _send(websocket, handler, answer)
                else:
                    with closing(answer):
                        # A request is carried out even if its peer has left meanwhile.
                        with suppress(ConnectionClosed):
                            await websocket.flush()
                        answer = current = await answer
                    async with watch_sender.pause():
                        size = await _send(websocket, handler, answer)
                        if handler.note_sent():
                            watch_sender.begin()
                    watch_sender.resume()
                current = None
                if size > KEPT_CHARACTERS:
                    del answer
        await watch_sender.finish()
        await websocket.close(CloseCode.GOING_AWAY, STOPPING)
    except ConnectionClosed as closed:
        reason = closed.reason
        log.debug("peer left: %s", reason and f"{reason.code} {shown(reason.reason or '')}")
    except trio.Cancelled:
        code, why = CloseCode.INTERNAL_ERROR, FAILED
        if shutdown.begun.is_set():
            code, why = CloseCode.GOING_AWAY, STOPPING
        with trio.move_on_after(END_SECONDS, shield=True):
            await _break_off(websocket, handler, current, code, why)
        raise
    except Exception:
        log.exception("a frame could not be answered")
        code, why = CloseCode.INTERNAL_ERROR, FAILED
        with trio.move_on_after(END_SECONDS, shield=True):
            await _break_off(websocket, handler, current, code, why)
    finally:
        watchers.remove(watch_sender)
        handler.release()
        # The two refer to each other, and a connection must leave no cycles: see `app`.
        handler.in_parts = nullcontext


async def _send(websocket: WebSocket, handler: Handler, frames: list[str]) -> int:
    """Send frames, or queue them if they are short; return their size in characters."""
    size = sum(map(len, frames))
    if size > LONG_CHARACTERS:
        await websocket.share.wait_for_turn()
        await websocket.send(frames)
        handler.release()
    else:
        websocket.queue(frames)
    return size


async def _break_off(
    websocket: WebSocket,
    handler: Handler,
    current: str | bytes | list[str] | None,
    code: int,
    why: str,
) -> None:
    """Send the remaining frames when a connection ends early, and close it.

    `current` is the frame that is being answered, or its answer if that is made. Requests that are
    not answered get an error.
    """
    if websocket.sending is not None:
        return  # a frame was cut in the middle: the peer would take the next one for its rest
    unsent = current or []
    if isinstance(unsent, (str, bytes)):
        # The answer to a batch is sent in parts while it is made.
        unsent = [] if websocket.is_in_message else handler.break_off(unsent, why)
    with suppress(ConnectionClosed):
        await websocket.send(unsent)
        await websocket.close(code, why)


class WatchSender:
    """Sends the changes to the watches of one connection.

    What the system does not accept at once is sent by a task of the connection, which ends when the
    watches have everything. So a peer that does not read holds up only its own watches.
    """

    def __init__(self, watchers: Watchers, handler: Handler, websocket: WebSocket) -> None:
        self._watchers = watchers
        self.websocket = websocket
        self._subscriptions = handler.subscriptions
        self._sending = trio.Lock()
        self._has_begun = False
        self._is_over = False
        self._caught_up: trio.Event | None = None

    def begin(self) -> None:
        """Send the changes that are due, now and after every change."""
        self._has_begun = True
        self._watchers.add(self)
        self.resume()

    def pause(self) -> AbstractAsyncContextManager[None]:
        """Make a context in which no change is sent; call `resume` after it.

        The answer to an unsubscription is sent inside, and no event of that watch comes after it.
        """
        return self._sending if self._has_begun else nullcontext()

    def revisions(self) -> list[int]:
        """List how far each watch has come."""
        return self._subscriptions.revisions()

    def resume(self) -> None:
        """Send what became due during a pause."""
        if self._has_begun and self._is_behind:
            self._start()

    async def finish(self) -> None:
        """Wait until the current changes are sent, and send no more."""
        self._is_over = True
        self._watchers.remove(self)
        if self._caught_up is not None:
            await self._caught_up.wait()

    def send_at_once(self, until: int) -> bool:
        """Send changes up to a revision, unless earlier ones are being sent or it is paused.

        Returns:
            Whether there is more to send at once.
        """
        if self._caught_up is not None or self._sending.locked() or not self._is_behind:
            return False
        if self._subscriptions.is_beginning:
            self._start()
            return False
        messages = self._subscriptions.due(self._watchers.changes, until)
        if messages and not self.websocket.send_at_once(messages):
            self._start()
            return False
        return self._is_behind

    @property
    def _is_behind(self) -> bool:
        return self._subscriptions.is_behind(self._watchers.changes)

    def _start(self) -> None:
        if self._caught_up is None and not self._is_over:
            self._caught_up = trio.Event()
            self.websocket.start_soon(self._catch_up, self._caught_up)

    async def _catch_up(self, caught_up: trio.Event) -> None:
        """Send the queue and the changes that are due, until there are no more."""
        share = self.websocket.share
        try:
            # When the peer leaves, the task that reads its frames ends the connection.
            with suppress(ConnectionClosed):
                async with self._sending:
                    await self.websocket.send(())  # the queue
                while not self._is_over and self._is_behind:
                    # The lock is a checkpoint, so other connections have their turn.
                    async with self._sending:
                        if self._subscriptions.is_beginning:
                            await share.wait_for_room()
                        changes = self._watchers.changes
                        messages = self._subscriptions.due(changes, changes.log.revision)
                        held = sum(map(share.hold, messages))
                        try:
                            await self.websocket.send(messages)
                        finally:
                            share.release(held)
        finally:
            self._caught_up = None
            caught_up.set()


class Watchers:
    """Sends the changes to the watches of all connections.

    After a change, all watches are brought to the same revision, in turn. So the next changes are
    the same for all of them, and are encoded once. Other tasks have their turn between two slices.
    """

    def __init__(self, registry: Registry, fairness: Fairness) -> None:
        self._registry = registry
        self._share = Share(fairness)
        self._senders: dict[WatchSender, None] = {}
        self.changes = ChangeFrames(registry.change_log, registry.catalog, registry.now)

    def add(self, sender: WatchSender) -> None:
        """Send changes to the watches of a connection from now on."""
        self._senders[sender] = None

    def remove(self, sender: WatchSender) -> None:
        """Send no more changes to the watches of a connection."""
        self._senders.pop(sender, None)

    def revisions(self) -> list[int]:
        """List how far each watch has come, in no order."""
        return [revision for sender in self._senders for revision in sender.revisions()]

    async def send_forever(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Send each change to all watches, until cancelled."""
        wakeup = Wakeup()
        with self._registry.wake_on_change(wakeup):
            task_status.started()
            while True:
                await wakeup.wait()
                until = self.changes.log.revision
                for sender in [*self._senders]:
                    if sender in self._senders and self._send_to(sender, until):
                        wakeup.set()
                    await self._share.wait_for_turn()

    def _send_to(self, sender: WatchSender, until: int) -> bool:
        """Send changes to one connection; an error ends that connection only."""
        try:
            return sender.send_at_once(until)
        except Exception:
            log.exception("changes could not be sent")
            self.remove(sender)
            sender.websocket.start_soon(sender.websocket.close, CloseCode.INTERNAL_ERROR, FAILED)
            return False
