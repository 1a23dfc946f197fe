"""The server's WebSockets.

Theory of operation. trio-websocket answers the handshake; after it, the bytes of the connection are
read and written here. One task reads and answers: `read` returns the messages that have arrived,
`queue` keeps their answers, `flush` sends these together once nothing is left to read, and `wait`
waits for more bytes. Control frames are answered by `read`, in their place. While a request takes
long, the heartbeat calls `read_ahead`, so that the peer's pings are answered meanwhile.

Long messages are encoded and sent piece by piece: the memory stays small, and the heartbeat sees
whether the peer reads.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import trio
from trio_websocket import CloseReason, ConnectionClosed

from plexus_registry.rpc.fairness import Caller, Fairness, Share
from plexus_registry.server.handshake import hang_up
from plexus_registry.server.listener import has_hung_up
from plexus_registry.websocket_frames import (
    PIECE_BYTES,
    CloseCode,
    CloseFrame,
    FrameError,
    FrameReader,
    Opcode,
    PingFrame,
    encode_close,
    encode_frame,
    encode_in_pieces,
    encode_texts,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

RECEIVE_BYTES = 4096
"""How much is received at a time; more if a frame that is longer has begun."""
MOST_EARLY = 2
"""How many messages are read while the task of the connection is busy."""
WAITS_FOR_A_TRY = 16
"""How often an idle connection waits until it tries once whether its client is busy."""


class WebSocket:
    """An accepted WebSocket.

    Sending and waiting raise `trio_websocket.ConnectionClosed` when the peer is gone.

    Attributes:
        caller: The peer and its rights.
        share: Its share of the time and memory of all connections.
        start_soon: Starts a task that ends with the connection.
        was_heard: Whether bytes came since the heartbeat last set it to false.
        has_asked: Whether a message came since the heartbeat last set it to false.
        is_reading: Whether a task waits for bytes.
        is_in_message: Whether a message was sent in part.
        waits: How often it has begun to wait for bytes.
        has_broken_protocol: Whether the peer broke RFC 6455, or sent too much.
        was_too_large: Whether it sent a message that is too large.
        reader: The bytes that came, and the message that is not complete.
        queued: How many bytes are kept to be sent.
        sent: The number of pieces whose sending has begun.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        nursery: trio.Nursery,
        reader: FrameReader,
        caller: Caller,
        fairness: Fairness,
    ) -> None:
        self.share = Share(fairness)
        self.start_soon = nursery.start_soon
        self.caller = caller
        self.was_heard = self.has_asked = True
        self.waits = 0
        self.sent = 0
        self._fairness = fairness
        self._stream = stream
        # Without the checkpoints of a stream, a call costs half.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self.reader = reader
        self._queue: list[bytes] = []
        self.queued = 0
        self._lock = trio.Lock()
        self._is_sending = False
        self._is_client_busy = False
        self._is_cut = False
        self.is_reading = False
        self.is_in_message = False
        self.has_broken_protocol = self.was_too_large = False
        self._closed: CloseReason | None = None
        self._early: list[str | bytes] = []
        self._ahead: trio.Event | None = None
        self._over: trio.Event | None = None

    def read(self) -> str | bytes | None:
        """Return the next message that has arrived, or None.

        The answers to control frames and to a broken protocol are queued.
        """
        return self._early.pop(0) if self._early else self._read()

    def _read(self) -> str | bytes | None:
        try:
            while self._closed is None and (frame := self.reader.read()) is not None:
                if isinstance(frame, (str, bytes)):
                    self.has_asked = True
                    return frame
                if isinstance(frame, PingFrame):
                    self._add(encode_frame(Opcode.PONG, frame.payload))
                elif isinstance(frame, CloseFrame):
                    self._closed = CloseReason(frame.code, frame.reason or None)
                    self._add(encode_close(frame.code, frame.reason))
        except FrameError as error:
            self._closed = CloseReason(error.code, str(error))
            self.has_broken_protocol = True
            self.was_too_large = error.code == CloseCode.MESSAGE_TOO_BIG
            self._add(encode_close(error.code, str(error)))
        return None

    def queue(self, texts: Iterable[str]) -> None:
        """Keep short messages until the next ones are sent, or until `flush`."""
        if self._closed is None:  # after a close frame there must be none
            for text in texts:
                self._add(encode_frame(Opcode.TEXT, text.encode()))

    def _add(self, frame: bytes) -> None:
        self._queue.append(frame)
        self.queued += len(frame)

    async def flush(self) -> None:
        """Send the queue; the connection ends if either end has said goodbye."""
        if self.has_broken_protocol and self._is_sending:
            # The task that sends waits for a peer that does not read.
            await trio.aclose_forcefully(self._stream)
        if self._queue and not self._push():
            await self._send()
        if self._closed is not None:
            await self._end()

    def wait(self) -> Awaitable[None]:
        """Wait until bytes have arrived."""
        self.waits += 1
        return self._receive() if self._ahead is None else self._ahead.wait()

    async def read_ahead(self) -> None:
        """Read what arrives while the task of the connection is busy: two messages at most."""
        if self.is_reading or self._ahead is not None or self._early or self._closed is not None:
            return
        self._ahead = ended = trio.Event()
        try:
            with suppress(ConnectionClosed):
                while len(self._early) < MOST_EARLY:
                    message = self._read()
                    if message is not None:
                        self._early.append(message)
                    elif self._early and ended.statistics().tasks_waiting:
                        break
                    else:
                        await self.flush()
                        await self._receive()
        finally:
            self._ahead = None
            ended.set()

    async def _receive(self) -> None:
        """Wait for bytes, and hand them to the reader."""
        size = min(max(RECEIVE_BYTES, self.reader.missing), PIECE_BYTES)
        data: bytes | bytearray = b""
        self.is_reading = True
        try:
            if self._socket is None:
                data = await self._stream.receive_some(size)
            else:
                data = await self._read_socket(self._socket, size)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # a peer that has reset the connection has left, too
        finally:
            self.is_reading = False
        if not data:
            await self._fairness.wait_for_turn()
            raise self._lost()
        self.was_heard = True
        self.reader.feed(data)

    async def _read_socket(self, sock: trio.socket.SocketType, size: int) -> bytes:
        # While others have their turn, a busy client has often sent its next request. To try costs
        # less than to wait until the system says so.
        if self._is_client_busy or not self.waits % WAITS_FOR_A_TRY:
            await trio.lowlevel.checkpoint()
            try:
                data = os.read(sock.fileno(), size)
            except BlockingIOError:
                self._is_client_busy = False
            else:
                self._is_client_busy = True
                return data
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                return os.read(sock.fileno(), size)
            except BlockingIOError:
                pass  # the system woke this task for nothing

    async def _end(self) -> NoReturn:
        """Wait until the peer has seen the close frame, and raise `ConnectionClosed`."""
        # Thousands may leave at once, and ending a connection costs as much as several calls.
        await self._fairness.wait_for_turn()
        if not self.has_broken_protocol:
            await self._wait_for_close_frame()
        elif self._over is not None:
            await self._over.wait()
        else:
            self._over = trio.Event()
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await hang_up(self._stream, b"")
        raise self._lost()

    async def _wait_for_close_frame(self) -> None:
        if self.is_reading:
            if self._over is None:
                self._over = trio.Event()
            await self._over.wait()
            return
        with suppress(FrameError):
            while not self.reader.is_closed:
                if self.reader.read() is None:
                    await self._receive()
        if self._over is not None:
            self._over.set()

    def _lost(self) -> ConnectionClosed:
        """Return the error that tells that the connection is over."""
        if self._closed is None:
            self._closed = CloseReason(CloseCode.ABNORMAL, None)
        if self._over is not None:
            self._over.set()
        return ConnectionClosed(self._closed)

    async def send(self, messages: Iterable[str | bytes]) -> None:
        """Send texts, and encoded frames as bytes, after the queue."""
        await self._send(encode_texts(messages))

    def send_at_once(self, messages: Iterable[str | bytes]) -> bool:
        """Send messages as far as the system accepts them now, and queue the rest.

        Returns:
            Whether all was sent.
        """
        if self._closed is not None:
            return False
        for frames in encode_texts(messages):
            self._add(frames)
        return self._push()

    def _push(self) -> bool:
        """Send the queue as far as the system accepts it now; return whether that was all."""
        if self._socket is None or self._lock.locked() or self._is_cut:
            return False
        data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
        self.sent += 1
        try:
            size = os.write(self._socket.fileno(), data)
        except OSError:
            return False  # no room, or the peer is gone, which the next send finds
        if size == len(data):
            self._queue.clear()
            self.queued = 0
            self._is_sending = False
            return True
        self._queue = [data[size:]]
        self.queued -= size
        self._is_sending = True
        return False

    async def send_part(self, text: str, *, is_first: bool = True, is_last: bool = True) -> None:
        """Send a part of a message, or all of it, as one frame."""
        self.is_in_message = not is_last
        await self._send(encode_in_pieces(text, is_first=is_first, is_last=is_last))

    async def _send(self, pieces: Iterable[bytes] | None = None) -> None:
        """Send the queue, and then pieces that no other bytes may come between."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if self._is_cut or (pieces is not None and self._closed is not None):
                raise self._lost()
            self._is_sending = self._is_cut = True
            if self._queue:
                data = b"".join(self._queue)
                self._queue.clear()
                self.queued = 0
                await self._write(data)
            for piece in pieces or ():
                await self._write(piece)
            self._is_sending = self._is_cut = False
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._lost() from None
        finally:
            self._lock.release()

    async def _write(self, data: bytes) -> None:
        """Send bytes, and count each part that the system accepts."""
        rest = memoryview(data)
        while rest:
            self.sent += 1
            if self._socket is None:
                size = min(PIECE_BYTES, len(rest))
                await self._stream.send_all(rest[:size])
            else:
                try:
                    size = os.write(self._socket.fileno(), rest)
                except BlockingIOError:
                    size = 0
                if size < len(rest):
                    await trio.lowlevel.wait_writable(self._socket)
            rest = rest[size:]

    @property
    def sending(self) -> int | None:
        """The number of the piece that is being sent, or None."""
        return self.sent if self._is_sending else None

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send the queue and a close frame, and wait until the peer has left, too."""
        async with self._stream:
            if self._closed is None:
                self._closed = CloseReason(code, reason or None)
                self._add(encode_close(code, reason))
                with suppress(ConnectionClosed):
                    await self._send()
                    await self._wait_for_close_frame()

    @property
    def is_gone(self) -> bool:
        """Whether the peer has left, even if its last messages are not read yet."""
        return self._closed is not None or has_hung_up(self._stream)
