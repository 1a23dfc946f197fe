"""The server's WebSockets speak as trio-websocket does, and read and send in fewer steps."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, wrap_server_stream

from plexus_registry.rpc.fairness import Caller, Fairness
from plexus_registry.server.websocket import WebSocket
from plexus_registry.websocket_frames import (
    PIECE_BYTES,
    CloseCode,
    CloseFrame,
    FrameReader,
    Opcode,
    PingFrame,
    PongFrame,
    encode_close,
    encode_frame,
)
from tests.e2e.raw import HEAD, frame
from tests.fakes import accepted, received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock


Serve: TypeAlias = "Callable[[trio.abc.Stream], Awaitable[int | None]]"
"""Serves a peer whose handshake is read: echoes its messages, and returns the code of the end."""

MOST_BYTES = 200
MASK = b"\x01\x80\xff\x00"


def sent(opcode: Opcode, payload: bytes, *, is_last: bool = True) -> bytes:
    return encode_frame(opcode, payload, is_last=is_last, mask=MASK)


@st.composite
def fragmented(draw: st.DrawFn) -> list[bytes]:
    """A message in fragments, with control frames in between."""
    payload = draw(st.text(max_size=30)).encode()
    opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=1, max_size=4)))
    frames: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        kind = Opcode.CONTINUATION if frames else opcode
        frames.append(sent(kind, payload[start:end], is_last=False))
        if draw(st.booleans()):
            frames.append(sent(draw(st.sampled_from([Opcode.PING, Opcode.PONG])), b"between"))
    return [*frames, sent(Opcode.CONTINUATION, b"")]


short = st.binary(max_size=125)
messages = st.one_of(
    st.text(max_size=40).map(lambda text: [sent(Opcode.TEXT, text.encode())]),
    st.binary(max_size=150).map(lambda data: [sent(Opcode.BINARY, data)]),
    fragmented(),
)
controls = st.one_of(
    short.map(lambda data: [sent(Opcode.PING, data)]),
    short.map(lambda data: [sent(Opcode.PONG, data)]),
)
codes = st.sampled_from([1000, 1001, 1003, 1008, 1011, 3000, 4999])
ends = st.one_of(
    st.tuples(codes, st.text(max_size=20)).map(lambda each: [encode_close(*each, mask=MASK)]),
    st.just([sent(Opcode.CLOSE, b"")]),
    st.just([sent(Opcode.CLOSE, (999).to_bytes(2, "big"))]),
    st.just([sent(Opcode.TEXT, b"\xff")]),
    st.just([sent(Opcode.TEXT, b"a", is_last=False), sent(Opcode.TEXT, b"b")]),
    st.just([sent(Opcode.CONTINUATION, b"a")]),
    st.just([frame(1, b"", reserved=4)]),
    st.just([frame(3, b"")]),
    st.just([encode_frame(Opcode.TEXT, b"not masked")]),
    st.just([sent(Opcode.TEXT, b"x" * (MOST_BYTES + 1))]),
    st.just(
        [sent(Opcode.BINARY, b"x" * MOST_BYTES, is_last=False), sent(Opcode.CONTINUATION, b"x")]
    ),
    st.just([b""]),
)
conversations = st.tuples(st.lists(st.one_of(messages, controls), max_size=8), ends).map(
    lambda both: [each for action in (*both[0], both[1]) for each in action]
)


async def serve_with_library(stream: trio.abc.Stream) -> int | None:
    replayed = trio.StapledStream(stream, Replayed(stream))
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, replayed, max_message_size=MOST_BYTES)
        websocket = await request.accept()
        try:
            while True:
                await websocket.send_message(await websocket.get_message())
        except ConnectionClosed as closed:
            nursery.cancel_scope.cancel()
            return closed.reason.code if closed.reason is not None else None


class Replayed(trio.abc.ReceiveStream):
    """A stream whose handshake was read already."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._head = HEAD

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        head, self._head = self._head, b""
        return head or await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def serve_with_ours(stream: trio.abc.Stream) -> int | None:
    async with trio.open_nursery() as nursery:
        websocket = await accepted(nursery, stream, max_message_bytes=MOST_BYTES)
        try:
            while True:
                message = await received(websocket)
                if isinstance(message, str):
                    websocket.queue([message])
                else:  # the registry never sends binary messages
                    websocket._add(encode_frame(Opcode.BINARY, message))
        except ConnectionClosed as closed:
            await websocket.close()
            return closed.reason.code if closed.reason is not None else None


