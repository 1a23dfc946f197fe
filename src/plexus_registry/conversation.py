"""One WebSocket: frames in, answers out, in the order in which they came."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trio_websocket import ConnectionClosed, WebSocketConnection

from plexus_registry.rpc import answer_frame

if TYPE_CHECKING:
    from plexus_registry.drain import Drain
    from plexus_registry.service import Registry

log = logging.getLogger(__name__)

GOING_AWAY = 1001
"""Close code. Source: RFC 6455, section 7.4.1."""


async def converse(registry: Registry, ws: WebSocketConnection, drain: Drain) -> None:
    """Answer every frame of one WebSocket until the peer leaves or the registry drains.

    The next frame is read only once the last one is answered: requests of one connection take
    effect in order, and a peer that does not read its answers is not read from.
    """
    try:
        with drain.seat() as seat:
            while not seat.is_leaving():
                frame = await ws.get_message()
                if seat.is_leaving():
                    break  # it came too late to be begun
                seat.is_busy = True
                answer = await answer_frame(registry, frame)
                if answer is not None:
                    await ws.send_message(answer)
                seat.is_busy = False
        await ws.aclose(GOING_AWAY, "the registry is stopping")
    except ConnectionClosed as closed:
        log.debug("peer left: %r", closed.reason)
