"""One WebSocket of the server: messages in, and all messages of an answer out at once."""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, wrap_server_stream

from plexus_registry.rpc.fairness import Fairness, Share
from plexus_registry.rpc.limits import Caller
from plexus_registry.websocket_frames import CloseCode, Opcode, encode_close, encode_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


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
        """Send messages, if any: short ones together, and long ones bit by bit."""
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
        """Send a part of a message, or all of it, as one frame that is encoded bit by bit.

        The library would hold a copy of all of it until the peer has read it.
        """
        async with self._ws._stream_lock:  # noqa: SLF001 - what it sends itself must not come between
            if self._ws.closed is not None:
                raise ConnectionClosed(self._ws.closed)
            try:
                await self._stream.send_pieces(_frame(text, is_first=is_first, is_last=is_last))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ConnectionClosed(self._ws.closed) from None

    @property
    def is_gone(self) -> bool:
        """Whether the peer has left, also where its last messages are still unread."""
        return self._ws.closed is not None or self._stream.is_gone

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Send a close frame, and wait for the peer's."""
        await self._ws.aclose(code, reason)
        await self._stream.say_why()

    @property
    def sent(self) -> int:
        """The number of pieces that were sent so far, or begun to be."""
        return self._stream.sent

    @property
    def sending(self) -> int | None:
        """The number of the piece that is being sent; None while nothing is."""
        return self._stream.sent if self._stream.is_sending else None

    @property
    def fragments(self) -> int:
        """How many parts of a message came that is not whole yet."""
        return len(self._ws._message_parts)  # noqa: SLF001 - it has no limit for them

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
    """Finish the WebSocket handshake that a peer began.

    Args:
        nursery: Where the WebSocket's own task runs.
        stream: The connection.
        head: The head of the peer's request, which was read from it.
        rest: What was read after that.
        max_message_size: The size of a message, in bytes, above which the peer is cut off.
        caller: The peer and its rights.
        fairness: The time and memory that all connections share.

    Returns:
        The WebSocket; None where the peer's part of the handshake was wrong or it left.
    """
    with trio.CancelScope() as handshake:
        fairness = fairness or Fairness()
        handed = HandshakeStream(stream, head, rest, handshake, fairness)
        request = await wrap_server_stream(nursery, handed, max_message_size=max_message_size)
        ws = await request.accept()
        handed.open()
        return WebSocket(ws, handed, nursery, caller or Caller(), fairness)
    return None


class HandshakeStream(trio.abc.Stream):
    """A stream whose first bytes were read already, and that can gather what it sends.

    A handshake that fails only closes the stream, and its waiter would wait on: closing the
    stream ends the wait too.

    Attributes:
        is_sending: Whether the peer did not take all of it yet.
        sent: How many pieces were sent, or begun to be.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        head: bytes,
        rest: bytes,
        handshake: trio.CancelScope,
        fairness: Fairness,
    ) -> None:
        self._fairness = fairness
        # Trio's stream checks for more, which takes its time where thousands wake together.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._stream = stream
        self._head = head
        self._rest = rest
        self._handshake = handshake
        self._gathered = bytearray()
        self._is_gathering = False
        self._said_goodbye = False
        self._is_over = False
        self.is_sending = False
        self.sent = 0
        self._is_open = trio.Event() if rest else None
        self.closed_by: Callable[[], CloseReason | None] = lambda: None

    def open(self) -> None:
        """Release the bytes that came with the handshake, which is complete now."""
        if self._is_open is not None:
            self._is_open.set()

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Store all data that is sent inside, and send it together with the next data outside."""
        self._is_gathering = True
        try:
            yield
        finally:
            self._is_gathering = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, or gather it."""
        if self._is_gathering or self._gathered:
            self._gathered += data
            if self._is_gathering:
                return
            data, self._gathered = self._gathered, bytearray()
        if self._is_over:
            raise trio.BrokenResourceError("the connection was ended")
        self._said_goodbye = data[:1] == _CLOSE
        self.sent += 1
        self.is_sending = True
        if len(data) <= PIECE_BYTES:
            await self._stream.send_all(data)
        else:
            await self._send_pieces(memoryview(data))
        self.is_sending = False

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send pieces that are one frame together."""
        if self._is_over:
            raise trio.BrokenResourceError("the connection was ended")
        self._said_goodbye = False
        for piece in pieces:
            self.sent += 1
            self.is_sending = True
            await self._send_pieces(memoryview(piece))
        self.is_sending = False

    @property
    def is_gone(self) -> bool:
        """Whether the peer has hung up; where the system cannot tell, that shows later."""
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
        """Send a long answer so that it shows whether the peer takes any of it."""
        while rest:
            if isinstance(self._stream, trio.SocketStream):
                # As much as the system takes at a time: most often that is all.
                try:
                    taken = await self._stream.socket.send(rest)
                except OSError as error:
                    raise trio.BrokenResourceError from error
            else:
                taken = min(PIECE_BYTES, len(rest))
                await self._stream.send_all(rest[:taken])
            self.sent += 1
            rest = rest[taken:]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room to send."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the bytes that were read already, and after them those of the stream."""
        if self._head:
            head, self._head = self._head, b""
            return head
        if self._is_open is not None:
            # The library looks at frames only when more comes after the handshake is done.
            await self._is_open.wait()
            self._is_open = None
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
            # Thousands may leave at once, and to see one out takes as long as several calls.
            await self._fairness.wait_for_turn()
        if broken is not None:
            raise broken
        return data

    async def aclose(self) -> None:
        """Close the stream, and end the handshake if it is not over."""
        self._handshake.cancel()
        await self.say_why()
        await self._stream.aclose()

    async def say_why(self) -> None:
        """Send the close frame that the library leaves out where a peer broke the protocol.

        Source: RFC 6455, section 7.1.7.
        """
        reason = self.closed_by()
        is_late = self.is_sending or self._said_goodbye
        if reason is None or reason.code not in _OUR_COMPLAINTS or is_late:
            return
        self._said_goodbye = self._is_over = True
        with trio.move_on_after(1, shield=True), suppress(*_GONE):
            await self._stream.send_all(encode_close(reason.code, reason.reason or ""))


# Busy: the peer reads nothing, and an answer to it is still on its way.
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
_CLOSE = encode_close(CloseCode.NORMAL)[:1]
PIECE_BYTES = 64 * 1024
"""What is longer is sent so that it shows whether the peer takes any of it."""
_OUR_COMPLAINTS = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA)


RECEIVE_BYTES = 4096
_ESTABLISHED = 1
"""Source: Linux, include/net/tcp_states.h."""
_ENCODED_AT_ONCE = 256 * 1024


def _frame(text: str, *, is_first: bool, is_last: bool) -> Iterator[bytes]:
    """Encode a frame piece by piece."""
    length = len(text) if text.isascii() else len(text.encode())
    opcode = Opcode.TEXT if is_first else Opcode.CONTINUATION
    head = encode_header(opcode, length, is_last=is_last)
    yield head + text[:_ENCODED_AT_ONCE].encode()
    for start in range(_ENCODED_AT_ONCE, len(text), _ENCODED_AT_ONCE):
        yield text[start : start + _ENCODED_AT_ONCE].encode()
