"""Hubs without sockets, for virtual time: the real probe talks to them over memory streams."""

from __future__ import annotations

import errno
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from trio.testing import memory_stream_pair
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage

from plexus_registry.health.network import SocketAddress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

HASH = "0f1e2d3c4b5a6978"
RECEIVE_BYTES = 4096


def info_frames(name: str, version: str = "1.0", schema_hash: str = HASH) -> list[str]:
    """The frames that answer `_info`."""
    metadata = {"provenance": [name], "plexus_hash": schema_hash, "timestamp": 1}
    content = {"backend": name, "version": version}
    items = [
        {"type": "data", "metadata": metadata, "content_type": "_info", "content": content},
        {"type": "done", "metadata": metadata},
    ]
    return [
        '{"jsonrpc":"2.0","id":1,"result":7}',
        *(
            json.dumps(
                {
                    "jsonrpc": "2.0",
                    "method": "result",
                    "params": {"subscription": 7, "result": item},
                }
            )
            for item in items
        ),
    ]


@dataclass
class Hub:
    """One hub of a test.

    Attributes:
        name: What it calls itself.
        schema_hash: The hash of its schema.
        behave: How it treats whoever connects; by default as a hub does.
        asked: When it was connected to.
    """

    name: str
    schema_hash: str = HASH
    version: str = "1.0"
    behave: Callable[[Hub, trio.abc.Stream], Awaitable[None]] | None = None
    asked: list[float] = field(default_factory=list)


async def answer(hub: Hub, stream: trio.abc.Stream) -> None:
    """Answer `_info` as a hub does."""
    ws = WSConnection(ConnectionType.SERVER)
    while data := await stream.receive_some(RECEIVE_BYTES):
        ws.receive_data(bytes(data))
        for event in ws.events():
            if isinstance(event, Request):
                await stream.send_all(ws.send(AcceptConnection()))
            elif isinstance(event, TextMessage):
                frames = info_frames(hub.name, hub.version, hub.schema_hash)
                await stream.send_all(b"".join(ws.send(TextMessage(each)) for each in frames))


async def want_credential(_hub: Hub, stream: trio.abc.Stream) -> None:
    """Answer the handshake with status 401."""
    await stream.receive_some(RECEIVE_BYTES)
    await stream.send_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")


async def hang(_hub: Hub, stream: trio.abc.Stream) -> None:
    """Accept, and say nothing."""
    while await stream.receive_some(RECEIVE_BYTES):
        pass


async def hang_up(_hub: Hub, stream: trio.abc.Stream) -> None:
    """Close in the middle of the handshake."""
    await stream.receive_some(RECEIVE_BYTES)
    await stream.send_all(b"HTTP/1.1 101 Switching")


async def talk_on(_hub: Hub, stream: trio.abc.Stream) -> None:
    """Send bytes, slowly, without end."""
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.1)


async def flood(_hub: Hub, stream: trio.abc.Stream) -> None:
    """Send bytes, fast, without end."""
    while True:
        await stream.send_all(b"x" * RECEIVE_BYTES)


def answer_after(seconds: float) -> Callable[[Hub, trio.abc.Stream], Awaitable[None]]:
    """Answer, but late."""

    async def behave(hub: Hub, stream: trio.abc.Stream) -> None:
        await trio.sleep(seconds)
        await answer(hub, stream)

    return behave


class MemoryNetwork:
    """A network of such hubs.

    Attributes:
        hubs: Who listens, by port.
        names: The addresses of host names.
        is_down: Whether nothing can be reached.
        open_streams: How many connections there are now.
        most_streams: How many there were at most.
        resolved: The names that were looked up.
    """

    def __init__(self, nursery: trio.Nursery, hubs: Iterable[tuple[int, Hub]] = ()) -> None:
        self.hubs = dict(hubs)
        self.names: dict[str, list[str]] = {}
        self.is_down = False
        self.connections = 0
        self.open_streams = 0
        self.most_streams = 0
        self.resolved: list[str] = []
        self._nursery = nursery

    async def resolve(self, host: str, port: int, begun: Callable[[], None]) -> list[SocketAddress]:
        await trio.lowlevel.checkpoint()
        begun()
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [SocketAddress(socket.AF_INET, each, port) for each in self.names[host]]

    async def connect(self, address: SocketAddress) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.connections += 1
        hub = self.hubs.get(address.port)
        if self.is_down:
            raise OSError(errno.ENETUNREACH, "unreachable")
        if hub is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        hub.asked.append(trio.current_time())
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._serve, hub, theirs)
        return ours

    async def _serve(self, hub: Hub, stream: trio.abc.Stream) -> None:
        self.open_streams += 1
        self.most_streams = max(self.most_streams, self.open_streams)
        try:
            await (hub.behave or answer)(hub, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            self.open_streams -= 1
            await trio.aclose_forcefully(stream)
