"""The turns and the memory that all connections share, and what a batch makes of them."""

from __future__ import annotations

import ssl
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from plexus_registry.client.socket import open_socket
from plexus_registry.health import probe as probe_module
from plexus_registry.health.probe import Probe
from plexus_registry.rpc import fairness as module
from plexus_registry.rpc.fairness import LONG_CHARACTERS, Fairness, Share
from plexus_registry.rpc.handler import PART_CHARACTERS
from plexus_registry.rpc.plexus import Hub
from plexus_registry.rules.backend import Register
from plexus_registry.rules.errors import RegistryUnavailableError
from plexus_registry.server.handshake import Shutdown
from plexus_registry.server.websocket import WebSocket
from tests.e2e.raw import CLOSE, frame
from tests.fakes import ScriptedPeer, accepted, opened, received, serve_scripted
from tests.health.test_tracker import backend_of

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.registry import Registry
    from plexus_registry.rules.events import BackendRegistered, Cause

HUB = Hub("registry-hub")
LIST = '{"jsonrpc":"2.0","id":1,"method":"registry.list"}'


def register(name: str) -> str:
    params = {"name": name, "host": "h", "port": 1}
    request = {"jsonrpc": "2.0", "id": name, "method": "registry.register", "params": params}
    return msgspec.json.encode(request).decode()


async def test_one_slice_begins_in_each_round() -> None:
    fairness = Fairness()
    slices = 0

    async def work() -> None:
        nonlocal slices
        while True:
            await fairness.wait_for_turn()
            slices += 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(work)
        await trio.lowlevel.checkpoint()
        for _ in range(200):
            before = slices
            await trio.lowlevel.checkpoint()
            assert slices - before <= 2
        assert slices > 100
        nursery.cancel_scope.cancel()


async def test_long_answers_are_made_while_there_is_room() -> None:
    size = 2 * LONG_CHARACTERS
    fairness = Fairness(max_unread=3 * size)
    most = made = 0

    async def answer(sent: trio.Event) -> None:
        nonlocal most, made
        share = Share(fairness)
        await share.wait_for_room()
        held = share.hold("x" * size)
        made += 1
        most = max(most, fairness.unread)
        assert not share.must_give_way or fairness.is_awaited
        await sent.wait()
        share.release(held)

    sent = [trio.Event() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for each in sent:
            nursery.start_soon(answer, each)
        await wait_all_tasks_blocked()
        assert made == 3
        assert fairness.is_awaited
        for each in sent:
            each.set()
    assert (made, most) == (20, 3 * size)
    assert fairness.unread == 0
    assert not fairness.is_awaited


async def test_who_gives_up_waiting_leaves_the_room_to_others() -> None:
    fairness = Fairness(max_unread=1)
    fairness.unread += 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fairness.wait_for_room)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not fairness.is_awaited
    fairness.release(1)
    with trio.fail_after(1):
        await fairness.wait_for_room()


async def begun(
    nursery: trio.Nursery, registry: Registry, fairness: Fairness | None = None
) -> ScriptedPeer:
    wire = ScriptedPeer(nursery, fairness)
    nursery.start_soon(serve_scripted, registry, HUB, wire, Shutdown())
    return wire


async def test_a_batch_gives_way_between_its_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_SECONDS", -1.0)
    rounds = 0

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            await trio.lowlevel.checkpoint()
            rounds += 1

    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        wire = await begun(nursery, registry)
        nursery.start_soon(count_rounds)
        await wire.say(f"[{','.join([LIST] * 500)}]")
        while not wire.frames:
            await trio.lowlevel.checkpoint()
        assert rounds >= 500
        nursery.cancel_scope.cancel()


async def test_a_batch_ends_when_its_peer_has_left(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        wire = await begun(nursery, registry)
        as_before = registry.register

        async def leave_meanwhile(claim: Register, *, by: Cause) -> BackendRegistered:
            if claim.name == "b":
                patch.setattr(WebSocket, "is_gone", property(lambda _: True))
            return await as_before(claim, by=by)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "register", leave_meanwhile)
            await wire.say(f"[{','.join(map(register, 'abcd'))}]")
            await wait_all_tasks_blocked()
        assert {each.name for each in registry.list()} == {"a", "b"}, "what was begun is finished"
        assert not wire.frames
        nursery.cancel_scope.cancel()


async def fill(registry: Registry, size: int) -> int:
    """Register backends until a list is longer; gives the length of the response."""
    number = 0
    while len(registry.catalog.listed(active_only=True)) < size:
        text = "é" * 1000
        await registry.register(Register(name=f"n{number}", host="h", port=1, description=text))
        number += 1
    return len(registry.catalog.listed(active_only=True))


