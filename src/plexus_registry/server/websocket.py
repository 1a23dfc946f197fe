"""The server's WebSockets, over trio-websocket.

Theory of operation. The library reads the handshake itself and sends each message alone. This
module adds the rest. `HandshakeStream` is between the library and the connection: it hands
on the bytes of the handshake that were read before, joins short messages, sends the close frame
that the library omits, and shows whether the peer reads. `WebSocket` sends long messages without
the library, piece by piece, because the library would keep a copy of each until the peer has read
it.
"""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, wrap_server_stream

from plexus_registry.rpc.fairness import Caller, Fairness, Share
from plexus_registry.websocket_frames import CloseCode, Opcode, encode_close, encode_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PIECE_BYTES = 64 * 1024
"""More bytes are sent piece by piece, so that the heartbeat sees whether the peer reads."""
RECEIVE_BYTES = 4096

_ENCODED_AT_ONCE = 256 * 1024
_CLOSE = encode_close(CloseCode.NORMAL)[:1]
_OMITTED_CLOSES = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA)
"""The library ends the connection with these codes without sending its close frame."""
# Busy: the peer reads nothing, and another task is still sending to it.
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
_ESTABLISHED = 1
"""Source: Linux, include/net/tcp_states.h."""


class WebSocket:
    """An accepted WebSocket.

    Every method raises `trio_websocket.ConnectionClosed` when the peer is gone.

    Attributes:
        caller: The peer and its rights.
        was_heard: Whether a message came since the heartbeat last set it to false.
        share: Its share of the time and memory of all connections.
    """

    def __init__(
        self,
        ws: WebSocketConnection,
        stream: HandshakeStream,
        nursery: trio.Nursery,
        caller: Caller,
        fairness: Fairness,
    ) -> None:
        self.share = Share(fairness)
        self.start_soon = nursery.start_soon
        self.receive = ws.get_message
        self.send_one = ws.send_message
        self.ping = ws.ping
        self.caller = caller
        self.was_heard = True
        stream.closed_by = lambda: ws.closed
        self._ws = ws
        self._stream = stream

    def forget(self) -> None:
        """Release the library's WebSocket when it has ended.

        The two refer to each other, and memory that only the garbage collector frees makes all
        clients wait.
        """
        self._stream.closed_by = lambda: None

    async def send(self, frames: Iterable[str]) -> None:
        """Send messages, if any: short ones together, and long ones piece by piece."""
        short: list[str] = []
        size = 0
        for frame in frames:
            if len(frame) > PIECE_BYTES or size > PIECE_BYTES:
                await self._send_together(short)
                short.clear()
                size = 0
            if len(frame) > PIECE_BYTES:
                await self.send_part(frame)
            else:
                short.append(frame)
                size += len(frame)
        await self._send_together(short)

    async def _send_together(self, frames: list[str]) -> None:
        if not frames:
            return
        if len(frames) > 1:
            with self._stream.gathering():
                for frame in frames[:-1]:
                    await self._ws.send_message(frame)
        await self._ws.send_message(frames[-1])

    async def send_part(self, text: str, *, is_first: bool = True, is_last: bool = True) -> None:
        """Send a part of a message, or all of it, as one frame that is encoded piece by piece."""
        async with self._ws._stream_lock:  # noqa: SLF001 - keeps the library's frames out
            if self._ws.closed is not None:
                raise ConnectionClosed(self._ws.closed)
            try:
                await self._stream.send_pieces(_frame(text, is_first=is_first, is_last=is_last))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ConnectionClosed(self._ws.closed) from None

    @property
    def is_gone(self) -> bool:
        """Whether the peer has left, even if its last messages are not read yet."""
        return self._ws.closed is not None or self._stream.is_gone

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Send a close frame, and wait for the peer's."""
        await self._ws.aclose(code, reason)
        await self._stream.send_omitted_close()

    @property
    def sent(self) -> int:
        """The number of pieces whose sending has begun."""
        return self._stream.sent

    @property
    def sending(self) -> int | None:
        """The number of the piece that is being sent, or None."""
        return self._stream.sent if self._stream.is_sending else None

    @property
    def fragments(self) -> int:
        """The number of fragments that arrived of a message that is not complete."""
        return len(self._ws._message_parts)  # noqa: SLF001 - the library does not limit them

    @property
    def was_too_large(self) -> bool:
        """Whether the connection ended because of a message that is too large."""
        closed = self._ws.closed
        return (
            closed is not None and closed.code == CloseCode.MESSAGE_TOO_BIG and bool(closed.reason)
        )


async def accept_websocket(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    head: bytes,
    rest: bytes = b"",
    *,
    max_message_size: int,
    caller: Caller | None = None,
    fairness: Fairness | None = None,
) -> WebSocket | None:
    """Answer the WebSocket handshake of a peer.

    Args:
        nursery: Runs the library's task of the WebSocket.
        stream: The connection.
        head: The bytes of the peer's request.
        rest: The bytes that were read after the request.
        max_message_size: The greatest size of a message in bytes; a larger one ends the connection.
        caller: The peer and its rights.
        fairness: The time and memory that all connections share.

    Returns:
        The WebSocket, or None if the handshake was wrong or the peer has left.
    """
    with trio.CancelScope() as scope:
        fairness = fairness or Fairness()
        handshake = HandshakeStream(stream, head, rest, scope, fairness)
        request = await wrap_server_stream(nursery, handshake, max_message_size=max_message_size)
        ws = await request.accept()
        handshake.release_rest()
        return WebSocket(ws, handshake, nursery, caller or Caller(), fairness)
    return None


