"""The beginning of a connection: TLS, and HTTP requests until one asks for a WebSocket.

The shutdown ends a connection between two requests, never in the middle of one.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio
from trio_websocket import wrap_server_stream

from plexus_registry.server.access_policy import Grant, Refusal
from plexus_registry.server.http import (
    BODY_TOO_SLOW,
    PLAIN_ON_TLS,
    TLS_HANDSHAKE,
    TOO_SLOW,
    HttpRequest,
    HttpResponse,
    RequestReader,
    bad_request,
    encode_response,
)
from plexus_registry.websocket_frames import PIECE_BYTES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from plexus_registry.rpc.fairness import Share

HEAD_SECONDS = 5.0
BODY_SECONDS = 30.0
HANG_UP_SECONDS = 1.0
HANG_UP_BYTES = 1024 * 1024
RECEIVE_BYTES = 16 * 1024

_FIRST_ERROR_STATUS = 400
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestLoop:
    """The part of a connection's task that receives requests and answers them.

    Attributes:
        is_busy: Whether a request is being answered; the connection sets it.
        scope: Cancelled by the shutdown when it is not busy.
    """

    __slots__ = ("_begun", "is_busy", "scope")

    def __init__(self, begun: trio.Event, scope: trio.CancelScope) -> None:
        self._begun = begun
        self.scope = scope
        self.is_busy = False

    def must_end(self) -> bool:
        """Check whether the shutdown has begun, so that no further request may begin."""
        return self._begun.is_set()


class Shutdown:
    """Ends connections: idle ones at once, busy ones after their current request.

    Attributes:
        begun: Set when the shutdown begins.
    """

    def __init__(self) -> None:
        self.begun = trio.Event()
        self._loops: set[RequestLoop] = set()

    def begin(self) -> None:
        """Begin the shutdown; a second call changes nothing."""
        self.begun.set()
        for loop in self._loops:
            if not loop.is_busy:
                loop.scope.cancel()

    @contextmanager
    def request_loop(self) -> Iterator[RequestLoop]:
        """Make a context that the shutdown cancels, but only between two requests."""
        with trio.CancelScope() as scope:
            loop = RequestLoop(self.begun, scope)
            self._loops.add(loop)
            try:
                yield loop
            finally:
                self._loops.discard(loop)


async def start_tls(
    plain: trio.abc.Stream, context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream] | Refusal | None:
    """Do the TLS handshake of a new connection, within `HEAD_SECONDS`.

    Returns:
        The secured stream, a refusal if the peer does not speak TLS, or None if it left or is too
        slow.

    Raises:
        trio.BrokenResourceError: The TLS handshake failed.
    """
    if not isinstance(plain, trio.SocketStream):
        raise TypeError("TLS needs a socket")
    with trio.move_on_after(HEAD_SECONDS):
        try:
            first = await plain.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return None
        if first != TLS_HANDSHAKE:
            return PLAIN_ON_TLS if first else None
        stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
        await stream.do_handshake()
        return stream
    return None


class Handshake(NamedTuple):
    """A WebSocket handshake that the access policy allows."""

    request: HttpRequest
    grant: Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowAnswer:
    """An answer that waits: for the body of its request, for other clients, or for the disk.

    Attributes:
        make: Makes the answer from the body, which is empty if `body_bytes` is 0.
        share: Counts the answer as unread until it is sent.
        body_bytes: The length of the body to read.
    """

    make: Callable[[bytes], Awaitable[HttpResponse]]
    share: Share
    body_bytes: int = 0


Decide = Callable[[HttpRequest | Refusal], HttpResponse | SlowAnswer | Handshake]
"""Decides how to answer a request, or the reason why none could be read."""


async def answer_requests(
    stream: trio.abc.Stream, loop: RequestLoop, decide: Decide
) -> Handshake | None:
    """Answer HTTP requests until one asks for a WebSocket.

    The head of each may take `HEAD_SECONDS`, and its body `BODY_SECONDS`.

    Returns:
        The handshake, which is not answered yet, or None when the connection is over.
    """
    reader = RequestReader()
    while not loop.must_end():
        request: HttpRequest | Refusal | None = TOO_SLOW
        with trio.move_on_after(HEAD_SECONDS) as limit:
            request = await _receive_request(reader, stream)
        if request is None or (limit.cancelled_caught and reader.is_empty):
            return None
        decision = decide(request)
        body = b""
        if isinstance(decision, SlowAnswer) and decision.body_bytes:
            received = await _receive_body(reader, stream, request, decision.body_bytes)
            if isinstance(received, Refusal):
                request, decision = received, decide(received)
            else:
                body = received
        if isinstance(decision, Handshake):
            return decision
        loop.is_busy = True
        if not await _answer(stream, request, decision, body):
            return None
        loop.is_busy = False
    return None


async def _answer(
    stream: trio.abc.Stream,
    request: HttpRequest | Refusal,
    decision: HttpResponse | SlowAnswer,
    body: bytes,
) -> bool:
    """Send an answer; return whether the connection may go on."""
    share = None
    try:
        if isinstance(decision, SlowAnswer):
            share = decision.share
            decision = await decision.make(body)
        is_last = (
            decision.status >= _FIRST_ERROR_STATUS
            or isinstance(request, Refusal)
            or request.is_last
            or request.body_bytes != len(body)
        )
        without_body = isinstance(request, HttpRequest) and request.head.method == "HEAD"
        encoded = encode_response(decision, is_last=is_last, without_body=without_body)
        del decision
        if not await _send(stream, encoded, share):
            return False
        if is_last:
            await hang_up(stream, b"")
        return not is_last
    finally:
        if share is not None:
            share.release(share.held)


async def _send(stream: trio.abc.Stream, encoded: bytes, share: Share | None) -> bool:
    """Send an answer, each piece within `HEAD_SECONDS`; return whether the peer was fast enough.

    If others wait for memory, the whole answer must be sent within that time.
    """
    began = trio.current_time()
    for start in range(0, len(encoded), PIECE_BYTES):
        with trio.move_on_after(HEAD_SECONDS) as limit:
            await stream.send_all(memoryview(encoded)[start : start + PIECE_BYTES])
        if limit.cancelled_caught:
            return False
        is_late = trio.current_time() - began > HEAD_SECONDS
        if is_late and share is not None and share.must_give_way:
            return False
    return True


async def _receive_body(
    reader: RequestReader, stream: trio.abc.Stream, request: HttpRequest | Refusal, length: int
) -> bytes | Refusal:
    """Receive the body of a request within `BODY_SECONDS`, or return why it could not be."""
    with trio.move_on_after(BODY_SECONDS):
        if isinstance(request, HttpRequest) and "100-continue" in request.head.words(b"expect"):
            await stream.send_all(_CONTINUE)
        while (body := reader.take_body(length)) is None:
            data = await stream.receive_some(RECEIVE_BYTES)
            if not data:
                return bad_request("The request ended in its body.")
            reader.receive_data(data)
        return body
    return BODY_TOO_SLOW


async def _receive_request(
    reader: RequestReader, stream: trio.abc.Stream
) -> HttpRequest | Refusal | None:
    """Receive one request, or return None if the peer hangs up before it begins one."""
    while (request := reader.next_request()) is None:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            return None if reader.is_empty else bad_request("The request ended in its head.")
        reader.receive_data(data)
    return request


async def hang_up(stream: trio.abc.Stream, answer: bytes) -> None:
    """Send the last answer within `HEAD_SECONDS`, and close so that it arrives.

    If bytes of the peer were left unread, the system would reset the connection, and the answer
    could be lost. So they are read first, up to a limit.
    """
    with trio.move_on_after(HEAD_SECONDS) as limit:
        await stream.send_all(answer)
    if limit.cancelled_caught:
        return
    with trio.move_on_after(HANG_UP_SECONDS):
        if isinstance(stream, trio.SSLStream):
            await stream.unwrap()
            return
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
        read = 0
        while read < HANG_UP_BYTES and (data := await stream.receive_some(RECEIVE_BYTES)):
            read += len(data)


async def accept_websocket(stream: trio.abc.Stream, request: bytes) -> bool:
    """Answer a valid WebSocket handshake, by trio-websocket, within `HEAD_SECONDS`.

    `request` is the head of the peer's request, which was read before. Return whether it was
    accepted.
    """
    is_accepted = False
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + HEAD_SECONDS
        replay = _HandshakeStream(stream, request, nursery.cancel_scope)
        handshake = await wrap_server_stream(nursery, replay)
        await handshake.accept()
        is_accepted = True
        # From here on, the bytes are read without the library.
        nursery.cancel_scope.cancel()
    return is_accepted


class _HandshakeStream(trio.abc.Stream):
    """Receives the request that was read before, and sends the library's answer.

    If a handshake fails, the library only closes the stream, and `accept_websocket` would wait
    forever. So closing it cancels the handshake; the server closes the connection.
    """

    def __init__(self, stream: trio.abc.Stream, head: bytes, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._head = head
        self._scope = scope

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002
        if not self._head:
            await trio.sleep_forever()
        head, self._head = self._head, b""
        return head

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self._scope.cancel()
