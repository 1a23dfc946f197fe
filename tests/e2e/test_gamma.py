"""plexus-gamma's habits, by a scripted peer as strict as the specification, at a real server."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from tests.e2e.harness import dial
from tests.e2e.peers import gamma, rust_hub
from tests.e2e.peers.fake_hub import running_fake
from tests.e2e.peers.rust_hub import RustHub
from tests.e2e.peers.websocket import StreamFailedError
from tests.e2e.scenery import (
    HOST,
    HUB,
    LIMIT_SECONDS,
    dead_ports,
    mute_port,
    quiet_registry,
    register,
)

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


async def test_gamma_scans_a_range(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS), dead_ports(9) as dead, mute_port() as mute:
        async with quiet_registry(tmp_path) as server, running_fake("lforge") as hub:
            ports = [*dead[:5], server.port, *dead[5:], mute, hub.port]
            found = await gamma.scan(HOST, ports)
            assert found == {server.port: HUB, hub.port: "lforge"}


async def test_gamma_polls_a_hash_that_data_does_not_change(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            quiet_registry(tmp_path) as server,
            gamma.open_session(HOST, server.port, HUB) as session,
        ):
            tree = await gamma.load_tree(session)
            hashes = [await gamma.poll_hash(session) for _ in range(5)]
            hub = RustHub(name="lforge", port=46011, registry_port=server.port)
            await rust_hub.register(hub)
            hashes.append(await gamma.poll_hash(session))
            await rust_hub.say_goodbye(hub)
            hashes.append(await gamma.poll_hash(session))
            await register(server, "alpha", 5001)
            hashes.append(await gamma.poll_hash(session))
            assert set(hashes) == {tree.hub.hash}
            assert await gamma.load_tree(session) == tree


async def test_gamma_sees_the_same_tree_after_a_restart(tmp_path: Path) -> None:
    trees = []
    with trio.fail_after(LIMIT_SECONDS):
        for _ in range(2):
            async with (
                quiet_registry(tmp_path) as server,
                gamma.open_session(HOST, server.port, HUB) as session,
            ):
                trees.append(await gamma.load_tree(session))
                await register(server, "alpha", 5001)
    assert trees[0] == trees[1]


async def test_gamma_loads_the_tree(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            quiet_registry(tmp_path) as server,
            gamma.open_session(HOST, server.port, HUB) as session,
        ):
            tree = await gamma.load_tree(session)
            assert list(tree.hub.methods) == ["call", "hash", "hashes", "schema"]
            assert tree.hub.children is not None
            assert list(tree.children) == list(tree.hub.children) == ["registry"]
            registry = tree.children["registry"]
            assert registry.children is None, "a leaf"
            expected = ["register", "list", "get", "update", "delete", "ping", "reload", "schema"]
            assert set(expected) <= set(registry.methods)
            assert list(registry.methods)[-1] == "schema"
            hashes = [tree.hub.hash, registry.hash, *(m.hash for m in registry.methods.values())]
            assert len(set(hashes)) == len(hashes)


async def test_gamma_discovers_what_the_registry_lists(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            quiet_registry(tmp_path) as server,
            running_fake("lforge") as hub,
            gamma.open_session(HOST, server.port, HUB) as session,
        ):
            tree = await gamma.load_tree(session)
            assert await gamma.discover(session, tree) == {}
            await register(server, "lforge", hub.port)
            gone = RustHub(name="gone", port=46011, registry_port=server.port)
            await rust_hub.register(gone)
            await rust_hub.say_goodbye(gone)
            found = await gamma.discover(session, tree)
            assert found == {"lforge": f"ws://{HOST}:{hub.port}"}
            async with gamma.open_session(HOST, hub.port, "lforge") as other:
                await gamma.load_tree(other)


async def test_gamma_calls_at_the_same_time_on_one_connection(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            quiet_registry(tmp_path) as server,
            gamma.open_session(HOST, server.port, HUB) as session,
        ):
            calls = [
                (f"{HUB}.hash", {}),
                ("registry.schema", {}),
                ("registry.get", {"name": "nobody"}),
                ("registry.list", {"active_only": True}),
                ("registry.ping", {"name": "nobody"}),
            ] * 60
            contents = await gamma.call_all(session, calls)
            assert contents == contents[:5] * 60


async def test_gamma_closes_while_done_is_in_flight(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server:
            for _ in range(4):
                assert await gamma.scan(HOST, [server.port] * 50) == {server.port: HUB}
            async with gamma.open_session(HOST, server.port, HUB) as session:
                await gamma.poll_hash(session)


async def test_gamma_rejects_what_the_hub_refuses(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            quiet_registry(tmp_path) as server,
            gamma.open_session(HOST, server.port, HUB) as session,
        ):
            with pytest.raises(StreamFailedError) as failed:
                await gamma.call(session, "registry.nope", {})
            assert failed.value.failure.code == "-32601"
            assert failed.value.failure.message == "Method not found: registry.nope"
            assert await gamma.poll_hash(session), "the connection is as good as before"


class Acknowledgement(msgspec.Struct):
    result: int


async def test_no_number_comes_again_over_a_reconnect_or_a_restart(tmp_path: Path) -> None:
    """The page keeps what it did not read by number, for whichever call has that number next."""
    numbers: list[int] = []
    with trio.fail_after(LIMIT_SECONDS):
        for _ in range(2):
            async with quiet_registry(tmp_path) as server:
                for _ in range(5):
                    async with dial(server.url) as peer:
                        for number in range(3):
                            request = {"jsonrpc": "2.0", "id": number, "method": "_info"}
                            answer = await peer.exchange(json.dumps(request))
                            numbers.append(msgspec.convert(answer, Acknowledgement).result)
                            assert await peer.receive()
                            assert await peer.receive()
    assert len(set(numbers)) == len(numbers) == 30
    assert all(type(number) is int and 0 <= number < 2**53 for number in numbers)
    # Numbers of other connections are far away, whatever those ask for.
    starts = sorted(numbers[::3])
    assert all(b - a > 1_000_000 for a, b in pairwise(starts))
