"""The one port: connections in, WebSockets out, and an answer for whoever speaks something else.

The HTTP head is read here, within `HEAD_SECONDS` and `HEAD_BYTES`, and judged by the gate. A
WebSocket upgrade is handed on together with the bytes that were read; a plain request gets a
page. One connection's trouble ends here: it never reaches another connection.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.core.gate import UNAUTHORIZED, Gate, Grant, Refusal
from plexus_registry.core.visitor import Visitor
from plexus_registry.door.acceptor import accept_forever, url_of
from plexus_registry.door.heads import (
    PLAIN_ON_TLS,
    TOO_SLOW,
    Answer,
    HeadReader,
    Request,
    answer_to,
    bad_request,
    encode_answer,
    handshake_fault,
)
from plexus_registry.wire import Wire, accept_websocket

if TYPE_CHECKING:
    from collections import Counter

    from plexus_registry.core.crowd import Crowd
    from plexus_registry.door.complaints import Complaints
    from plexus_registry.door.keeper import Keeper
    from plexus_registry.door.pages import Pages
    from plexus_registry.door.tls import Certificate
    from plexus_registry.drain import Drain, Seat

log = logging.getLogger(__name__)

Converse = Callable[[Wire], Awaitable[None]]

HEAD_SECONDS = 5.0
DRAIN_SECONDS = 5.0
CLOSE_SECONDS = 1.0
HANG_UP_SECONDS = 1.0
HANG_UP_BYTES = 1024 * 1024
RECEIVE_BYTES = 16 * 1024
MOST_TURNED_AWAY = 64
"""How many connections beyond the limit are answered at a time; more are closed at once."""

_TLS_HANDSHAKE = b"\x16"
_AN_ERROR = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What the front door works with.

    Attributes:
        converse: Talks to one WebSocket.
        drain: Says when to stop.
        gate: Judges requests.
        crowd: Counts connections.
        pages: What plain HTTP gets.
        keeper: Looks after open WebSockets.
        complaints: Logs refusals.
        refused: Counts them.
        is_ready: Whether calls are answered yet.
        certificate: What connections are secured with; None for plain ones.
        max_message_bytes: The size of a message.
    """

    converse: Converse
    drain: Drain
    gate: Gate
    crowd: Crowd
    pages: Pages
    keeper: Keeper
    complaints: Complaints
    refused: Counter[str]
    is_ready: Callable[[], bool]
    certificate: Certificate | None = None
    max_message_bytes: int

    def refuse(self, refusal: Refusal) -> Answer:
        """Count and log a refusal, and give the answer that says it."""
        self.refused[refusal.word] += 1
        if refusal.log:
            self.complaints.say(refusal.word, refusal.log)
        return answer_to(refusal)


class Ends(NamedTuple):
    """The two ends of a connection: the peer's address and port, and our address."""

    address: str
    port: int
    bound: str

    @classmethod
    def of(cls, stream: trio.abc.Stream) -> Ends:
        """Ask the system; a stream that is no socket begins on this machine.

        Raises:
            OSError: The peer is gone already.
        """
        if not isinstance(stream, trio.SocketStream):
            return cls("127.0.0.1", 0, "127.0.0.1")
        address, port = stream.socket.getpeername()[:2]
        return cls(address, port, stream.socket.getsockname()[0])

    def __str__(self) -> str:
        return f"{self.address} port {self.port}"


