"""Bare TCP to a registry: what no WebSocket library would send, and what it gets."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT, CLOSE, PING = 0x1, 0x8, 0x9
HEAD = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
"""A valid opening handshake. Source: RFC 6455, section 1.3."""


def frame(
    opcode: int,
    payload: bytes,
    *,
    last: bool = True,
    masked: bool = True,
    reserved: int = 0,
    length: int | None = None,
) -> bytes:
    """Build a frame as a client sends it, valid or not. Source: RFC 6455, section 5.2.

    Args:
        opcode: What kind it is.
        payload: The data, masked with zeros and so unchanged.
        last: The FIN bit.
        masked: Whether it is masked, as a client's frames must be.
        reserved: The three reserved bits.
        length: The length that is announced, where it is not the payload's.
    """
    announced = len(payload) if length is None else length
    head = bytes([last << 7 | reserved << 4 | opcode])
    bit = masked << 7
    if announced < 126:
        head += bytes([bit | announced])
    elif announced < 1 << 16:
        head += struct.pack("!BH", bit | 126, announced)
    else:
        head += struct.pack("!BQ", bit | 127, announced)
    return head + bytes(4 * masked) + payload


@dataclass(frozen=True)
class Reply:
    """One HTTP answer; the header fields are in lower case."""

    status: int
    fields: dict[str, str]
    body: str


@dataclass
class WebSocket:
    """One TCP connection to a registry."""

    stream: trio.SocketStream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def open_websocket(self) -> None:
        """Send the opening handshake, and wait for its answer."""
        await self.send(HEAD)
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = await self.stream.receive_some()
            assert data, answer
            answer += data
        assert answer.startswith(b"HTTP/1.1 101"), answer

    async def ask(self, target: str = "/", *, method: str = "GET", **fields: str) -> Reply:
        """Send a plain request that keeps the connection open, and give its answer."""
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{n.replace('_', '-')}: {v}" for n, v in {"Host": "localhost", **fields}.items()]
        await self.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
        return await self.reply(has_body=method != "HEAD")

    async def reply(self, *, has_body: bool = True) -> Reply:
        """Read one answer, and not a byte more than it has."""
        received = b""
        while b"\r\n\r\n" not in received:
            data = await self.stream.receive_some(1)
            assert data, received
            received += data
        status, *lines = received.decode().splitlines()[:-1]
        fields = dict(line.lower().split(": ", 1) for line in lines)
        length = int(fields.get("content-length", 0)) if has_body else 0
        body = b""
        while len(body) < length:
            body += await self.stream.receive_some(length - len(body))
        return Reply(int(status.split()[1]), fields, body.decode())

    async def read_to_the_end(self) -> bytes:
        """Give everything that the server sends until it closes."""
        received = b""
        while data := await self.stream.receive_some():
            received += data
        return received


@asynccontextmanager
async def wire_to(
    port: int, *, host: str = "127.0.0.1", receive_buffer: int | None = None
) -> AsyncIterator[WebSocket]:
    """Connect to a port of this machine; at the end the connection is cut, not closed.

    Args:
        port: The port.
        host: The address.
        receive_buffer: The bytes that the kernel may take in for us while we do not read.
    """
    with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await plain.connect((host, port))
        yield WebSocket(trio.SocketStream(plain))
