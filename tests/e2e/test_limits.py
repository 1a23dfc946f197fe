"""What happens at each limit: a typed answer, a count, and nobody else notices."""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.e2e.harness import (
    COMMAND,
    Peer,
    ServerProcess,
    dial,
    eventually,
    running_registry,
    with_prelude,
)
from tests.e2e.raw import CLOSE, HEAD, PING, TEXT, WebSocket, frame, wire_to
from tests.e2e.test_access_policy import own_address

if TYPE_CHECKING:
    from pathlib import Path

LIST = b'{"jsonrpc":"2.0","id":1,"method":"registry.list"}'


async def refused(server: ServerProcess, *, host: str = "127.0.0.1") -> dict[str, int]:
    """What the server counted."""
    async with wire_to(server.port, host=host) as wire:
        reply = await wire.ask("/healthz", Host=host)
    told = msgspec.json.decode(reply.body, type=dict[str, object])["refused"]
    return msgspec.convert(told, dict[str, int])


def memory(server: ServerProcess) -> int:
    """The memory of a server, in bytes."""
    with open(f"/proc/{server.process.pid}/statm") as file:  # noqa: PTH123 - plain and quick
        return int(file.read().split()[1]) * resource.getpagesize()


def processor_seconds(server: ServerProcess) -> float:
    with open(f"/proc/{server.process.pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_one_connection_too_many_is_told(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--max-connections=3") as server:
            async with dial(server.url) as one, dial(server.url), dial(server.url):
                async with wire_to(server.port) as wire:
                    await wire.send(HEAD)
                    reply = await wire.reply()
                    assert reply.status == 503
                    assert "--max-connections" in reply.body
                    assert "retry-after" in reply.fields
                    assert await wire.read_to_the_end() == b""
                # A flood beyond the limit is cut, and those who are in notice nothing.
                async with AsyncExitStack() as flood:
                    for _ in range(200):
                        await flood.enter_async_context(wire_to(server.port))
                    assert await one.names() == ["plexus"]

            async def has_room() -> bool:
                async with wire_to(server.port) as wire:
                    return (await wire.ask("/")).status == 200

            await eventually(has_room)
            assert (await refused(server))["connections"] >= 1
            assert "--max-connections" in server.log
            assert server.log.count("\n") < 30
            assert await server.stop() == 0


async def test_one_address_cannot_take_all_places(tmp_path: Path) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but the loopback's")
    options = ("--host=0.0.0.0", "--insecure", "--max-connections-per-address=2")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options) as server:
            async with wire_to(server.port, host=address) as a, wire_to(server.port, host=address):
                assert (await a.ask("/", Host=address)).status == 200
                async with wire_to(server.port, host=address) as third:
                    reply = await third.reply()
                    assert reply.status == 503
                    assert "--max-connections-per-address" in reply.body
                # The loopback is not one address among others.
                async with AsyncExitStack() as many:
                    for _ in range(5):
                        wire = await many.enter_async_context(wire_to(server.port))
                        assert (await wire.ask("/")).status == 200
                assert (await refused(server))["connections_per_address"] == 1


async def fill(peer: Peer, size: int = 4096) -> None:
    for name in "abc":
        await peer.call("registry.register", name=name, host="h", port=1, description="x" * size)


STUCK = 5
ANSWER_BYTES = 12 * 1024 * 1024


async def ask_and_never_read(port: int) -> None:
    """Ask for more than fits between us, again and again, until the server has enough of it."""
    calls = b"[" + b",".join([LIST] * 1000) + b"]"
    async with wire_to(port, receive_buffer=4096) as wire:
        await wire.open_websocket()
        with pytest.raises(trio.BrokenResourceError):
            await send_on_and_on(wire, frame(TEXT, calls))


async def send_on_and_on(wire: WebSocket, data: bytes) -> None:
    while True:
        await wire.send(data)


@pytest.mark.slow
async def test_a_reader_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    options = ("--unread-seconds=2", "--no-auto-register")
    most = 0
    with trio.fail_after(60):
        async with running_registry(tmp_path, *options) as server:
            async with dial(server.url) as bystander:
                await fill(bystander)
                before = memory(server)
                async with trio.open_nursery() as nursery:
                    for _ in range(STUCK):
                        nursery.start_soon(ask_and_never_read, server.port)
                    while nursery.child_tasks:
                        await bystander.names()
                        most = max(most, memory(server))
                assert (await refused(server))["unread_seconds"] == STUCK
                assert await bystander.names() == ["a", "b", "c"]
            assert server.log.count("cut off 127.0.0.1 port ") == STUCK
            assert await server.stop() == 0
        assert "Traceback" not in server.log
    # One answer each, and what it is encoded from: not one for every request.
    assert most - before < STUCK * 6 * ANSWER_BYTES


@pytest.mark.slow
async def test_a_watcher_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    options = ("--unread-seconds=1", "--no-auto-register")
    with trio.fail_after(60):
        async with running_registry(tmp_path, *options) as server:
            async with dial(server.url) as peer, wire_to(server.port, receive_buffer=4096) as wire:
                await peer.call("registry.register", name="a", host="h", port=1)
                await wire.open_websocket()
                await wire.send(frame(TEXT, LIST.replace(b"list", b"watch")))
                number = 0
                while "cut off" not in server.log:
                    number += 1
                    text = f"{number:04}" * 1000
                    await peer.call("registry.update", name="a", description=text)
                assert (await refused(server))["unread_seconds"] == 1
                assert await peer.names() == ["a"]
        assert "Traceback" not in server.log


