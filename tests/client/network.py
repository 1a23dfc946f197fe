"""A network without sockets, for virtual time: the real client and the real server in one loop.

It can refuse, freeze, and cut a connection after any number of bytes in either direction.
"""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from trio.testing import memory_stream_pair

from plexus_registry.app import serve
from plexus_registry.server import listener
from plexus_registry.settings import Settings
from tests.fakes import opened

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from plexus_registry.registry import Registry

URL = "ws://registry:4445"
Serve = Callable[[str], AbstractAsyncContextManager["Registry"]]


class Network:
    """All connections of a test.

    Attributes:
        dialled: When each attempt to connect was made.
        is_frozen: Whether nothing comes back any more.
        cut_sending_at: How many bytes the next connection carries to the server.
        cut_receiving_at: How many bytes the next connection carries to the client.
        last: The last connection.
    """

    def __init__(self) -> None:
        self.dialled: list[float] = []
        self.is_frozen = False
        self.cut_sending_at: float = math.inf
        self.cut_receiving_at: float = math.inf
        self.last: Connection | None = None
        self.listener: Listener | None = None

    async def open_tcp_stream(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled.append(trio.current_time())
        ours, theirs = memory_stream_pair()
        if self.listener is not None:
            self.listener.accepted.send_nowait(theirs)
        elif not self.is_frozen:
            raise OSError(f"all attempts to connect to {host}:{port} failed") from OSError(
                errno.ECONNREFUSED, "Error connecting"
            )
        self.last = Connection(ours, theirs, self)
        self.cut_sending_at = self.cut_receiving_at = math.inf
        return self.last

    async def open_listeners(self, _host: str, _port: int) -> list[Listener]:
        await trio.lowlevel.checkpoint()
        self.listener = Listener(self)
        return [self.listener]


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """Where a server waits for its peers."""

    def __init__(self, network: Network) -> None:
        self.accepted, self._streams = trio.open_memory_channel[trio.abc.Stream](math.inf)
        self._network = network
        self.socket = self

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 4445

    async def accept(self) -> trio.abc.Stream:
        return await self._streams.receive()

    def close(self) -> None:
        if self._network.listener is self:
            self._network.listener = None

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Connection(trio.abc.Stream):
    """A client's end."""

    def __init__(self, ours: trio.abc.Stream, theirs: trio.abc.Stream, network: Network) -> None:
        self._stream = ours
        self._peer = theirs
        self._network = network
        self._may_send = network.cut_sending_at
        self._may_receive = network.cut_receiving_at
        self.sent = 0
        self.received = 0

    async def cut(self) -> None:
        await trio.aclose_forcefully(self._peer)
        await trio.aclose_forcefully(self._stream)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        whole = len(data) <= self._may_send - self.sent
        part = data if whole else data[: int(self._may_send - self.sent)]
        self.sent += len(part)
        await self._stream.send_all(part)
        if not whole:
            await self.cut()
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        left = self._may_receive - self.received
        if left <= 0:
            await self.cut()
            raise trio.BrokenResourceError
        size = 1 << 16 if max_bytes is None else max_bytes
        data = await self._stream.receive_some(int(min(left, size)))
        self.received += len(data)
        if self._network.is_frozen:
            await trio.sleep_forever()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


def install(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Have client and server use a network of their own."""
    network = Network()
    monkeypatch.setattr(trio, "open_tcp_stream", network.open_tcp_stream)
    monkeypatch.setattr(listener, "_bind", network.open_listeners)
    return network


@dataclass
class Server:
    """A registry that can be killed at any time."""

    registry: Registry
    scope: trio.CancelScope
    is_gone: trio.Event = field(default_factory=trio.Event)

    async def kill(self) -> None:
        self.scope.cancel()
        await self.is_gone.wait()


async def serve_until_killed(folder: Path, *, task_status: trio.TaskStatus[Server]) -> None:
    """Serve the registry of a folder in a task of its own."""
    with trio.CancelScope() as scope:
        async with serving(folder) as registry:
            server = Server(registry, scope)
            task_status.started(server)
            await trio.sleep_forever()
    server.is_gone.set()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Registry]:
    """Serve the registry of a folder on the installed network; killed at the end."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - a test's
    settings = Settings(
        host="registry", db_path=folder / "registry.db", config_path=folder / "backends.toml"
    )
    async with opened(folder) as registry, trio.open_nursery() as nursery:
        await nursery.start(serve, registry, settings)
        yield registry
        nursery.cancel_scope.cancel()