async def test_the_answers_of_a_batch_are_made_as_they_are_taken(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        each = await fill(registry, PART_CHARACTERS // 4)
        wire = await begun(nursery, registry)
        made = 0
        as_before = registry.catalog.listed

        def listed(*, active_only: bool) -> str:
            nonlocal made
            made += 1
            return as_before(active_only=active_only)

        wire.barrier = barrier = trio.Event()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry.catalog, "listed", listed)
            await wire.say(f"[{','.join([LIST] * 50)}]")
            await wait_all_tasks_blocked()
            assert made * each < 4 * PART_CHARACTERS, "the peer reads nothing"
            wire.barrier = None
            barrier.set()
            await wait_all_tasks_blocked()
        (frame,) = wire.frames
        assert wire.is_between_messages
        answers = msgspec.json.decode(frame)
        assert len(answers) == 50
        assert all(answer == answers[0] for answer in answers)
        assert wire.websocket.share.held == 0
        nursery.cancel_scope.cancel()


async def test_no_change_is_told_within_a_message_in_parts(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await fill(registry, PART_CHARACTERS)
        wire = await begun(nursery, registry)
        revision = registry.change_log.revision
        watch = f'"method":"registry.watch","params":{{"since":{revision}}}}}'
        await wire.say(f'{{"jsonrpc":"2.0","id":1,{watch}')
        await wait_all_tasks_blocked()
        wire.barrier = barrier = trio.Event()
        await wire.say(f"[{LIST},{LIST},{LIST}]")
        await wait_all_tasks_blocked()
        await registry.register(Register(name="new", host="h", port=1))
        await wait_all_tasks_blocked()
        wire.barrier = None
        barrier.set()
        await wait_all_tasks_blocked()
        _, answers, event = map(msgspec.json.decode, wire.frames)
        assert len(answers) == 3
        assert event["params"]["result"]["type"] == "backend_registered"
        nursery.cancel_scope.cancel()


async def test_a_batch_that_holds_room_for_which_others_wait_is_cut_short(tmp_path: Path) -> None:
    stream = LIST.replace("registry.list", "registry_list")
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await fill(registry, 2 * LONG_CHARACTERS)
        fairness = Fairness(max_unread=1)
        wire = await begun(nursery, registry, fairness)
        as_before = registry.register

        async def wait_meanwhile(claim: Register, *, by: Cause) -> BackendRegistered:
            nursery.start_soon(fairness.wait_for_room)
            while not fairness.is_awaited:
                await trio.lowlevel.checkpoint()
            return await as_before(claim, by=by)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "register", wait_meanwhile)
            await wire.say(f"[{stream},{register('a')},{register('b')}]")
            await wait_all_tasks_blocked()
        answers = msgspec.json.decode(wire.frames[0])
        assert [each["id"] for each in answers] == [1, "a", "b"]
        assert answers[2]["error"]["code"] == -32008
        assert wire.websocket.caller.refused == {"unread_total": 1}
        assert registry.get("b") is None
        assert fairness.unread == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("says_goodbye", [False, True])
async def test_peers_that_leave_together_are_seen_out_one_in_a_round(*, says_goodbye: bool) -> None:
    fairness = Fairness()
    gone = 0

    async def wait_for_end(wire: WebSocket) -> None:
        nonlocal gone
        with pytest.raises(ConnectionClosed):
            await received(wire)
        gone += 1

    async with trio.open_nursery() as nursery:
        peers = []
        for _ in range(100):
            server, peer = memory_stream_pair()
            wire = await accepted(nursery, server, fairness=fairness)
            nursery.start_soon(wait_for_end, wire)
            peers.append(peer)
        await wait_all_tasks_blocked()
        for peer in peers:  # all in one round
            if says_goodbye:
                nursery.start_soon(peer.send_all, frame(CLOSE, b"\x03\xe8"))
            else:
                peer.send_stream.close()
        while gone < len(peers):
            before = gone
            await trio.lowlevel.checkpoint()
            assert gone - before <= 2


async def test_what_tls_trusts_is_loaded_once_and_beside_the_loop() -> None:
    threads: list[int] = []

    def load(_authorities: Path | None) -> ssl.SSLContext:
        threads.append(threading.get_ident())
        return ssl.create_default_context()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    backend = msgspec.structs.replace(
        backend_of("secured", host="127.0.0.1"), port=port, protocol="wss"
    )
    probe = Probe(timeout_seconds=10)

    async def refuse() -> None:
        while True:
            await (await listener.accept()).aclose()

    with pytest.MonkeyPatch.context() as patch, trio.fail_after(20):
        patch.setattr(probe_module, "_tls_context", load)
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            async with trio.open_nursery() as probes:
                for _ in range(5):
                    probes.start_soon(probe, backend)
            nursery.cancel_scope.cancel()
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_a_client_loads_what_it_trusts_beside_the_loop() -> None:
    threads: list[int] = []
    as_before = ssl.create_default_context

    def load() -> ssl.SSLContext:
        threads.append(threading.get_ident())
        return as_before()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with pytest.MonkeyPatch.context() as patch, trio.fail_after(20):
        patch.setattr(ssl, "create_default_context", load)
        async with listener, trio.open_nursery() as nursery:

            async def refuse() -> None:
                await (await listener.accept()).aclose()

            nursery.start_soon(refuse)
            with pytest.raises(RegistryUnavailableError):
                async with open_socket(f"wss://127.0.0.1:{listener.socket.getsockname()[1]}"):
                    pass
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
