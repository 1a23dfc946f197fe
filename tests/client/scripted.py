"""A peer that says what a test tells it to, on a stream in memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio
from trio.testing import memory_stream_pair
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Request,
    TextMessage,
)

from plexus_registry.client.connection import RegistryClient, run_client
from plexus_registry.client.socket import parse_url, shake_hands

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URL = "ws://registry:4445/path?query"

BACKEND: dict[str, object] = {
    "id": "1",
    "name": "hub",
    "host": "h",
    "port": 1,
    "protocol": "ws",
    "source": "manual",
    "is_active": True,
    "registered_at": 1,
    "created_at": 1,
    "updated_at": 1,
}
PINGED: dict[str, object] = {
    "type": "ping",
    "name": "hub",
    "success": True,
    "message": "Backend health check updated",
}

_ORIGINAL_BACKEND = (
    '{"id":"11111111-1111-4111-8111-111111111111","name":"alpha","host":"127.0.0.1","port":5001,'
    '"protocol":"ws","source":"manual","is_active":true,"registered_at":1700000000,'
    '"created_at":1700000000,"updated_at":1700000000}'
)
ORIGINAL_ANSWERS = {
    "list": f'{{"type":"backends","backends":[{_ORIGINAL_BACKEND}]}}',
    "get": f'{{"type":"backend","backend":{_ORIGINAL_BACKEND}}}',
    "register": f'{{"type":"backend_registered","backend":{_ORIGINAL_BACKEND}}}',
    "update": f'{{"type":"backend_updated","backend":{_ORIGINAL_BACKEND}}}',
    "delete": '{"type":"backend_deleted","name":"alpha"}',
    "deregister": '{"type":"backend_deregistered","name":"alpha"}',
    "ping": '{"type":"ping","name":"alpha","success":true,'
    '"message":"Backend health check updated"}',
    "reload": '{"type":"reloaded","count":1}',
}
"""What the original registry, in Rust, answers to each of its methods."""
ORIGINAL_REFUSAL = '{"type":"error","message":"Backend not found: alpha"}'


class ScriptedPeer:
    """The server's end of a WebSocket.

    Attributes:
        request: The handshake that came, once `accept` is done.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.SERVER)
        self.request: Request | None = None

    async def accept(self) -> None:
        event = await self.event()
        assert isinstance(event, Request)
        self.request = event
        await self.send_event(AcceptConnection())

    async def event(self) -> Event:
        """The next event, whatever it is."""
        while True:
            for event in self.ws.events():
                return event
            data = await self.stream.receive_some()
            self.ws.receive_data(bytes(data) or None)

    async def receive(self) -> dict[str, object]:
        """The next request."""
        event = await self.event()
        assert isinstance(event, TextMessage), event
        value = msgspec.json.decode(event.data)
        assert isinstance(value, dict)
        return value

    async def send_event(self, *events: Event) -> None:
        await self.stream.send_all(b"".join(map(self.ws.send, events)))

    async def send(self, *texts: str) -> None:
        """Send frames, all in one packet."""
        await self.send_event(*map(TextMessage, texts))

    async def answer(self, request: dict[str, object], result: object) -> None:
        await self.send(response(request, result))

    async def refuse(self, request: dict[str, object], code: int, **error: object) -> None:
        detail = {"code": code, "message": "no", **error}
        await self.send(encode({"jsonrpc": "2.0", "id": request["id"], "error": detail}))

    async def close(self, code: int, reason: str | None = None) -> None:
        await self.send_event(CloseConnection(code, reason))


def encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def response(request: dict[str, object], result: object) -> str:
    return encode({"jsonrpc": "2.0", "id": request["id"], "result": result})


def event_frame(subscription: int, event: dict[str, object]) -> str:
    params = {"subscription": subscription, "result": event}
    return encode({"jsonrpc": "2.0", "method": "registry.event", "params": params})


@asynccontextmanager
async def scripted(
    *, token: str | None = None
) -> AsyncIterator[tuple[RegistryClient, ScriptedPeer]]:
    """A client and the peer it is connected to; the peer leaves first."""
    async with scripted_for(5, token=token) as ends:
        yield ends


@asynccontextmanager
async def scripted_for(
    seconds: float, *, token: str | None = None
) -> AsyncIterator[tuple[RegistryClient, ScriptedPeer]]:
    """The same, where a test on virtual time takes longer."""
    ours, theirs = memory_stream_pair()
    peer = ScriptedPeer(theirs)
    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.accept)
            socket = await shake_hands(ours, parse_url(URL), token=token)
        async with run_client(socket) as client:
            try:
                yield client, peer
            finally:
                await trio.aclose_forcefully(theirs)
