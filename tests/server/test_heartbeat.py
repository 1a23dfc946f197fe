"""The heartbeat of connections, in virtual time and over memory streams."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed

from plexus_registry.concurrency import LogThrottle
from plexus_registry.rpc.fairness import Fairness
from plexus_registry.server.heartbeat import Heartbeat
from plexus_registry.websocket_frames import PIECE_BYTES
from tests.e2e.raw import CLOSE, PING, TEXT, frame
from tests.fakes import accepted, received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from plexus_registry.server.websocket import WebSocket

PONG = 0xA


@dataclass
class CheckedConnection:
    """One connection that the heartbeat checks, and its peer's end."""

    websocket: WebSocket
    peer: trio.abc.Stream
    scope: trio.CancelScope
    refused: Counter[str]

    async def next_frame(self) -> tuple[int, bytes]:
        """Read a short frame that the server sends: its opcode and its payload."""
        head = await self.read(2)
        return head[0] & 0xF, await self.read(head[1])

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.peer.receive_some(size - len(data))
            assert more, "the server hung up"
            data += more
        return data


@asynccontextmanager
async def checked(
    *, ping_interval: float = 30, unread_seconds: float = 10
) -> AsyncIterator[CheckedConnection]:
    refused: Counter[str] = Counter()
    heartbeat = Heartbeat(
        ping_interval=ping_interval,
        unread_seconds=unread_seconds,
        max_message_bytes=1000,
        refused=refused,
        log_throttle=LogThrottle(),
    )
    server, peer = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        await nursery.start(heartbeat.check_forever)
        async with trio.open_nursery() as connection:
            websocket = await accepted(connection, server)
            ours = CheckedConnection(websocket, peer, connection.cancel_scope, refused)
            while b"\r\n\r\n" not in await peer.receive_some():
                pass
            watched = heartbeat.add(websocket, "peer", connection.cancel_scope.cancel)
            yield ours
            heartbeat.remove(watched)
            connection.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_an_idle_peer_is_pinged_and_stays_as_long_as_it_answers(
    autojump_clock: MockClock,
) -> None:
    async with checked() as connection:
        for number in range(1, 6):
            opcode, payload = await connection.next_frame()
            assert opcode == PING
            assert trio.current_time() == pytest.approx(30 * number + 1, abs=2)
            await connection.peer.send_all(frame(PONG, payload))
        assert not connection.scope.cancel_called
        assert not connection.refused


async def test_a_silent_peer_gets_a_close_frame_after_two_missed_pongs(
    autojump_clock: MockClock,
) -> None:
    async with checked() as connection:
        start = trio.current_time()
        pings = [await connection.next_frame() for _ in range(2)]
        assert [opcode for opcode, _ in pings] == [PING, PING]
        opcode, payload = await connection.next_frame()
        assert opcode == CLOSE
        assert payload[:2] == (1011).to_bytes(2, "big")
        assert trio.current_time() - start == pytest.approx(91, abs=2)
        await connection.peer.send_all(frame(CLOSE, payload))
        with pytest.raises(ConnectionClosed):
            await received(connection.websocket)
        assert connection.refused == {"pings": 1}
    assert connection.scope.cancel_called


async def test_a_peer_that_sends_fragments_without_end_gets_a_close_frame(
    autojump_clock: MockClock,
) -> None:
    async with checked() as connection:
        await connection.peer.send_all(frame(TEXT, b"", last=False))
        for _ in range(17):
            await connection.peer.send_all(frame(0, b"", last=False) * 1000)
        opcode, payload = await connection.next_frame()
        assert opcode == CLOSE
        assert payload == (1008).to_bytes(2, "big") + b"a message may come in 16384 fragments"
        await trio.sleep(3)
        assert connection.scope.cancel_called
        assert connection.refused == {"fragments": 1}


async def test_the_fragments_of_a_valid_message_are_accepted(autojump_clock: MockClock) -> None:
    async with checked() as connection:
        await connection.peer.send_all(frame(TEXT, b"", last=False))
        for _ in range(16):
            await connection.peer.send_all(frame(0, b"", last=False) * 1000)
        await trio.sleep(20)  # the heartbeat looks at it
        assert not connection.scope.cancel_called
        await connection.peer.send_all(frame(0, b"{}"))
        assert await received(connection.websocket) == "{}"
        assert not connection.refused


