"""What happens on a connection before it is a WebSocket: TLS, HTTP requests, and judging them."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from plexus_registry.server.access_policy import UNAUTHORIZED, AccessPolicy, Grant, Refusal
from plexus_registry.server.http import (
    PLAIN_ON_TLS,
    TOO_SLOW,
    HeadReader,
    HttpRequest,
    HttpResponse,
    bad_request,
    encode_response,
    handshake_fault,
    response_to,
)
from plexus_registry.server.websocket import WebSocket

if TYPE_CHECKING:
    from collections import Counter

    from plexus_registry.concurrency import LogThrottle
    from plexus_registry.rpc.fairness import Fairness
    from plexus_registry.server.connection_limits import ConnectionLimits
    from plexus_registry.server.heartbeat import Heartbeat
    from plexus_registry.server.pages import Pages
    from plexus_registry.server.shutdown import ConnectionSlot, Shutdown
    from plexus_registry.server.tls import Certificate

Converse = Callable[[WebSocket], Awaitable[None]]

HEAD_SECONDS = 5.0
HANG_UP_SECONDS = 1.0
HANG_UP_BYTES = 1024 * 1024
RECEIVE_BYTES = 16 * 1024

_TLS_HANDSHAKE = b"\x16"
_AN_ERROR = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The parts of the server that each connection uses.

    Attributes:
        serve_connection: Talks to one WebSocket.
        shutdown: Says when to stop.
        access_policy: Judges requests.
        connection_limits: Counts connections.
        pages: What plain HTTP gets.
        heartbeat: Looks after open WebSockets.
        log_throttle: Logs refusals.
        refused: Counts them.
        certificate: What connections are secured with; None for plain ones.
        max_message_bytes: The size of a message.
        fairness: What all connections share.
    """

    serve_connection: Converse
    shutdown: Shutdown
    access_policy: AccessPolicy
    connection_limits: ConnectionLimits
    pages: Pages
    heartbeat: Heartbeat
    log_throttle: LogThrottle
    refused: Counter[str]
    certificate: Certificate | None = None
    max_message_bytes: int
    fairness: Fairness

    def report_fault(self, word: str, text: str) -> None:
        """Count and log a fault that no peer gets an answer about."""
        self.refused[word] += 1
        self.log_throttle.log(word, text)

    def refuse(self, refusal: Refusal) -> HttpResponse:
        """Count and log a refusal, and give the answer that says it."""
        self.refused[refusal.word] += 1
        if refusal.log:
            self.log_throttle.log(refusal.word, refusal.log)
        return response_to(refusal)


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


async def secured(server: Server, plain: trio.abc.Stream) -> trio.abc.Stream | None:
    """Do what TLS asks for before the first byte; None where the peer does not speak it."""
    if server.certificate is None:
        return plain
    if not isinstance(plain, trio.SocketStream):
        raise TypeError("TLS needs a socket")
    try:
        first = await plain.socket.recv(1, socket.MSG_PEEK)
    except OSError:
        return None
    if first != _TLS_HANDSHAKE:
        if first:
            await hang_up(plain, encode_response(server.refuse(PLAIN_ON_TLS), is_last=True))
        return None
    secured = trio.SSLStream(
        plain, server.certificate.context, server_side=True, https_compatible=True
    )
    await secured.do_handshake()
    return secured


class Admitted(NamedTuple):
    """A WebSocket handshake that the access policy allows."""

    request: HttpRequest
    grant: Grant


async def answer_requests(
    server: Server, slot: ConnectionSlot, stream: trio.abc.Stream, ends: Ends
) -> Admitted | None:
    """Answer plain requests until one asks for a WebSocket, each within `HEAD_SECONDS`.

    Args:
        server: What judges and answers them.
        slot: Says when to stop.
        stream: The connection, once TLS had what it asks for.
        ends: Who it is.

    Returns:
        The handshake that passed; None where the connection is over.
    """
    reader = HeadReader()
    while not slot.is_leaving():
        taken: HttpRequest | Refusal | None = TOO_SLOW
        with trio.move_on_after(HEAD_SECONDS) as limit:
            taken = await _next_request(reader, stream)
        if taken is None or (limit.cancelled_caught and reader.is_empty):
            return None
        decision = taken if isinstance(taken, Refusal) else _decide(server, taken, ends)
        if isinstance(decision, Admitted):
            return decision
        answer = server.refuse(decision) if isinstance(decision, Refusal) else decision
        is_last = isinstance(taken, Refusal) or taken.is_last or answer.status >= _AN_ERROR
        without_body = isinstance(taken, HttpRequest) and taken.head.method == "HEAD"
        slot.is_busy = True
        with trio.move_on_after(HEAD_SECONDS) as limit:
            encoded = encode_response(answer, is_last=is_last, without_body=without_body)
            if is_last:
                await hang_up(stream, encoded)
            else:
                await stream.send_all(encoded)
        slot.is_busy = False
        if is_last or limit.cancelled_caught:
            return None
    return None


async def _next_request(
    reader: HeadReader, stream: trio.abc.Stream
) -> HttpRequest | Refusal | None:
    while (taken := reader.take()) is None:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            return None if reader.is_empty else bad_request("The request ended in its head.")
        reader.feed(data)
    return taken


def _decide(server: Server, request: HttpRequest, ends: Ends) -> HttpResponse | Refusal | Admitted:
    head = request.head
    refusal = server.access_policy.refusal(head, bound=ends.bound)
    if refusal is not None:
        return refusal
    if not head.target.startswith("/") and head.method in {"GET", "HEAD"}:
        return bad_request("The target of the request must be a path, such as /.")
    grant = server.access_policy.grant(head)
    if grant is Grant.NOTHING and server.access_policy.shows_token(head):
        server.log_throttle.log_address(
            "wrong token",
            ends.address,
            f"refused {ends.address}: its token is wrong; give it the one of --token-file or"
            " REGISTRY_TOKEN",
        )
    if not request.is_upgrade or head.method != "GET":
        return server.pages.answer(head, grant)
    if (fault := handshake_fault(request)) is not None:
        return fault
    if grant is Grant.NOTHING:
        return UNAUTHORIZED
    return Admitted(request, grant)


async def hang_up(stream: trio.abc.Stream, answer: bytes) -> None:
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
