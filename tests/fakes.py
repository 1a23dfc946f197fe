"""Stand-ins at the seams: no threads, a disk that fails, and a peer that does not read."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING, TypeVar

import trio
from trio.testing import memory_stream_pair

from plexus_registry.app import open_registry
from plexus_registry.rpc.fairness import Caller, Fairness
from plexus_registry.server.connection import Watchers, serve_connection
from plexus_registry.server.handshake import accept_websocket
from plexus_registry.server.websocket import WebSocket
from plexus_registry.settings import Settings
from plexus_registry.websocket_frames import (
    CloseFrame,
    FrameReader,
    Opcode,
    encode_close,
    encode_frame,
)
from tests.e2e.raw import HEAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from plexus_registry.health.network import Network
    from plexus_registry.registry import Registry
    from plexus_registry.rpc.handler import Handler
    from plexus_registry.rpc.plexus import Hub
    from plexus_registry.server.handshake import Shutdown

T = TypeVar("T")
MASK = bytes(4)


async def run_inline(sync_fn: Callable[[], T], /) -> T:
    """Run blocking work in place: a virtual clock takes a worker thread for idleness."""
    await trio.lowlevel.checkpoint()
    return sync_fn()


class Disk:
    """Runs the registry's blocking work, and can make it fail or wait.

    Attributes:
        is_full: Whether work fails as on a full disk.
        is_lying: Whether work is said to fail though it was done.
        barrier: While it is set to an event, work waits for that event first.
        late_barrier: While it is set to an event, work that is done waits for it before it returns.
        saves: How many pieces of work were run.
    """

    def __init__(self) -> None:
        self.is_full = False
        self.is_lying = False
        self.barrier: trio.Event | None = None
        self.late_barrier: trio.Event | None = None
        self.reached_barrier = trio.Event()
        self.saves = 0

    async def __call__(self, sync_fn: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        if self.barrier is not None:
            self.reached_barrier.set()
            await self.barrier.wait()
        if self.is_full:
            raise sqlite3.OperationalError("database or disk is full")
        self.saves += 1
        done = sync_fn()
        if self.late_barrier is not None:
            self.reached_barrier.set()
            await self.late_barrier.wait()
        if self.is_lying:
            raise sqlite3.OperationalError("disk I/O error")
        return done


class Clock:
    """A wall clock that shows what it is told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000

    def __call__(self) -> int:
        return self.now


class ScriptedPeer:
    """The client's end of a WebSocket, which reads when it is told to.

    Attributes:
        websocket: The server's end.
        frames: The messages that came.
        barrier: While it is set to an event, the peer reads nothing until that event.
    """

    def __init__(self, nursery: trio.Nursery, fairness: Fairness | None = None) -> None:
        server, self._end = memory_stream_pair()
        self._reader = FrameReader(is_peer_client=False)
        self.frames: list[str] = []
        self.barrier: trio.Event | None = None
        self.websocket = WebSocket(
            trio.StapledStream(_BehindBarrier(self, server), server),
            nursery,
            FrameReader(is_peer_client=True),
            Caller(),
            fairness or Fairness(),
        )
        nursery.start_soon(self._listen)

    async def say(self, text: str) -> None:
        """Send a message."""
        await self._end.send_all(encode_frame(Opcode.TEXT, text.encode(), mask=MASK))

    async def leave(self) -> None:
        """Hang up."""
        await self._end.aclose()

    @property
    def is_between_messages(self) -> bool:
        """Whether every message that came is complete."""
        return not self._reader.fragments

    async def _listen(self) -> None:
        with (
            suppress(trio.ClosedResourceError, trio.BrokenResourceError),
            closing(self._end.send_stream),  # else the server waits for an answer to its goodbye
        ):
            while data := await self._end.receive_some():
                self._reader.feed(data)
                while (message := self._reader.read()) is not None:
                    if isinstance(message, CloseFrame):
                        await self._end.send_all(encode_close(message.code, mask=MASK))
                    else:
                        assert isinstance(message, str)
                        self.frames.append(message)


class _BehindBarrier(trio.abc.SendStream):
    """A stream to a peer that may not read."""

    def __init__(self, peer: ScriptedPeer, stream: trio.abc.SendStream) -> None:
        self._peer = peer
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._peer.barrier is not None:
            await self._peer.barrier.wait()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def opened(
    folder: Path,
    disk: Disk | None = None,
    *,
    stale_after: float = 60.0,
    now: Clock | None = None,
    network: Network | None = None,
    probe_interval: float = 0.0,
    probe_failures: int = 3,
    keep_changes: int = 10_000,
    start_empty: bool = False,
    auto_register: bool = False,
    env_backends: str = "",
) -> AsyncIterator[Registry]:
    """Open a registry on a folder, without worker threads."""
    clock = now or Clock()
    settings = Settings(
        db_path=folder / "registry.db",
        config_path=folder / "backends.toml",
        start_empty=start_empty,
        keep_changes=keep_changes,
        auto_register=auto_register,
        env_backends=env_backends,
        stale_after=stale_after,
        probe_interval=probe_interval,
        probe_failures=probe_failures,
    )
    async with open_registry(
        settings,
        run_sync=disk or run_inline,
        now=clock,
        now_ms=lambda: clock() * 1000,
        network=network,
    ) as registry:
        yield registry


def entry(name: str, port: int = 1) -> str:
    """One entry of a config file."""
    return f'[[backend]]\nname = "{name}"\nhost = "h"\nport = {port}\n'


async def answered(responder: Handler, frame: str | bytes) -> list[str]:
    """Have a frame answered, whether or not the answer takes a wait."""
    answer = responder.answer(frame)
    return answer if isinstance(answer, list) else await answer


async def accepted(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    *,
    max_message_bytes: int = 1000,
    fairness: Fairness | None = None,
) -> WebSocket:
    """Accept a WebSocket on a stream."""
    assert await accept_websocket(stream, HEAD)
    reader = FrameReader(is_peer_client=True, max_message_bytes=max_message_bytes)
    return WebSocket(stream, nursery, reader, Caller(), fairness or Fairness())


async def serve_scripted(
    registry: Registry, hub: Hub, peer: ScriptedPeer, shutdown: Shutdown
) -> None:
    """Serve the connection of a peer, as the only one of its registry."""
    watchers = Watchers(registry, Fairness())
    async with trio.open_nursery() as nursery:
        await nursery.start(watchers.send_forever)
        await serve_connection(registry, hub, peer.websocket, shutdown, watchers)
        await peer.websocket.close()
        nursery.cancel_scope.cancel()


def texts_of(messages: Sequence[str | bytes]) -> list[str]:
    """Decode the messages that are encoded as frames."""
    texts: list[str] = []
    for each in messages:
        if isinstance(each, str):
            texts.append(each)
            continue
        reader = FrameReader(is_peer_client=False)
        reader.feed(each)
        while (text := reader.read()) is not None:
            assert isinstance(text, str)
            texts.append(text)
    return texts


async def received(websocket: WebSocket) -> str | bytes:
    """Wait for the next message."""
    while (message := websocket.read()) is None:
        await websocket.flush()
        await websocket.wait()
    return message
