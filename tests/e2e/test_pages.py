"""Plain HTTP on the port: the pages, and how requests follow each other."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from plexus_registry import __version__
from tests.e2e.harness import (
    dial,
    eventually,
    running_registry,
    shared_registry,
    with_prelude,
)
from tests.e2e.raw import HEAD, TEXT, WebSocket, frame, wire_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "s3cret-s3cret-s3cret"  # noqa: S105 - for the tests


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with shared_registry(tmp_path_factory.mktemp("server"), "--no-auto-register") as url:
        yield int(url.rpartition(":")[2])


async def health(wire: WebSocket, **fields: str) -> dict[str, object]:
    reply = await wire.ask("/healthz", **fields)
    assert reply.fields["content-type"] == "application/json"
    return msgspec.json.decode(reply.body, type=dict[str, object])


async def test_health_tells_how_the_registry_is(tmp_path: Path) -> None:
    config = tmp_path / "backends.toml"
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer, wire_to(server.port) as wire:
                await peer.call("registry.register", name="a", host="h", port=1)
                await peer.call("registry.register", name="b", host="h", port=1)
                await peer.call("registry.deregister", name="b")
                shown = await health(wire)
                uptime = shown.pop("uptime_seconds")
                assert isinstance(uptime, float)
                assert 0 < uptime < 30
                assert shown == {
                    "status": "ok",
                    "version": __version__,
                    "backends": {
                        "active": 1,
                        "inactive": 1,
                        "states": {
                            "unknown": 1,
                            "up": 0,
                            "down": 0,
                            "wrong_hub": 0,
                            "deregistered": 1,
                            "stale": 0,
                        },
                    },
                    "network": "trusted",
                    "database": "registry.db",
                    "storage": {"state": "ok"},
                    "config": {"state": "loaded", "exists": False},
                    "connections": 2,
                    "refused": {},
                }
                config.write_text('[[backend]]\nname = "c"\nhost = "\\u001b[2J\\u202e"\nport = 1\n')

                async def is_invalid() -> bool:
                    told = (await health(wire))["config"]
                    return isinstance(told, dict) and told["state"] == "invalid"

                await eventually(is_invalid)
                reply = await wire.ask("/healthz")
                told = msgspec.json.decode(reply.body, type=dict[str, object])["config"]
                assert isinstance(told, dict)
                assert told["line"] == 3
                assert "host" in str(told["reason"])
                assert isinstance(told["since"], int)
                assert reply.body.isascii()
                assert "\x1b" not in reply.body
                config.write_text("")
                config.unlink()

                async def is_loaded() -> bool:
                    return (await health(wire))["config"] == {"state": "loaded", "exists": False}

                await eventually(is_loaded)


async def test_health_tells_strangers_little_where_there_is_a_token(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, env={"REGISTRY_TOKEN": TOKEN}) as server:
            async with wire_to(server.port) as wire:
                assert await health(wire) == {"status": "ok"}
                told = await health(wire, X_Plexus_API_Key=TOKEN)
                assert told["version"] == __version__


LATE = """
import pathlib, trio, plexus_registry.app as app
real = app.watch_config_forever
async def late(*args, **options):
    while not pathlib.Path({path!r}).exists():
        await trio.sleep(0.02)
    await real(*args, **options)
app.watch_config_forever = late
"""


async def test_who_comes_early_waits_and_is_answered(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    go = tmp_path / "go"
    seen: list[int] = []
    is_answered = trio.Event()

    async def come_early() -> None:
        async def is_bound() -> bool:
            try:
                async with wire_to(port):
                    return True
            except OSError:
                return False

        await eventually(is_bound, within=25)
        async with wire_to(port) as wire, wire_to(port) as page:
            await wire.send(HEAD)
            go.touch()
            seen.append((await wire.reply()).status)
            seen.append((await page.ask("/healthz")).status)
        is_answered.set()

    command = with_prelude(LATE.format(path=str(go)))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_early)
            async with running_registry(tmp_path, port=port, command=command) as server:
                await is_answered.wait()
                async with wire_to(port) as wire:
                    assert (await wire.ask("/healthz")).status == 200
                    # It is idle, and holds nothing up.
                    with trio.fail_after(8):
                        assert await server.stop() == 0
    assert seen == [101, 200]


async def test_the_page_says_how_to_connect(port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            reply = await wire.ask("/?from=bookmark")
    assert reply.status == 200
    assert reply.fields["content-type"] == "text/plain; charset=utf-8"
    assert reply.fields["x-content-type-options"] == "nosniff"
    assert f"websocat ws://127.0.0.1:{port}" in reply.body


async def test_one_connection_carries_many_requests_and_then_a_websocket(port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            whole = await wire.ask("/")
            bare = await wire.ask("/", method="HEAD")
            assert (bare.status, bare.body) == (200, "")
            assert bare.fields["content-length"] == str(len(whole.body))
            get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            call = b'{"jsonrpc":"2.0","id":1,"method":"registry.list"}'
            ahead = HEAD + frame(TEXT, call)
            await wire.send(get + get.replace(b"/healthz", b"/") + ahead)
            assert (await wire.reply()).fields["content-type"] == "application/json"
            assert (await wire.reply()).body == whole.body
            assert (await wire.reply()).status == 101
            assert b'"backends"' in await wire.stream.receive_some()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
async def test_other_methods_are_not_allowed(port: int, method: str) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            reply = await wire.ask("/healthz", method=method)
            assert reply.status == 405
            assert reply.fields["allow"] == "GET, HEAD".lower()
            assert await wire.read_to_the_end() == b""


async def test_a_body_is_never_taken_for_a_request(port: int) -> None:
    smuggled = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    with trio.fail_after(20):
        for field in (b"Content-Length: %d" % len(smuggled), b"Transfer-Encoding: chunked"):
            async with wire_to(port) as wire:
                await wire.send(head + field + b"\r\n\r\n" + smuggled)
                assert (await wire.reply()).status == 200
                assert await wire.read_to_the_end() == b""


async def test_what_is_asked_for_is_not_repeated_as_it_is(port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            reply = await wire.ask("/<script>alert(1)</script>" + "x" * 1000)
    assert reply.status == 404
    assert reply.fields["content-type"].startswith("text/plain")
    assert len(reply.body) < 400


async def test_a_request_may_come_byte_by_byte(port: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            for byte in request:
                await wire.send(bytes([byte]))
            assert (await wire.reply()).status == 200


@pytest.mark.slow
async def test_a_handshake_may_be_split_anywhere(port: int) -> None:
    async def shake_hands(at: int) -> None:
        async with wire_to(port) as wire:
            await wire.send(HEAD[:at])
            # The system may join what is sent at once; an answered ping of another
            # connection shows that the server had its turn in between.
            async with wire_to(port) as other:
                await other.ask("/healthz")
            await wire.send(HEAD[at:])
            assert (await wire.reply()).status == 101

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for at in range(1, len(HEAD)):
                nursery.start_soon(shake_hands, at)
