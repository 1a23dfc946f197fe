"""One WebSocket: frames in, answers out, in the order in which they came."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
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


async def converse(registry: Registry, hub: Hub, wire: Wire, drain: Drain) -> None:
    """Answer every frame of one WebSocket until the peer leaves or the registry drains.

    The next frame is read only once the last one is answered: requests of one connection take
    effect in order, and a peer that does not read its answers is not read from.
    """
    numbers_after = secrets.randbits(FIRST_NUMBER_BITS)
    responder = Responder(registry, hub, wire.visitor, numbers_after=numbers_after, peer=wire)
    teller = Teller(registry, responder, wire)
    responder.in_parts = teller.silence
    in_hand: str | bytes | list[str] | None = None
    sent = None
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
                in_hand, sent = frame, wire.sent
                if len(frame) > LONG_FRAME:
                    await wire.share.wait_for_turn()
                answer = responder.answer(frame)
                if isinstance(answer, list):
                    frames = in_hand = answer
                    sent = wire.sent
                    if frames and len(frames[0]) > LONG_CHARACTERS:
                        await wire.send(frames)
                        responder.release()
                    elif frames:
                        await wire.send_one(frames[0])
                else:
                    frames = in_hand = await answer
                    sent = None
                    async with teller.silence():
                        sent = wire.sent
                        await wire.send(frames)
                        if responder.note_sent():
                            teller.tell()
                in_hand = sent = None
                if sum(map(len, frames)) > KEPT_CHARACTERS:
                    del answer, frames
                seat.is_busy = False
        await teller.finish()
        await wire.close(GOING_AWAY, STOPPING)
    except ConnectionClosed as closed:
        reason = closed.reason
        log.debug("peer left: %s", reason and f"{reason.code} {shown(reason.reason or '')}")
    except trio.Cancelled:
        is_stopping = drain.begun.is_set()
        code, why = (GOING_AWAY, STOPPING) if is_stopping else (INTERNAL_ERROR, FAILED)
        await _break_off(wire, _unsent(wire, responder, in_hand, sent, why), code, why)
        raise
    except Exception:
        log.exception("a frame could not be answered")
        unsent = _unsent(wire, responder, in_hand, sent, FAILED)
        await _break_off(wire, unsent, INTERNAL_ERROR, FAILED)
    finally:
        responder.release()


def _unsent(
    wire: Wire,
    responder: Responder,
    in_hand: str | bytes | list[str] | None,
    sent: int | None,
    why: str,
) -> list[str]:
    """Return what is left to send: the answer if there is one, or else an error for each request.

    Args:
        wire: The connection.
        responder: Its responder.
        in_hand: The frame that is being answered, or its answer.
        sent: What `wire.sent` was before anything of the answer was sent.
        why: Why the conversation ends.
    """
    if in_hand is None:
        return []
    if isinstance(in_hand, list):
        return in_hand if sent in (None, wire.sent) else []
    # The answer to a batch is sent in parts while it is made.
    is_begun = in_hand.lstrip()[:1] in ("[", b"[") and sent != wire.sent
    return [] if is_begun else responder.break_off(in_hand, why)


async def _break_off(wire: Wire, unsent: list[str], code: int, why: str) -> None:
    """End a conversation early, with a close code that says why."""
    if wire.sending is not None:
        return  # a frame was cut in the middle: what follows would be taken for its rest
    with trio.move_on_after(END_SECONDS, shield=True), suppress(ConnectionClosed):
        await wire.send(unsent)
        await wire.close(code, why)


def _is_too_large(frame: str | bytes, most: int) -> bool:
    """Tell what the library lets through: it counts the characters of a text."""
    if len(frame) <= most // 4 or isinstance(frame, bytes) or frame.isascii():
        return False
    return len(frame.encode()) > most
