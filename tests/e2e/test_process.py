"""The registry as a process: it starts, answers, stops, and keeps what it acknowledged."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import ConnectionClosed

from plexus_registry.server import server
from tests.e2e.database import locked_database, stored_rows
from tests.e2e.harness import (
    Peer,
    ServerProcess,
    dial,
    eventually,
    running_registry,
    with_prelude,
)
from tests.e2e.raw import TEXT, frame, wire_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SIGNALS = pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
GOING_AWAY = 1001


async def close_code(peer: Peer) -> int:
    """Wait until the server closes, and give the code of its close frame."""
    with pytest.raises(ConnectionClosed) as closed:
        await peer.ws.get_message()
    assert closed.value.reason is not None
    return closed.value.reason.code


async def close_code_after_answers(peer: Peer) -> int:
    try:
        while True:
            await peer.ws.get_message()
    except ConnectionClosed:
        return await close_code(peer)


async def ask_on_and_on(peer: Peer) -> None:
    """Send requests as fast as the server takes them, until it closes."""
    try:
        while True:
            await peer.ws.send_message('{"jsonrpc":"2.0","id":1,"method":"registry.list"}')
    except ConnectionClosed:
        pass


async def begin_stop(server: ServerProcess, how: signal.Signals = signal.SIGTERM) -> None:
    server.process.send_signal(how)
    await eventually(lambda: "stopping" in server.log)


async def is_refused(server: ServerProcess) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    except OSError:
        return True
    await stream.aclose()
    return False


def saved_pings(folder: Path) -> dict[object, object]:
    rows = stored_rows(folder)
    return {row["name"]: row["last_seen"] for row in rows if row["last_seen"] is not None}


@asynccontextmanager
async def deaf_peers(server: ServerProcess) -> AsyncIterator[None]:
    """Peers that say nothing, that do not answer a close frame, that do not read answers."""
    async with (
        wire_to(server.port),
        wire_to(server.port) as polite_at_first,
        wire_to(server.port, receive_buffer=4096) as greedy,
    ):
        await polite_at_first.open_websocket()
        await greedy.open_websocket()
        async with dial(server.url) as peer:
            for name in "abc":
                text = "x" * 4096
                await peer.call("registry.register", name=name, host="h", port=1, description=text)
        calls = b",".join([b'{"jsonrpc":"2.0","id":1,"method":"registry.list"}'] * 1000)
        await greedy.send(frame(TEXT, b"[" + calls + b"]"))
        await greedy.send(frame(TEXT, b"[" + calls + b"]"))
        yield


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                event = await peer.call("registry.register", name="hub2", host="h", port=5001)
            await server.kill()
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                found = await peer.call("registry.get", name="hub2")
            assert found["backend"] == event["backend"]
            assert await server.stop() == 0


@SIGNALS
async def test_a_signal_says_goodbye_to_idle_peers(tmp_path: Path, how: signal.Signals) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            async with dial(server.url) as one, dial(server.url) as other:
                await one.names()
                with trio.fail_after(8):
                    server.process.send_signal(how)
                    assert await close_code(one) == GOING_AWAY
                    assert await close_code(other) == GOING_AWAY
                    assert await server.process.wait() == 0
        assert "Traceback" not in server.log


@SIGNALS
async def test_a_running_request_gets_its_answer(tmp_path: Path, how: signal.Signals) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer, dial(server.url) as idle:
                with locked_database(tmp_path):
                    running = await peer.post("registry.register", name="a", host="h", port=1)
                    await peer.post("registry.register", name="late", host="h", port=2)
                    await begin_stop(server, how)
                    assert await close_code(idle) == GOING_AWAY
                    await eventually(lambda: is_refused(server))
                    assert server.process.returncode is None
                answer = await peer.receive()
                assert isinstance(answer, dict)
                assert answer["id"] == running
                assert answer["result"]["backend"]["name"] == "a"
                assert await close_code(peer) == GOING_AWAY
                assert await server.process.wait() == 0
        assert [row["name"] for row in stored_rows(tmp_path)] == ["a"]


async def test_pings_that_wait_for_the_disk_are_saved(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="a", host="h", port=1)
                assert (await peer.call("registry.ping", name="a"))["success"] is True
                pinged = await peer.get("a")
                assert pinged is not None
                assert await server.stop() == 0
        assert saved_pings(tmp_path) == {"a": pinged["last_seen"]}


async def test_a_peer_with_requests_in_flight_does_not_delay_the_end(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server, dial(server.url) as peer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_on_and_on, peer)
                for _ in range(50):
                    await peer.receive()
                server.process.send_signal(signal.SIGTERM)
                assert await close_code_after_answers(peer) == GOING_AWAY
            with trio.fail_after(8):
                assert await server.process.wait() == 0


async def test_peers_that_do_not_cooperate_only_delay_the_end(tmp_path: Path) -> None:
    with trio.fail_after(30):
        hasty = with_prelude("import plexus_registry.server.server as d; d.SHUTDOWN_SECONDS = 0.5")
        async with running_registry(tmp_path, command=hasty) as server:
            async with deaf_peers(server), dial(server.url) as peer:
                await peer.call("registry.ping", name="plexus")
                await begin_stop(server)
                assert await close_code(peer) == GOING_AWAY
                assert await server.process.wait() == 0
        assert "Traceback" not in server.log
        assert "plexus" in saved_pings(tmp_path)


def test_a_stop_takes_at_most_five_seconds() -> None:
    assert server.SHUTDOWN_SECONDS == 5


async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            async with deaf_peers(server), dial(server.url) as peer:
                await peer.call("registry.ping", name="plexus")
                await begin_stop(server)
                assert await close_code(peer) == GOING_AWAY
                assert server.process.returncode is None
                with trio.fail_after(8):
                    assert await server.stop() == 0
        assert "Traceback" not in server.log
        assert "plexus" in saved_pings(tmp_path)


async def test_a_task_that_crashes_brings_the_process_down(tmp_path: Path) -> None:
    broken = with_prelude(
        "import plexus_registry.tasks.periodic as s\n"
        "async def crash(registry): raise ValueError('broken on purpose')\n"
        "s.sweep_once = crash"
    )
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--sweep-interval=0.3", command=broken) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.ping", name="plexus")
                with pytest.raises(ConnectionClosed):
                    await peer.ws.get_message()
            assert await server.process.wait() not in (0, None)
        assert "the sweeper crashed; the registry stops" in server.log
        assert "plexus" in saved_pings(tmp_path)


async def test_ctrl_c_while_the_last_pings_are_written_loses_none(tmp_path: Path) -> None:
    interrupting = (
        "import os, signal, plexus_registry.app as app\n"
        "write = app._write_last\n"
        "async def interrupted(registry):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    await write(registry)\n"
        "app._write_last = interrupted"
    )
    with trio.fail_after(20):
        async with running_registry(tmp_path, command=with_prelude(interrupting)) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="a", host="h", port=1)
                await peer.call("registry.ping", name="a")
                assert await server.stop() == 130
    assert "a" in saved_pings(tmp_path)
    assert "Traceback" not in server.log