Frame: TypeAlias = "str | bytes | PingFrame | PongFrame | CloseFrame"


@dataclass
class Transcript:
    """What a peer got, and how the server saw the end."""

    frames: list[Frame] = field(default_factory=list)
    end: CloseFrame | None = None
    code: int | None = None


async def converse(serve: Serve, pieces: list[bytes], *, waits: bool) -> Transcript:
    """Send pieces, of which an empty one hangs up, and record what comes.

    Args:
        serve: The server's end.
        pieces: What to send.
        waits: Whether to wait for the server after each piece.
    """
    transcript = Transcript()
    server, peer = memory_stream_pair()

    async def run() -> None:
        transcript.code = await serve(server)
        await server.aclose()

    async def listen() -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await peer.receive_some()
        reader = FrameReader(is_peer_client=False)
        reader.feed(head.partition(b"\r\n\r\n")[2])
        begun.set()
        while data := await peer.receive_some():
            reader.feed(data)
            while (frame := reader.read()) is not None:
                if isinstance(frame, CloseFrame):
                    transcript.end = frame
                else:
                    transcript.frames.append(frame)
            if reader.is_closed:
                break
        await peer.aclose()

    begun = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(listen)
        await begun.wait()
        for piece in pieces:
            try:
                if piece:
                    await peer.send_all(piece)
                else:
                    await peer.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break  # the server has ended the connection
            if waits:
                await wait_all_tasks_blocked()
    return transcript


@given(conversations)
def test_it_speaks_as_trio_websocket_does(frames: list[bytes]) -> None:
    theirs = trio.run(lambda: converse(serve_with_library, frames, waits=True))
    ours = trio.run(lambda: converse(serve_with_ours, frames, waits=True))
    assert ours.code == theirs.code
    assert ours.frames == theirs.frames
    if theirs.end is not None:
        assert ours.end is not None
        assert ours.end.code == theirs.end.code
    elif ours.end is not None:  # the library omits the close frame if the peer broke the protocol
        assert ours.end.code in {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA}


@given(conversations, st.data())
def test_it_speaks_the_same_however_the_bytes_come(
    frames: list[bytes], data: st.DataObject
) -> None:
    in_frames = trio.run(lambda: converse(serve_with_ours, frames, waits=True))
    whole = b"".join(frames)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))
    bounds = sorted({0, *cuts, len(whole)})
    pieces = [whole[start:end] for start, end in pairwise(bounds)]
    pieces += [b""] * (not frames[-1])
    in_pieces = trio.run(lambda: converse(serve_with_ours, pieces, waits=data.draw(st.booleans())))
    assert in_pieces == in_frames


