"""What happens on a connection before it is a WebSocket: TLS, HTTP requests, and judging them."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from plexus_registry.core.gate import UNAUTHORIZED, Gate, Grant, Refusal
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
from plexus_registry.wire import Wire

if TYPE_CHECKING:
    from collections import Counter

    from plexus_registry.core.crowd import Crowd
    from plexus_registry.door.complaints import Complaints
    from plexus_registry.door.keeper import Keeper
    from plexus_registry.door.pages import Pages
    from plexus_registry.door.tls import Certificate
    from plexus_registry.drain import Drain, Seat
    from plexus_registry.fairness import Fairness

Converse = Callable[[Wire], Awaitable[None]]

HEAD_SECONDS = 5.0
HANG_UP_SECONDS = 1.0
HANG_UP_BYTES = 1024 * 1024
RECEIVE_BYTES = 16 * 1024

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
        certificate: What connections are secured with; None for plain ones.
        max_message_bytes: The size of a message.
        fairness: What all connections share.
    """

    converse: Converse
    drain: Drain
    gate: Gate
    crowd: Crowd
    pages: Pages
    keeper: Keeper
    complaints: Complaints
    refused: Counter[str]
    certificate: Certificate | None = None
    max_message_bytes: int
    fairness: Fairness

    def complain(self, word: str, text: str) -> None:
        """Count and log trouble that nobody is answered for."""
        self.refused[word] += 1
        self.complaints.say(word, text)

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


async def secured(door: Door, plain: trio.abc.Stream) -> trio.abc.Stream | None:
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
            await hang_up(plain, encode_answer(door.refuse(PLAIN_ON_TLS), is_last=True))
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


async def answer_requests(
    door: Door, seat: Seat, stream: trio.abc.Stream, ends: Ends
) -> Admitted | None:
    """Answer plain requests until one asks for a WebSocket, each within `HEAD_SECONDS`.

    Args:
        door: What judges and answers them.
        seat: Says when to stop.
        stream: The connection, once TLS had what it asks for.
        ends: Who it is.

    Returns:
        The handshake that passed; None where the connection is over.
    """
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
                await hang_up(stream, encoded)
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
    if grant is Grant.NOTHING and door.gate.shows_token(head):
        door.complaints.say_of_address(
            "wrong token",
            ends.address,
            f"refused {ends.address}: its token is wrong; give it the one of --token-file or"
            " REGISTRY_TOKEN",
        )
    if not request.is_upgrade or head.method != "GET":
        return door.pages.answer(head, grant)
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
