"""Stand-ins at the seams: no threads, a disk that fails, and a peer that does not read."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.app import open_registry
from plexus_registry.rpc.fairness import Caller, Fairness, Share
from plexus_registry.server.connection import Watchers, serve_connection
from plexus_registry.server.handshake import accept_websocket
from plexus_registry.server.websocket import WebSocket
from plexus_registry.settings import Settings
from plexus_registry.websocket_frames import FrameReader
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


class ScriptedWebSocket:
    """A WebSocket whose peer reads when it is told to."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.start_soon = nursery.start_soon
        self.caller = Caller()
        self.was_heard = False
        self.frames: list[str] = []
        self.barrier: trio.Event | None = None
        self.share = Share(Fairness())
        self.is_gone = False
        self.is_whole = True
        self.is_in_message = False
        self.sent = 0
        self.sending: int | None = None
        self.say, self._heard = trio.open_memory_channel[str](100)
        self._next: str | None = None
        self._queue: list[str] = []

    def read(self) -> str | None:
        message, self._next = self._next, None
        return message

    def queue(self, frames: Sequence[str]) -> None:
        self._queue += frames

    queued = 0

    def send_at_once(self, messages: Sequence[str | bytes]) -> bool:
        self.queue(texts_of(messages))
        if self.barrier is None:
            self.frames += self._queue
            self._queue.clear()
        return self.barrier is None

    async def flush(self) -> None:
        if self._queue:
            await self.send(())

    async def wait(self) -> None:
        try:
            self._next = await self._heard.receive()
        except trio.EndOfChannel:
            raise ConnectionClosed(None) from None

    async def send(self, messages: Sequence[str | bytes]) -> None:
        frames = (*self._queue, *texts_of(messages))
        self._queue.clear()
        await trio.lowlevel.checkpoint()
        self.sent += 1
        self.sending = self.sent
        if self.barrier is not None:
            await self.barrier.wait()
        self.sending = None
        self.frames += frames

    async def send_part(self, text: str, *, is_first: bool, is_last: bool) -> None:
        """Join the parts of one message."""
        await self.send([text] if is_first else [])
        if not is_first:
            self.frames[-1] += text
        self.is_whole = is_last
        self.is_in_message = not is_last

    async def close(self, code: int = 1000, reason: str | None = None) -> None:  # noqa: ARG002
        await self.flush()


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
    registry: Registry, hub: Hub, websocket: ScriptedWebSocket, shutdown: Shutdown
) -> None:
    """Serve a connection, as the only one of its registry."""
    watchers = Watchers(registry, Fairness())
    async with trio.open_nursery() as nursery:
        await nursery.start(watchers.send_forever)
        await serve_connection(registry, hub, websocket, shutdown, watchers)  # type: ignore[arg-type]  # a script
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