class Counted(trio.abc.SendStream):
    """A stream that counts what is sent, and can make the sender wait."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self.sends = 0
        self.barrier: trio.Event | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        if self.barrier is not None:
            await self.barrier.wait()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class Connected:
    """A WebSocket, and both ends of its connection."""

    websocket: WebSocket
    peer: trio.abc.Stream
    counted: Counted
    nursery: trio.Nursery
    reader: FrameReader = field(default_factory=lambda: FrameReader(is_peer_client=False))

    async def next_frame(self) -> Frame:
        while (frame := self.reader.read()) is None:
            data = await self.peer.receive_some()
            assert data, "the server hung up"
            self.reader.feed(data)
        return frame


@asynccontextmanager
async def connected() -> AsyncIterator[Connected]:
    server, peer = memory_stream_pair()
    counted = Counted(server)
    async with trio.open_nursery() as nursery:
        stream = trio.StapledStream(counted, server)
        websocket = await accepted(nursery, stream, max_message_bytes=MOST_BYTES)
        assert b"\r\n\r\n" in await peer.receive_some()
        counted.sends = 0
        yield Connected(websocket, peer, counted, nursery)
        nursery.cancel_scope.cancel()


async def test_what_answers_one_read_leaves_in_one_send() -> None:
    async with connected() as each:
        await each.peer.send_all(sent(Opcode.TEXT, b"{}") * 3 + sent(Opcode.PING, b"p"))
        await each.websocket.wait()
        while (message := each.websocket.read()) is not None:
            assert isinstance(message, str)
            each.websocket.queue([message, "more"])
        await each.websocket.flush()
        assert [await each.next_frame() for _ in range(7)] == ["{}", "more"] * 3 + [PongFrame(b"p")]
        assert each.counted.sends == 1


async def test_a_ping_is_answered_while_a_request_takes_long() -> None:
    async with connected() as each:
        await each.peer.send_all(sent(Opcode.TEXT, b"slow"))
        assert await received(each.websocket) == "slow"
        each.nursery.start_soon(each.websocket.read_ahead)
        await each.peer.send_all(sent(Opcode.PING, b"p"))
        assert await each.next_frame() == PongFrame(b"p")
        await each.peer.send_all(sent(Opcode.TEXT, b"early") + sent(Opcode.PING, b"q"))
        assert await each.next_frame() == PongFrame(b"q")
        assert await received(each.websocket) == "early"
        await wait_all_tasks_blocked()
        each.nursery.start_soon(each.peer.send_all, sent(Opcode.TEXT, b"next"))
        assert await received(each.websocket) == "next"
        await wait_all_tasks_blocked()
        assert not each.websocket.is_reading, "the task of the connection reads by itself again"


async def test_only_a_few_messages_are_read_while_a_request_takes_long() -> None:
    async with connected() as each:
        each.nursery.start_soon(each.websocket.read_ahead)
        await each.peer.send_all(b"".join(sent(Opcode.TEXT, b"%d" % n) for n in range(5)))
        await wait_all_tasks_blocked()
        assert not each.websocket.is_reading
        assert [await received(each.websocket) for _ in range(5)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_peer_that_leaves_during_a_request_is_gone_after_it(*, is_cut: bool) -> None:
    async with connected() as each:
        each.nursery.start_soon(each.websocket.read_ahead)
        if is_cut:
            await each.peer.aclose()
        else:
            await each.peer.send_all(encode_close(3000, "bye", mask=MASK))
            assert await each.next_frame() == CloseFrame(3000, "bye")
        await wait_all_tasks_blocked()
        assert each.websocket.is_gone
        with pytest.raises(ConnectionClosed):
            await received(each.websocket)
        with pytest.raises(ConnectionClosed):
            await each.websocket.send(["too late"])


async def test_a_bad_frame_ends_a_connection_whose_peer_does_not_read() -> None:
    async with connected() as each:
        each.counted.barrier = trio.Event()
        lost = False

        async def send() -> None:
            nonlocal lost
            with pytest.raises(ConnectionClosed):
                await each.websocket.send(["x" * PIECE_BYTES * 2])
            lost = True

        each.nursery.start_soon(send)
        each.nursery.start_soon(each.websocket.read_ahead)
        await each.peer.send_all(frame(3, b""))
        await wait_all_tasks_blocked()
        each.counted.barrier.set()
        await wait_all_tasks_blocked()
        assert lost


async def test_no_bytes_come_between_the_pieces_of_a_message() -> None:
    async with connected() as each:
        each.counted.barrier = barrier = trio.Event()
        each.nursery.start_soon(each.websocket.send, ["x" * PIECE_BYTES * 3])
        await wait_all_tasks_blocked()
        each.nursery.start_soon(each.websocket.send, [encode_frame(Opcode.PING, b"")])
        each.nursery.start_soon(each.websocket.send, ["y"])
        await wait_all_tasks_blocked()
        barrier.set()
        frames = [await each.next_frame() for _ in range(3)]
        assert frames[0] == "x" * PIECE_BYTES * 3
        assert {*frames[1:]} == {PingFrame(b""), "y"}


async def test_what_the_system_does_not_accept_at_once_is_sent_later() -> None:
    async with socket_pair() as (server, peer), trio.open_nursery() as nursery:
        reader = FrameReader(is_peer_client=True)
        websocket = WebSocket(server, nursery, reader, Caller(), Fairness())
        texts = [f"{number} {'x' * 50_000}" for number in range(100)]
        is_all_sent = [websocket.send_at_once([text]) for text in texts]
        assert is_all_sent[0]
        assert not is_all_sent[-1], "100 long texts fit into the buffers of the system"
        assert websocket.sending is not None, "a frame is cut"
        nursery.start_soon(websocket.send, ["the end"])
        reader = FrameReader(is_peer_client=False)
        got: list[object] = []
        while len(got) <= len(texts):
            reader.feed(await peer.receive_some())
            while (text := reader.read()) is not None:
                got.append(text)
        assert got == [*texts, "the end"]
        assert websocket.sending is None


@asynccontextmanager
async def socket_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    ours, theirs = trio.socket.socketpair()
    async with trio.SocketStream(ours) as server, trio.SocketStream(theirs) as peer:
        yield server, peer


async def test_a_second_look_at_a_busy_connection_starts_no_second_reader() -> None:
    async with connected() as each:
        each.counted.barrier = barrier = trio.Event()
        each.nursery.start_soon(each.websocket.send, ["slow"])
        await wait_all_tasks_blocked()
        await each.peer.send_all(sent(Opcode.PING, b"p"))
        for _ in range(3):  # the pong waits until the text is sent
            each.nursery.start_soon(each.websocket.read_ahead)
            await wait_all_tasks_blocked()
        barrier.set()
        assert [await each.next_frame() for _ in range(2)] == ["slow", PongFrame(b"p")]
        await each.peer.send_all(sent(Opcode.TEXT, b"{}"))
        assert await received(each.websocket) == "{}"


async def test_nothing_follows_a_close_frame() -> None:
    async with connected() as each:
        await each.peer.send_all(sent(Opcode.TEXT, b"{}") + encode_close(1000, mask=MASK))
        await each.websocket.wait()
        assert each.websocket.read() == "{}"
        assert each.websocket.read() is None
        queued = each.websocket.queued
        each.websocket.queue(["too late"])
        assert each.websocket.queued == queued
        with pytest.raises(ConnectionClosed):
            await each.websocket.flush()
        assert await each.next_frame() == CloseFrame(1000, "")


async def test_nothing_follows_a_frame_that_was_cut() -> None:
    async with connected() as each:
        each.counted.barrier = barrier = trio.Event()
        with trio.move_on_after(0) as scope:
            await each.websocket.send(["x" * PIECE_BYTES * 2])
        assert scope.cancelled_caught
        barrier.set()
        with pytest.raises(ConnectionClosed):
            await each.websocket.send(["too late"])


async def test_two_tasks_that_find_a_broken_protocol_end_the_connection_once(
    autojump_clock: MockClock,
) -> None:
    async with connected() as each:
        each.nursery.start_soon(each.websocket.read_ahead)
        await each.peer.send_all(frame(3, b""))
        await wait_all_tasks_blocked()
        with trio.fail_after(5), pytest.raises(ConnectionClosed):
            await received(each.websocket)


async def test_what_is_queued_during_a_send_is_kept() -> None:
    async with connected() as each:
        each.counted.barrier = barrier = trio.Event()
        each.websocket.queue(["first"])
        each.nursery.start_soon(each.websocket.flush)
        await wait_all_tasks_blocked()
        each.websocket.queue(["second"])
        each.nursery.start_soon(each.websocket.flush)
        await wait_all_tasks_blocked()
        barrier.set()
        with trio.fail_after(5):
            assert [await each.next_frame() for _ in range(2)] == ["first", "second"]