async def test_a_batch_ends_where_its_answers_are_too_much(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(
            tmp_path, "--no-auto-register", "--max-unread-bytes=20000"
        ) as server:
            async with dial(server.url) as peer:
                await fill(peer)
                write = b'{"jsonrpc":"2.0","id":2,"method":"registry.delete","params":{"name":"a"}}'
                for kind in (LIST, LIST.replace(b"registry.list", b"registry_list")):
                    answers = await peer.exchange(b"[" + b",".join([kind, kind, write]) + b"]")
                    text = msgspec.json.encode(answers).decode()
                    assert text.count("-32008") == 1
                    assert "was not carried out" in text
                    if b"_" in kind:
                        for _ in range(4):
                            await peer.receive()
                assert await peer.names() == ["a", "b", "c"]
                assert (await refused(server))["unread_bytes"] == 2


async def test_sizes_are_of_bytes_whatever_the_characters(tmp_path: Path) -> None:
    wide = '{"jsonrpc":"2.0","id":1,"method":"registry.get","params":["%s"]}'
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--max-message-bytes=1024") as server:
            async with dial(server.url) as peer:
                await peer.exchange(wide % ("🙂" * 200))
                with pytest.raises(ConnectionClosed) as closed:
                    await peer.exchange(wide % ("🙂" * 250))
                assert closed.value.reason is not None
                assert closed.value.reason.code == 1009
            assert (await refused(server))["message_bytes"] == 1
        unread = "--max-unread-bytes=20000"
        async with running_registry(tmp_path, "--no-auto-register", unread) as server:
            async with dial(server.url) as peer:
                text = "🙂" * 1000
                await peer.call("registry.register", name="a", host="h", port=1, description=text)
                answers = await peer.exchange(b"[" + b",".join([LIST] * 8) + b"]")
                assert msgspec.json.encode(answers).decode().count("-32008") == 3


async def test_every_limit_of_a_connection_is_counted(tmp_path: Path) -> None:
    options = ("--max-batch=2", "--max-nesting=8", "--max-subscriptions=1")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options, "--max-message-bytes=1024") as server:
            async with dial(server.url) as peer:
                await peer.exchange(b"[1,2,3]")
                await peer.exchange(LIST[:-1] + b',"params":' + b"[" * 9 + b"]" * 9 + b"}")
                info = '{"jsonrpc":"2.0","id":1,"method":"_info"}'
                await peer.exchange(f"[{info},{info}]")
                await peer.receive()
                await peer.receive()
                with pytest.raises(ConnectionClosed) as closed:
                    await peer.exchange(b" " * 1025)
                assert closed.value.reason is not None
                assert closed.value.reason.code == 1009
            counted = await refused(server)
    limits = ("batch_requests", "nesting", "subscriptions", "message_bytes")
    assert counted == dict.fromkeys(limits, 1)


async def test_a_peer_that_answers_no_ping_is_dropped(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--ping-interval=0.3") as server:
            # The library behind this one answers pings, as browsers and websocat do.
            async with dial(server.url) as lively, wire_to(server.port) as wire:
                await wire.open_websocket()
                received = await wire.read_to_the_end()
                assert received[0] == 0x80 | PING
                assert bytes([0x80 | CLOSE]) in received
                assert (1011).to_bytes(2, "big") in received
                assert await lively.names() == ["plexus"]
            assert (await refused(server))["pings"] == 1


def limited(files: int) -> tuple[str, ...]:
    """A command like `COMMAND` that may have only so many files open."""
    if shutil.which("prlimit"):
        return ("prlimit", f"--nofile={files}:{files}", *COMMAND)
    limit = f"(resource.RLIMIT_NOFILE, ({files}, {files}))"
    return with_prelude(f"import resource; resource.setrlimit{limit}")


async def test_without_file_descriptors_it_waits_and_goes_on(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, command=limited(60)) as server:
            assert "room for only 28 connections, but --max-connections is 10000" in server.log
            assert "ulimit -n" in server.log
            async with dial(server.url) as bystander:
                async with AsyncExitStack() as flood:
                    for _ in range(100):
                        wire = await flood.enter_async_context(wire_to(server.port))
                        await wire.send(HEAD)
                    await eventually(lambda: "no room for more connections" in server.log)
                    await bystander.call("registry.register", name="a", host="h", port=1)
                assert "a" in await bystander.names()
            async with dial(server.url) as peer:
                assert "a" in await peer.names()
            assert await server.stop() == 0
        assert "Traceback" not in server.log
        assert server.log.count("no room") <= 11


async def test_the_number_of_open_files_is_raised_as_far_as_it_goes(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if shutil.which("prlimit") is None or hard < 2000:
        pytest.skip("prlimit is not installed, or the hard limit is too low")
    soft = ("prlimit", f"--nofile=64:{hard}", *COMMAND)
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--max-connections=1000", command=soft) as server:
            async with AsyncExitStack() as many:
                for _ in range(200):
                    wire = await many.enter_async_context(wire_to(server.port))
                    assert (await wire.ask("/")).status == 200
        assert "ulimit" not in server.log