async def keep_door(
    door: Door,
    listeners: list[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until draining begins, then see them out.

    Started with the URL of the first listener. Returns when the last conversation has ended,
    `DRAIN_SECONDS` after draining began at the latest.
    """
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as acceptors:
            await acceptors.start(door.keeper.keep_forever)
            receive = partial(_receive, door, connections, trio.CapacityLimiter(MOST_TURNED_AWAY))
            for listener in listeners:
                acceptors.start_soon(accept_forever, listener, receive, door.complaints.say)
            task_status.started(url_of(listeners[0], is_secure=door.certificate is not None))
            await door.drain.begun.wait()
            acceptors.cancel_scope.cancel()
        connections.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS


def _receive(
    door: Door,
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
    refusal = door.crowd.enter(ends.address)
    if refusal is None:
        connections.start_soon(
            _see_through,
            stream,
            partial(_attend, door, stream, ends),
            partial(door.crowd.leave, ends.address),
        )
        return
    answer = door.refuse(refusal)
    try:
        turned_away.acquire_on_behalf_of_nowait(stream)
    except trio.WouldBlock:
        connections.start_soon(trio.aclose_forcefully, stream)
        return
    connections.start_soon(
        _see_through,
        stream,
        partial(_turn_away, door, stream, answer),
        partial(turned_away.release_on_behalf_of, stream),
    )


async def _see_through(
    stream: trio.abc.Stream,
    attend: Callable[[], Awaitable[None]],
    leave: Callable[[], None],
) -> None:
    """See one connection through; nothing that happens to it escapes."""
    try:
        await attend()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("connection lost")
    except* Exception:
        log.exception("a connection failed")
    finally:
        leave()
        await trio.aclose_forcefully(stream)


async def _turn_away(door: Door, plain: trio.abc.Stream, answer: Answer) -> None:
    with trio.move_on_after(HEAD_SECONDS):
        stream = await _secured(door, plain)
        if stream is not None:
            await _hang_up(stream, encode_answer(answer, is_last=True))


async def _attend(door: Door, plain: trio.abc.Stream, ends: Ends) -> None:
    stream: trio.abc.Stream | None = None
    admitted = None
    with door.drain.seat() as seat:
        if seat.is_leaving():
            return
        with trio.move_on_after(HEAD_SECONDS):
            stream = await _secured(door, plain)
        if stream is not None:
            admitted = await _answer_requests(door, seat, stream, ends)
    if stream is not None and admitted is not None:
        await _hold(door, stream, admitted, ends)


async def _secured(door: Door, plain: trio.abc.Stream) -> trio.abc.Stream | None:
    """Do what TLS asks for before the first byte; None where the peer does not speak it."""
    if door.certificate is None:
        return plain
    if not isinstance(plain, trio.SocketStream):
        raise TypeError("TLS needs a socket")
    try:
        first = await plain.socket.recv(1, socket.MSG_PEEK)
    except OSError:
        return None
    if first != _TLS_HANDSHAKE:
        if first:
            await _hang_up(plain, encode_answer(door.refuse(PLAIN_ON_TLS), is_last=True))
        return None
    secured = trio.SSLStream(
        plain, door.certificate.context, server_side=True, https_compatible=True
    )
    await secured.do_handshake()
    return secured


class Admitted(NamedTuple):
    """A WebSocket handshake that passed the gate."""

    request: Request
    grant: Grant


async def _answer_requests(
    door: Door, seat: Seat, stream: trio.abc.Stream, ends: Ends
) -> Admitted | None:
    """Answer plain requests until one asks for a WebSocket; None where none does."""
    reader = HeadReader()
    while not seat.is_leaving():
        taken: Request | Refusal | None = TOO_SLOW
        with trio.move_on_after(HEAD_SECONDS) as limit:
            taken = await _next_request(reader, stream)
        if taken is None or (limit.cancelled_caught and reader.is_empty):
            return None
        decision = taken if isinstance(taken, Refusal) else _decide(door, taken, ends)
        if isinstance(decision, Admitted):
            return decision
        answer = door.refuse(decision) if isinstance(decision, Refusal) else decision
        is_last = isinstance(taken, Refusal) or taken.is_last or answer.status >= _AN_ERROR
        without_body = isinstance(taken, Request) and taken.head.method == "HEAD"
        seat.is_busy = True
        with trio.move_on_after(HEAD_SECONDS) as limit:
            encoded = encode_answer(answer, is_last=is_last, without_body=without_body)
            if is_last:
                await _hang_up(stream, encoded)
            else:
                await stream.send_all(encoded)
        seat.is_busy = False
        if is_last or limit.cancelled_caught:
            return None
    return None


async def _next_request(reader: HeadReader, stream: trio.abc.Stream) -> Request | Refusal | None:
    while (taken := reader.take()) is None:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            return None if reader.is_empty else bad_request("The request ended in its head.")
        reader.feed(data)
    return taken


def _decide(door: Door, request: Request, ends: Ends) -> Answer | Refusal | Admitted:
    head = request.head
    refusal = door.gate.refusal(head, bound=ends.bound)
    if refusal is not None:
        return refusal
    if not head.target.startswith("/") and head.method in {"GET", "HEAD"}:
        return bad_request("The target of the request must be a path, such as /.")
    grant = door.gate.grant(head)
    if not request.is_upgrade or head.method != "GET":
        return door.pages.answer(head, grant)
    if (fault := handshake_fault(request)) is not None:
        return fault
    if grant is Grant.NOTHING:
        return UNAUTHORIZED
    return Admitted(request, grant) if door.is_ready() else NOT_READY


NOT_READY = Refusal(
    status=HTTPStatus.SERVICE_UNAVAILABLE,
    word="not_ready",
    text="This registry is not ready: try again in a moment.",
    fields=(("Retry-After", "1"),),
)


async def _hold(door: Door, stream: trio.abc.Stream, admitted: Admitted, ends: Ends) -> None:
    """Hold one WebSocket open for as long as the conversation lasts."""
    visitor = Visitor(may_write=admitted.grant is Grant.ALL, refused=door.refused)
    async with trio.open_nursery() as nursery:
        wire = None
        with trio.move_on_after(HEAD_SECONDS):
            wire = await accept_websocket(
                nursery,
                stream,
                admitted.request.raw,
                admitted.request.rest,
                max_message_size=door.max_message_bytes,
                visitor=visitor,
            )
        if wire is not None:
            cut = partial(_cut, stream, nursery.cancel_scope)
            watched = door.keeper.add(wire, str(ends), cut)
            try:
                await door.converse(wire)
            finally:
                if wire.was_too_large:
                    door.refused["message_bytes"] += 1
                # Where a frame was cut in the middle, a goodbye would be taken for its rest.
                if wire.sending is None:
                    with trio.move_on_after(CLOSE_SECONDS, shield=True):
                        await wire.close()
                door.keeper.remove(watched)
        nursery.cancel_scope.cancel()


def _cut(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """End a connection at once; what the system still holds for the peer is dropped."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(plain, trio.SocketStream):
        with suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    scope.cancel()


_NO_LINGER = struct.pack("ii", 1, 0)


async def _hang_up(stream: trio.abc.Stream, answer: bytes) -> None:
    """Answer and close so that the answer arrives: what is still coming is read first."""
    await stream.send_all(answer)
    with trio.move_on_after(HANG_UP_SECONDS):
        if isinstance(stream, trio.SSLStream):
            await stream.unwrap()
            return
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
        read = 0
        while read < HANG_UP_BYTES and (data := await stream.receive_some(RECEIVE_BYTES)):
            read += len(data)
