"""One WebSocket: frames in, answers out, in the order in which they came."""

from __future__ import annotations

import logging
import secrets
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.rpc.fairness import LONG_CHARACTERS
from plexus_registry.rpc.handler import Handler
from plexus_registry.rpc.subscriptions import FIRST_NUMBER_BITS
from plexus_registry.rules.errors import shown
from plexus_registry.server.watch_sender import WatchSender

if TYPE_CHECKING:
    from plexus_registry.registry import Registry
    from plexus_registry.rpc.plexus import Hub
    from plexus_registry.server.shutdown import Shutdown
    from plexus_registry.server.websocket import WebSocket

log = logging.getLogger(__name__)

GOING_AWAY = 1001
"""Close code. Source: RFC 6455, section 7.4.1."""

TOO_LARGE = 1009
INTERNAL_ERROR = 1011
STOPPING = "the registry is stopping"
FAILED = "internal error, see the log of the registry"
END_SECONDS = 1.0
"""How long a peer may take to hear that its request was not finished."""

KEPT_CHARACTERS = 1024 * 1024
"""An answer is let go only when the next one is there, since fresh memory for each long answer
costs more than making it; one that is longer than this is not kept while its peer is idle."""

LONG_FRAME = 16 * 1024
"""What is longer takes so long to read that it needs a turn."""


async def serve_connection(
    registry: Registry, hub: Hub, websocket: WebSocket, shutdown: Shutdown
) -> None:
    """Answer every frame of one WebSocket until the peer leaves or the registry stops.

    The next frame is read only once the last one is answered: requests of one connection take
    effect in order, and a peer that does not read its answers is not read from.
    """
    numbers_after = secrets.randbits(FIRST_NUMBER_BITS)
    handler = Handler(registry, hub, websocket.caller, numbers_after=numbers_after, peer=websocket)
    watch_sender = WatchSender(registry, handler, websocket)
    handler.in_parts = watch_sender.silence
    in_hand: str | bytes | list[str] | None = None
    sent = None
    try:
        with shutdown.slot() as slot:
            while not slot.is_leaving():
                frame = await websocket.receive()
                websocket.was_heard = True
                if slot.is_leaving():
                    break  # it came too late to be begun
                if _is_too_large(frame, hub.limits.message_bytes):
                    await websocket.close(TOO_LARGE, "the message is too large")
                    return
                slot.is_busy = True
                in_hand, sent = frame, websocket.sent
                if len(frame) > LONG_FRAME:
                    await websocket.share.wait_for_turn()
                answer = handler.answer(frame)
                if isinstance(answer, list):
                    frames = in_hand = answer
                    sent = websocket.sent
                    if frames and len(frames[0]) > LONG_CHARACTERS:
                        await websocket.send(frames)
                        handler.release()
                    elif frames:
                        await websocket.send_one(frames[0])
                else:
                    frames = in_hand = await answer
                    sent = None
                    async with watch_sender.silence():
                        sent = websocket.sent
                        await websocket.send(frames)
                        if handler.note_sent():
                            watch_sender.tell()
                in_hand = sent = None
                if sum(map(len, frames)) > KEPT_CHARACTERS:
                    del answer, frames
                slot.is_busy = False
        await watch_sender.finish()
        await websocket.close(GOING_AWAY, STOPPING)
    except ConnectionClosed as closed:
        reason = closed.reason
        log.debug("peer left: %s", reason and f"{reason.code} {shown(reason.reason or '')}")
    except trio.Cancelled:
        is_stopping = shutdown.begun.is_set()
        code, why = (GOING_AWAY, STOPPING) if is_stopping else (INTERNAL_ERROR, FAILED)
        unsent = _unsent(websocket, handler, in_hand, sent, why)
        with trio.move_on_after(END_SECONDS, shield=True):
            await _break_off(websocket, unsent, code, why)
        raise
    except Exception:
        log.exception("a frame could not be answered")
        unsent = _unsent(websocket, handler, in_hand, sent, FAILED)
        with trio.move_on_after(END_SECONDS, shield=True):
            await _break_off(websocket, unsent, INTERNAL_ERROR, FAILED)
    finally:
        handler.release()
        # The two hold each other, and nothing of a connection is left to the garbage collector.
        handler.in_parts = nullcontext


def _unsent(
    websocket: WebSocket,
    handler: Handler,
    in_hand: str | bytes | list[str] | None,
    sent: int | None,
    why: str,
) -> list[str]:
    """Return what is left to send: the answer if there is one, or else an error for each request.

    Args:
        websocket: The connection.
        handler: What answers its frames.
        in_hand: The frame that is being answered, or its answer.
        sent: What `websocket.sent` was before anything of the answer was sent.
        why: Why the connection ends.
    """
    if in_hand is None:
        return []
    if isinstance(in_hand, list):
        return in_hand if sent in (None, websocket.sent) else []
    # The answer to a batch is sent in parts while it is made.
    is_begun = in_hand.lstrip()[:1] in ("[", b"[") and sent != websocket.sent
    return [] if is_begun else handler.break_off(in_hand, why)


async def _break_off(websocket: WebSocket, unsent: list[str], code: int, why: str) -> None:
    """Send what is left and close the connection, with a code that says why."""
    if websocket.sending is not None:
        return  # a frame was cut in the middle: what follows would be taken for its rest
    with suppress(ConnectionClosed):
        await websocket.send(unsent)
        await websocket.close(code, why)


def _is_too_large(frame: str | bytes, most: int) -> bool:
    """Check the size in bytes; the library counts the characters of a text."""
    if len(frame) <= most // 4 or isinstance(frame, bytes) or frame.isascii():
        return False
    return len(frame.encode()) > most