class HandshakeStream(trio.abc.Stream):
    """The stream that the library uses: its first bytes were read before, and it can join messages.

    If a handshake fails, the library only closes the stream, and `accept_websocket` would wait
    forever. So closing the stream also cancels the scope of the handshake.

    Attributes:
        closed_by: Returns why the library closed the WebSocket, or None.
        is_sending: Whether a piece is being sent.
        sent: The number of pieces whose sending has begun.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        head: bytes,
        rest: bytes,
        scope: trio.CancelScope,
        fairness: Fairness,
    ) -> None:
        self._fairness = fairness
        # When thousands wake together, it matters that the socket is faster than Trio's stream.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._stream = stream
        self._head = head
        self._rest = rest
        self._scope = scope
        self._gathered = bytearray()
        self._is_gathering = False
        self._has_sent_close = False
        self._is_over = False
        self.is_sending = False
        self.sent = 0
        self._rest_released = trio.Event() if rest else None
        self.closed_by: Callable[[], CloseReason | None] = lambda: None

    def release_rest(self) -> None:
        """Hand on the bytes that came after the handshake, which is complete now."""
        if self._rest_released is not None:
            self._rest_released.set()

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Make a context that keeps the data sent inside; the next data takes it along."""
        self._is_gathering = True
        try:
            yield
        finally:
            self._is_gathering = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send data, or keep it while gathering."""
        if self._is_gathering or self._gathered:
            self._gathered += data
            if self._is_gathering:
                return
            data, self._gathered = self._gathered, bytearray()
        if self._is_over:
            raise trio.BrokenResourceError("the connection was ended")
        self._has_sent_close = data[:1] == _CLOSE
        self.sent += 1
        self.is_sending = True
        if len(data) <= PIECE_BYTES:
            await self._stream.send_all(data)
        else:
            await self._send_pieces(memoryview(data))
        self.is_sending = False

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send the pieces of one frame."""
        if self._is_over:
            raise trio.BrokenResourceError("the connection was ended")
        self._has_sent_close = False
        for piece in pieces:
            self.sent += 1
            self.is_sending = True
            await self._send_pieces(memoryview(piece))
        self.is_sending = False

    @property
    def is_gone(self) -> bool:
        """Whether the peer has hung up; False if the system cannot tell."""
        plain = self._stream
        if isinstance(plain, trio.SSLStream):
            plain = plain.transport_stream
        if sys.platform != "linux" or not isinstance(plain, trio.SocketStream):
            return False
        try:
            state = plain.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return True
        return state[0] != _ESTABLISHED

    async def _send_pieces(self, rest: memoryview) -> None:
        """Send long data, and count each piece that the system accepts."""
        while rest:
            if self._socket is not None:
                # The system most often accepts everything at once.
                try:
                    size = await self._socket.send(rest)
                except OSError as error:
                    raise trio.BrokenResourceError from error
            else:
                size = min(PIECE_BYTES, len(rest))
                await self._stream.send_all(rest[:size])
            self.sent += 1
            rest = rest[size:]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room to send."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the bytes that were read already, and after them those of the stream."""
        if self._head:
            head, self._head = self._head, b""
            return head
        if self._rest_released is not None:
            # The library reads frames only from bytes that arrive after the handshake.
            await self._rest_released.wait()
            self._rest_released = None
            rest, self._rest = self._rest, b""
            return rest
        data: bytes | bytearray = b""
        broken: trio.BrokenResourceError | None = None
        try:
            if self._socket is None:
                data = await self._stream.receive_some(max_bytes)
            else:
                data = await self._socket.recv(max_bytes or RECEIVE_BYTES)
        except (OSError, trio.BrokenResourceError) as error:
            broken = trio.BrokenResourceError("the connection was lost")
            broken.__cause__ = error
        if not data or data[:1] == _CLOSE:
            # Thousands may leave at once, and ending a connection costs as much as several calls.
            await self._fairness.wait_for_turn()
        if broken is not None:
            raise broken
        return data

    async def aclose(self) -> None:
        """Close the stream, and cancel the handshake if it is not complete."""
        self._scope.cancel()
        await self.send_omitted_close()
        await self._stream.aclose()

    async def send_omitted_close(self) -> None:
        """Send the close frame that the library omits if the peer broke the protocol.

        Source: RFC 6455, section 7.1.7.
        """
        reason = self.closed_by()
        is_late = self.is_sending or self._has_sent_close
        if reason is None or reason.code not in _OMITTED_CLOSES or is_late:
            return
        self._has_sent_close = self._is_over = True
        with trio.move_on_after(1, shield=True), suppress(*_GONE):
            await self._stream.send_all(encode_close(reason.code, reason.reason or ""))


def _frame(text: str, *, is_first: bool, is_last: bool) -> Iterator[bytes]:
    """Encode a frame piece by piece."""
    length = len(text) if text.isascii() else len(text.encode())
    opcode = Opcode.TEXT if is_first else Opcode.CONTINUATION
    head = encode_header(opcode, length, is_last=is_last)
    yield head + text[:_ENCODED_AT_ONCE].encode()
    for start in range(_ENCODED_AT_ONCE, len(text), _ENCODED_AT_ONCE):
        yield text[start : start + _ENCODED_AT_ONCE].encode()
