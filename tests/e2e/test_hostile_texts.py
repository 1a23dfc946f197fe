"""Names, hosts and descriptions that want to steer a terminal or a page get nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from tests.e2e.harness import Peer, dial, run_command, running_registry
from tests.e2e.raw import CLOSE, PING, frame, wire_to

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = {
    "control": "a\x00\x07\r\nb",
    "ANSI": "\x1b]0;owned\x07\x1b[2J\x9b31m",
    "bidi": "\u202eevil\u2066\u200f",
    "invisible": "a\u200b\ufeff\u2028b",
    "HTML": "<script>alert(1)</script>",
    "long": "x" * 4096,
}
texts = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


@texts
@pytest.mark.parametrize("field", ["name", "host"])
async def test_names_and_hosts_are_refused_and_the_refusal_is_harmless(
    tmp_path: Path, field: str, text: str
) -> None:
    claim: dict[str, object] = {"name": "a", "host": "h", "port": 1, field: text}
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--log-level=debug") as server:
            async with dial(server.url) as peer:
                error = await peer.error("registry.register", **claim)
                assert error["code"] == -32602
                message = str(error["message"])
                assert message.isprintable()
                assert len(message) < 500
            await server.stop()
        assert all(line.isprintable() for line in server.log.splitlines())


@texts
async def test_descriptions_are_shown_harmless(tmp_path: Path, text: str) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="a", host="h", port=1, description=text)
            for verb in (("list",), ("get", "a"), ("list", "--json")):
                shown = await run_command(*verb, f"--url={server.url}")
                assert shown.returncode == 0
                assert all(line.isprintable() for line in shown.stdout.decode().split("\n"))
            async with wire_to(server.port) as wire:
                for page in ("/", "/healthz"):
                    body = (await wire.ask(page)).body
                    assert text not in body
                    assert body.isascii()
            await server.stop()
        assert all(line.isprintable() for line in server.log.splitlines())


async def every_text(peer: Peer) -> None:
    """Send a hostile text in every place of a request that could be logged."""
    for text in HOSTILE.values():
        for request in (
            {"jsonrpc": "2.0", "id": text, "method": text},
            {"jsonrpc": text, "id": 1, "method": "registry.list"},
            {"jsonrpc": "2.0", "id": 1, "method": "registry.get", "params": {text: text}},
            {"jsonrpc": "2.0", "id": 1, "method": "registry.delete", "params": {"name": text}},
            {"jsonrpc": "2.0", "id": 1, "method": "registry-hub.schema", "params": [text]},
        ):
            await peer.exchange(msgspec.json.encode(request).decode())


async def test_nothing_in_a_request_reaches_the_log_as_it_is(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--log-level=debug") as server:
            async with dial(server.url) as peer:
                await every_text(peer)
            for text in HOSTILE.values():
                hostile = text.encode()[:100].decode(errors="ignore").encode()
                async with wire_to(server.port) as wire:
                    await wire.open_websocket()
                    await wire.send(frame(PING, hostile))
                    await wire.send(frame(CLOSE, (1000).to_bytes(2, "big") + hostile))
                    await wire.read_to_the_end()
            await server.stop()
        lines = server.log.splitlines()
        assert any("peer left" in line for line in lines)
        assert all(line.isprintable() and len(line) < 5000 for line in lines)
