"""Connections that are no WebSocket, or a bad one, end within limits and harm nobody else."""

from __future__ import annotations

import ssl
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import (
    Peer,
    dial,
    eventually,
    running_registry,
    shared_registry,
    with_prelude,
)
from tests.e2e.raw import CLOSE, HEAD, PING, TEXT, frame, wire_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALL = b'{"jsonrpc":"2.0","id":1,"method":"registry.get","params":["a"]}'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with shared_registry(tmp_path_factory.mktemp("server"), "--no-auto-register") as url:
        yield url


@pytest.fixture
def port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def still_serves(url: str) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            assert await peer.names() == []


def client_hello() -> bytes:
    """The first bytes of a client that takes the port for a `wss://` one."""
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="h")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


PLAIN = {
    "GET": (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", 200),
    "bare line feeds": (b"GET / HTTP/1.0\nHost: localhost\n\n", 200),
    "other page": (b"GET /nothing HTTP/1.0\r\n\r\n", 404),
    "other upgrade": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\n\r\n",
        200,
    ),
    "POST": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(CALL), CALL),
        415,
    ),
    "large body": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        415,
    ),
}


@pytest.mark.parametrize(("sent", "status"), PLAIN.values(), ids=PLAIN)
async def test_plain_http_is_told_what_this_is(
    url: str, port: int, sent: bytes, status: int
) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            await wire.send(sent)
            with trio.fail_after(4):
                answer = await wire.read_to_the_end()
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *fields = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 %d " % status)
        assert b"Content-Length: %d" % len(body) in fields
        assert b"WebSocket" in body
        await still_serves(url)


