"""The one port: connections in, WebSockets out, and a word for whoever speaks something else.

The HTTP head is read here, within `HEAD_SECONDS` and `HEAD_BYTES`; a WebSocket upgrade is
handed on together with the bytes that were read. One connection's trouble ends here: it never
reaches another connection.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.core.errors import StartError
from plexus_registry.wire import Wire, accept_websocket

if TYPE_CHECKING:
    from plexus_registry.drain import Drain

log = logging.getLogger(__name__)

Converse = Callable[[Wire], Awaitable[None]]

HEAD_SECONDS = 5.0
HEAD_BYTES = 16 * 1024
DRAIN_SECONDS = 5.0
CLOSE_SECONDS = 1.0

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_UPGRADE = re.compile(rb"^upgrade:[ \t]*websocket[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Bind the port; 0 picks a free one.

    Raises:
        StartError: The port is in use, or the host is not one of this machine's.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} on {host} is in use: stop what listens there"
            " (another registry?), or choose another --port",
            errno.EACCES: f"port {port} needs privileges: choose a --port above 1023",
        }
        reason = reasons.get(error.errno or 0, f"cannot listen on {host}:{port}: {error}")
        raise StartError(reason) from error
    if port == 0:
        # A name with several addresses would get as many different ports: keep one.
        for surplus in listeners[1:]:
            await surplus.aclose()
        del listeners[1:]
    return listeners


def url_of(listener: trio.SocketListener) -> str:
    """Where clients connect to a listener."""
    host, port = listener.socket.getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


async def keep_door(
    converse: Converse,
    listeners: list[trio.SocketListener],
    drain: Drain,
    *,
    max_message_bytes: int,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until draining begins, then see them out.

    Started with the URL of the first listener. Returns when the last conversation has ended,
    `DRAIN_SECONDS` after draining began at the latest.
    """
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as acceptor:
            await acceptor.start(
                partial(
                    trio.serve_listeners,
                    partial(_receive, converse, max_message_bytes),
                    listeners,
                    handler_nursery=connections,
                )
            )
            task_status.started(url_of(listeners[0]))
            await drain.begun.wait()
            acceptor.cancel_scope.cancel()
        connections.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS


async def _receive(converse: Converse, max_message_bytes: int, stream: trio.SocketStream) -> None:
    """See one connection through; nothing that happens to it escapes."""
    try:
        await _serve_connection(converse, max_message_bytes, stream)
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("connection lost")
    except* Exception:
        log.exception("a connection failed")
    finally:
        await trio.aclose_forcefully(stream)


async def _serve_connection(
    converse: Converse, max_message_bytes: int, stream: trio.SocketStream
) -> None:
    head = b""
    with trio.move_on_after(HEAD_SECONDS):
        head = await _read_head(stream)
        if head and not _UPGRADE.search(head):
            await _hang_up(stream, _PLAIN_HTTP)
            return
    if not head:
        return
    async with trio.open_nursery() as nursery:
        wire = None
        with trio.move_on_after(HEAD_SECONDS):
            wire = await accept_websocket(nursery, stream, head, max_message_size=max_message_bytes)
        if wire is not None:
            try:
                await converse(wire)
            finally:
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await wire.close()
        nursery.cancel_scope.cancel()


async def _hang_up(stream: trio.SocketStream, answer: bytes) -> None:
    """Answer and close so that the answer arrives: what is still coming is read first."""
    await stream.send_all(answer)
    await stream.send_eof()
    while await stream.receive_some():
        pass


async def _read_head(stream: trio.SocketStream) -> bytes:
    """Read up to the empty line; nothing where there is no head within its limit."""
    read = b""
    while data := await stream.receive_some():
        read += data
        if _HEAD_END.search(read, 0, HEAD_BYTES):
            return read
        if len(read) > HEAD_BYTES:
            break
    return b""


_BODY = b"""This is a Plexus Registry. It speaks JSON-RPC 2.0 over WebSocket:
connect with a WebSocket client, for example `websocat ws://127.0.0.1:4445`.
"""
_PLAIN_HTTP = (
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: close, Upgrade\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY
)
