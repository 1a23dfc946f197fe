"""The one port: connections in, WebSockets out, and an answer for whoever speaks something else.

Each connection is counted and read; if the access policy allows its handshake, it stays open as a
WebSocket. An error of one connection ends here and never reaches another one.
"""

from __future__ import annotations

import logging
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.rpc.limits import Caller
from plexus_registry.server import handshake
from plexus_registry.server.access_policy import Grant
from plexus_registry.server.handshake import (
    Admitted,
    Ends,
    Server,
    answer_requests,
    hang_up,
    secured,
)
from plexus_registry.server.http import HttpResponse, encode_response
from plexus_registry.server.listener import accept_forever, url_of
from plexus_registry.server.websocket import accept_websocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plexus_registry.concurrency import LogThrottle

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5.0
CLOSE_SECONDS = 1.0
_INTERNAL_ERROR = 1011
"""Close code. Source: RFC 6455, section 7.4.1."""
MOST_TURNED_AWAY = 64
"""How many connections beyond the limit are answered at a time; more are closed at once."""


async def serve_connections(
    server: Server,
    listeners: list[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until the shutdown begins, then let them end.

    Started with the URL of the first listener. Returns when the last connection has ended,
    `SHUTDOWN_SECONDS` after the shutdown began at the latest.
    """
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as acceptors:
            await acceptors.start(server.heartbeat.check_forever)
            receive = partial(_receive, server, connections, trio.CapacityLimiter(MOST_TURNED_AWAY))
            for listener in listeners:
                acceptors.start_soon(accept_forever, listener, receive, server.report_fault)
            task_status.started(url_of(listeners[0], is_secure=server.certificate is not None))
            await server.shutdown.begun.wait()
            acceptors.cancel_scope.cancel()
        connections.cancel_scope.deadline = trio.current_time() + SHUTDOWN_SECONDS


def _receive(
    server: Server,
    connections: trio.Nursery,
    turned_away: trio.CapacityLimiter,
    stream: trio.abc.Stream,
) -> None:
    """Begin with one connection."""
    try:
        ends = Ends.of(stream)
    except OSError:
        connections.start_soon(trio.aclose_forcefully, stream)
        return
    refusal = server.connection_limits.enter(ends.address)
    if refusal is None:
        connections.start_soon(
            _see_through,
            stream,
            server.log_throttle,
            partial(_attend, server, stream, ends),
            partial(server.connection_limits.leave, ends.address),
        )
        return
    answer = server.refuse(refusal)
    try:
        turned_away.acquire_on_behalf_of_nowait(stream)
    except trio.WouldBlock:
        connections.start_soon(trio.aclose_forcefully, stream)
        return
    connections.start_soon(
        _see_through,
        stream,
        server.log_throttle,
        partial(_turn_away, server, stream, answer),
        partial(turned_away.release_on_behalf_of, stream),
    )


async def _see_through(
    stream: trio.abc.Stream,
    log_throttle: LogThrottle,
    attend: Callable[[], Awaitable[None]],
    leave: Callable[[], None],
) -> None:
    """See one connection through; nothing that happens to it escapes."""
    try:
        await attend()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("connection lost")
    except* Exception as bug:  # noqa: BLE001 - it is logged, and ends this connection only
        log_throttle.log_bug("a connection failed", bug)
    finally:
        leave()
        await trio.aclose_forcefully(stream)


async def _turn_away(server: Server, plain: trio.abc.Stream, answer: HttpResponse) -> None:
    with trio.move_on_after(handshake.HEAD_SECONDS):
        stream = await secured(server, plain)
        if stream is not None:
            await hang_up(stream, encode_response(answer, is_last=True))


async def _attend(server: Server, plain: trio.abc.Stream, ends: Ends) -> None:
    stream: trio.abc.Stream | None = None
    admitted = None
    with server.shutdown.slot() as slot:
        if slot.is_leaving():
            return
        with trio.move_on_after(handshake.HEAD_SECONDS):
            stream = await secured(server, plain)
        if stream is not None:
            admitted = await answer_requests(server, slot, stream, ends)
    if stream is not None and admitted is not None:
        await _hold(server, stream, admitted, ends)


async def _hold(server: Server, stream: trio.abc.Stream, admitted: Admitted, ends: Ends) -> None:
    """Hold one WebSocket open until it ends."""
    caller = Caller(may_write=admitted.grant is Grant.ALL, refused=server.refused)
    async with trio.open_nursery() as nursery:
        websocket = None
        with trio.move_on_after(handshake.HEAD_SECONDS):
            websocket = await accept_websocket(
                nursery,
                stream,
                admitted.request.raw,
                admitted.request.rest,
                max_message_size=server.max_message_bytes,
                caller=caller,
                fairness=server.fairness,
            )
        if websocket is not None:
            cut = partial(_cut, stream, nursery.cancel_scope)
            watched = server.heartbeat.add(websocket, str(ends), cut)
            try:
                await server.serve_connection(websocket)
            finally:
                if websocket.was_too_large:
                    server.refused["message_bytes"] += 1
                # Where a frame was cut in the middle, a goodbye would be taken for its rest.
                if websocket.sending is None:
                    with trio.move_on_after(CLOSE_SECONDS, shield=True):
                        await websocket.close(_INTERNAL_ERROR)  # unless it was closed with a reason
                server.heartbeat.remove(watched)
        nursery.cancel_scope.cancel()
    if websocket is not None:
        websocket.forget()


def _cut(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """End a connection at once; what the system still holds for the peer is dropped."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(plain, trio.SocketStream):
        with suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    scope.cancel()


_NO_LINGER = struct.pack("ii", 1, 0)