BAD_HANDSHAKES = {
    "no key": HEAD.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
    "old version": HEAD.replace(b"Version: 13", b"Version: 8"),
    "no connection field": HEAD.replace(b"Connection: Upgrade\r\n", b""),
    "POST": HEAD.replace(b"GET", b"POST"),
    "no host": HEAD.replace(b"Host: localhost\r\n", b""),
    "bad field": HEAD.replace(b"Host: localhost", b"Host: localhost\r\nb\x00d: \xff"),
    "no HTTP": b"hello\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("head", BAD_HANDSHAKES.values(), ids=BAD_HANDSHAKES)
async def test_a_bad_handshake_is_refused_at_once(url: str, port: int, head: bytes) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            await wire.send(head)
            with trio.fail_after(4):
                answer = await wire.read_to_the_end()
        assert answer.startswith(b"HTTP/1.1 4")
        await still_serves(url)


async def trickle(port: int) -> None:
    """Send a head that never ends, one byte at a time, as long as anyone listens."""
    async with wire_to(port) as wire:
        with pytest.raises(trio.BrokenResourceError):
            await send_on_and_on(wire.stream)


async def send_on_and_on(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET / HTTP/1.1\r\nX: ")
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.05)


async def wait_for_the_end(port: int, sent: bytes, answer: bytes) -> None:
    async with wire_to(port) as wire:
        await wire.send(sent)
        received = await wire.read_to_the_end()
        assert received.startswith(answer)
        assert bool(received) == bool(answer)


async def test_what_never_becomes_a_request_is_cut_off(tmp_path: Path) -> None:
    hasty = with_prelude("import plexus_registry.server.handshake as d; d.HEAD_SECONDS = 0.5")
    garbage = bytes(number * 7919 % 256 for number in range(8000)).replace(b"\n", b" ")
    slow = b"HTTP/1.1 408 "
    heads = {b"": b"", b"GET / HTTP/1.1\r\n": slow, garbage[1:]: slow, HEAD[:-2]: slow}
    with trio.fail_after(20):
        async with running_registry(tmp_path, "--no-auto-register", command=hasty) as server:
            with trio.fail_after(3.5):
                async with trio.open_nursery() as nursery:
                    for head, answer in heads.items():
                        nursery.start_soon(wait_for_the_end, server.port, head, answer)
                    nursery.start_soon(trickle, server.port)
                    await still_serves(server.url)
            await still_serves(server.url)
            assert await server.stop() == 0
        assert "Traceback" not in server.log


NO_REQUESTS = {
    "zero": (b"\x00", 400),
    "TLS": (b"\x16\x03\x01", 400),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    "garbage with a line end": (bytes(range(33, 256)) + b"\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "space before a colon": (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "another server's target": (b"GET http://h/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "long head": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"Cookie: a=b\r\n" * 2000 + b"\r\n",
        431,
    ),
    "endless head": (b"GET / HTTP/1.1\r\n" + b"Cookie: a=b\r\n" * 3000, 431),
    "long first line": (b"GET /" + b"a" * 20_000, 431),
}


@pytest.mark.parametrize(("sent", "status"), NO_REQUESTS.values(), ids=NO_REQUESTS)
async def test_what_is_no_request_is_answered_at_once(
    url: str, port: int, sent: bytes, status: int
) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            await wire.send(sent)
            with trio.fail_after(4):
                answer = await wire.read_to_the_end()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        await still_serves(url)


async def test_tls_on_the_plain_port_is_told_at_once(url: str, port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            await wire.send(client_hello())
            with trio.fail_after(4):
                assert b"speaks plain HTTP" in await wire.read_to_the_end()
        await still_serves(url)


BAD_FRAMES = {
    "text is not UTF-8": (frame(TEXT, b'"\xff"'), 1007),
    "text is cut UTF-8": (frame(TEXT, b'"\xc3', last=False) + frame(0, b'"'), 1007),
    "surrogate as UTF-8": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "not masked": (frame(TEXT, CALL, masked=False), 1002),
    "reserved bit": (frame(TEXT, CALL, reserved=4), 1002),
    "unknown opcode": (frame(3, b""), 1002),
    "continues nothing": (frame(0, CALL), 1002),
    "long ping": (frame(PING, b"p" * 126), 1002),
    "ping in parts": (frame(PING, b"p", last=False), 1002),
    "message in a message": (frame(TEXT, b"[", last=False) + frame(TEXT, b"]"), 1002),
    "impossible length": (frame(TEXT, b"", length=(1 << 63) + 5), 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    "close code for no wire": (frame(CLOSE, struct.pack("!H", 1005)), 1002),
}


@pytest.mark.parametrize(("bad", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_bad_frame_is_answered_with_its_close_code(
    url: str, port: int, bad: bytes, code: int
) -> None:
    with trio.fail_after(30):
        async with dial(url) as bystander, wire_to(port) as wire:
            await wire.open_websocket()
            await wire.send(bad)
            with trio.fail_after(4):
                received = await wire.read_to_the_end()
            assert await bystander.names() == []
    # The close frame begins with its opcode, its length and the code. RFC 6455, section 7.1.7.
    assert received[:1] == bytes([0x80 | CLOSE])
    assert received[2:4] == struct.pack("!H", code)


async def test_a_huge_length_is_announced_and_not_reserved(url: str, port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            await wire.open_websocket()
            await wire.send(frame(TEXT, b"x", length=1 << 62))
            await still_serves(url)


async def test_peers_that_vanish_in_the_middle_harm_nobody(url: str, port: int) -> None:
    with trio.fail_after(30):
        async with dial(url) as bystander:
            for sent in (frame(TEXT, CALL), frame(TEXT, CALL)[:20], frame(TEXT, CALL, last=False)):
                for _ in range(20):
                    async with wire_to(port) as wire:
                        await wire.open_websocket()
                        await wire.send(sent)
            for _ in range(20):
                async with wire_to(port) as wire:
                    await wire.send(HEAD)
            await answers_while(bystander)
        await still_serves(url)


async def answers_while(peer: Peer) -> None:
    for _ in range(20):
        assert await peer.names() == []


async def test_a_bad_frame_from_a_peer_that_does_not_read_is_no_bug_of_ours(
    tmp_path: Path,
) -> None:
    text = "x" * 4096
    calls = b",".join([b'{"jsonrpc":"2.0","id":1,"method":"registry.list"}'] * 1000)
    with trio.fail_after(20):
        async with running_registry(tmp_path, "--log-level=debug") as server:
            async with dial(server.url) as peer:
                for name in "abc":
                    params = {"name": name, "host": "h", "port": 1, "description": text}
                    await peer.call("registry.register", **params)
                async with wire_to(server.port, receive_buffer=4096) as wire:
                    await wire.open_websocket()
                    await wire.send(frame(TEXT, b"[" + calls + b"]"))
                    # 12 MB are on their way, more than fits between us.
                    await wire.stream.receive_some(1)
                    await wire.send(frame(3, b""))
                    await eventually(lambda: "peer left" in server.log)
            assert await server.stop() == 0
        assert "Traceback" not in server.log