async def test_nothing_follows_the_goodbye_for_a_broken_protocol(
    autojump_clock: MockClock,
) -> None:
    async with checked() as connection:
        await connection.peer.send_all(frame(TEXT, b"{}") + frame(TEXT, b"", reserved=4))
        assert await received(connection.websocket) == "{}"
        opcode, payload = await connection.next_frame()
        assert (opcode, payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))
        with pytest.raises((ConnectionClosed, trio.BrokenResourceError)):
            await connection.websocket.send(["too late"])


async def test_a_peer_that_asks_is_not_pinged(autojump_clock: MockClock) -> None:
    async with checked() as connection:
        for _ in range(10):
            await trio.sleep(20)
            await connection.peer.send_all(frame(TEXT, b"hello"))
            await received(connection.websocket)
        with trio.move_on_after(0.5):
            pytest.fail(f"it got {await connection.next_frame()}")


async def test_a_late_pong_counts(autojump_clock: MockClock) -> None:
    async with checked() as connection:
        _, first = await connection.next_frame()
        opcode, _ = await connection.next_frame()
        assert opcode == PING
        await connection.peer.send_all(frame(PONG, first))
        await connection.next_frame()
        opcode, payload = await connection.next_frame()
        assert opcode == PING
        await connection.peer.send_all(frame(PONG, payload))
        await trio.sleep(20)
        assert not connection.scope.cancel_called


class Stuck(trio.abc.Stream):
    """A stream whose peer takes only so many sends."""

    def __init__(self, stream: trio.abc.Stream, takes: int) -> None:
        self._stream = stream
        self._takes = takes
        self.pause = 0.0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002
        if self._takes <= 0:
            await trio.sleep_forever()
        self._takes -= 1
        await trio.sleep(self.pause)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("pieces", [1, 5])
async def test_a_peer_that_reads_nothing_for_a_while_is_cut_off(
    autojump_clock: MockClock, pieces: int
) -> None:
    refused: Counter[str] = Counter()
    heartbeat = Heartbeat(
        ping_interval=30,
        unread_seconds=10,
        max_message_bytes=1000,
        refused=refused,
        log_throttle=LogThrottle(),
    )
    server, _peer = memory_stream_pair()
    stuck = Stuck(server, takes=pieces)
    stuck.pause = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(heartbeat.check_forever)
        async with trio.open_nursery() as connection:
            websocket = await accepted(connection, stuck)
            stuck.pause = 8  # slow, but it takes some in time
            heartbeat.add(websocket, "peer", connection.cancel_scope.cancel)
            await websocket.send(["x" * PIECE_BYTES * 20])
        assert trio.current_time() == pytest.approx(8 * (pieces - 1) + 10.5, abs=1.5)
        assert refused == {"unread_seconds": 1}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pause", [None, 1])
async def test_a_peer_that_holds_up_others_is_cut_off(
    autojump_clock: MockClock, pause: int | None
) -> None:
    refused: Counter[str] = Counter()
    heartbeat = Heartbeat(
        ping_interval=99,
        unread_seconds=10,
        max_message_bytes=1000,
        refused=refused,
        log_throttle=LogThrottle(),
    )
    server, _peer = memory_stream_pair()
    stuck = Stuck(server, takes=1 if pause is None else 99)
    fairness = Fairness(max_unread=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(heartbeat.check_forever)
        async with trio.open_nursery() as connection:
            websocket = await accepted(connection, stuck, fairness=fairness)
            stuck.pause = pause or 0
            heartbeat.add(websocket, "peer", connection.cancel_scope.cancel)
            text = "x" * PIECE_BYTES * 50
            held = websocket.share.hold(text)
            connection.start_soon(websocket.send, [text])
            await trio.sleep(4.5)
            assert not connection.cancel_scope.cancel_called, "nobody waits"
            nursery.start_soon(fairness.wait_for_room)
        assert trio.current_time() == pytest.approx(6.5 if pause is None else 14.5, abs=1.5)
        assert refused == {"unread_total": 1}
        websocket.share.release(held)
        nursery.cancel_scope.cancel()


async def test_the_pings_of_many_are_spread(autojump_clock: MockClock) -> None:
    heartbeat = Heartbeat(
        ping_interval=30,
        unread_seconds=10,
        max_message_bytes=1000,
        refused=Counter(),
        log_throttle=LogThrottle(),
    )
    turns = Counter(
        heartbeat.add(None, "peer", lambda: None).turn  # type: ignore[arg-type]  # not looked at
        for _ in range(300)
    )
    assert set(turns.values()) == {10}
    assert len(turns) == 30
