"""One WebSocket: frames in, answers out, in the order in which they came."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from trio_websocket import ConnectionClosed

from plexus_registry.core.errors import shown
from plexus_registry.core.session import FIRST_NUMBER_BITS
from plexus_registry.fairness import LONG_CHARACTERS
from plexus_registry.rpc import Responder
from plexus_registry.teller import Teller

if TYPE_CHECKING:
    from plexus_registry.core.plexus import Hub
    from plexus_registry.drain import Drain
    from plexus_registry.service import Registry
    from plexus_registry.wire import Wire

log = logging.getLogger(__name__)

GOING_AWAY = 1001
"""Close code. Source: RFC 6455, section 7.4.1."""

TOO_LARGE = 1009

KEPT_CHARACTERS = 1024 * 1024
"""An answer is let go only when the next one is there, since fresh memory for each long answer
costs more than making it; one that is longer than this is not kept while its peer is idle."""

LONG_FRAME = 16 * 1024
"""What is longer takes so long to read that it needs a turn."""


async def converse(registry: Registry, hub: Hub, wire: Wire, drain: Drain) -> None:
    """Answer every frame of one WebSocket until the peer leaves or the registry drains.

    The next frame is read only once the last one is answered: requests of one connection take
    effect in order, and a peer that does not read its answers is not read from.
    """
    numbers_after = secrets.randbits(FIRST_NUMBER_BITS)
    responder = Responder(registry, hub, wire.visitor, numbers_after=numbers_after, peer=wire)
    teller = Teller(registry, responder, wire)
    responder.in_parts = teller.silence
    try:
        with drain.seat() as seat:
            while not seat.is_leaving():
                frame = await wire.receive()
                wire.was_heard = True
                if seat.is_leaving():
                    break  # it came too late to be begun
                if _is_too_large(frame, hub.limits.message_bytes):
                    await wire.close(TOO_LARGE, "the message is too large")
                    return
                seat.is_busy = True
                if len(frame) > LONG_FRAME:
                    await wire.share.wait_for_turn()
                answer = responder.answer(frame)
                if isinstance(answer, list):
                    frames = answer
                    if frames and len(frames[0]) > LONG_CHARACTERS:
                        await wire.send(frames)
                        responder.release()
                    elif frames:
                        await wire.send_one(frames[0])
                else:
                    frames = await answer
                    async with teller.silence():
                        await wire.send(frames)
                        if responder.note_sent():
                            teller.tell()
                if sum(map(len, frames)) > KEPT_CHARACTERS:
                    del answer, frames
                seat.is_busy = False
        await teller.finish()
        await wire.close(GOING_AWAY, "the registry is stopping")
    except ConnectionClosed as closed:
        reason = closed.reason
        log.debug("peer left: %s", reason and f"{reason.code} {shown(reason.reason or '')}")
    finally:
        responder.release()


def _is_too_large(frame: str | bytes, most: int) -> bool:
    """Tell what the library lets through: it counts the characters of a text."""
    if len(frame) <= most // 4 or isinstance(frame, bytes) or frame.isascii():
        return False
    return len(frame.encode()) > most
