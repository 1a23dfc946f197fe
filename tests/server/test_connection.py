"""The events that a connection sends, and their order among its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from plexus_registry.rpc.fairness import Fairness
from plexus_registry.rpc.handler import Handler
from plexus_registry.rpc.plexus import Hub
from plexus_registry.rpc.subscriptions import CHARACTERS_AT_ONCE, LOOKS_AT_ONCE, ChangeFrames
from plexus_registry.rules.backend import Register
from plexus_registry.server.connection import Watchers, serve_connection
from plexus_registry.server.handshake import Shutdown
from plexus_registry.websocket_frames import Opcode, encode_frame
from tests.fakes import MASK, Disk, ScriptedPeer, answered, opened, serve_scripted, texts_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from plexus_registry.registry import Registry

HUB = Hub("registry-hub")
WATCH = '{"jsonrpc":"2.0","id":1,"method":"registry.watch","params":{"since":0}}'
UNWATCH = '{"jsonrpc":"2.0","id":2,"method":"registry.unwatch","params":[%d]}'


def kinds(wire: ScriptedPeer) -> list[object]:
    """What each frame is: the id of an answer, or the type of an event."""
    frames = map(msgspec.json.decode, wire.frames)
    return [each.get("id") or each["params"]["result"]["type"] for each in frames]


async def begun(
    nursery: trio.Nursery, registry: Registry, shutdown: Shutdown, *, is_reading: bool
) -> ScriptedPeer:
    """Start a connection that watches."""
    wire = ScriptedPeer(nursery)
    nursery.start_soon(serve_scripted, registry, HUB, wire, shutdown)
    wire.barrier = None if is_reading else trio.Event()
    await wire.say(WATCH)
    await wait_all_tasks_blocked()
    return wire


async def test_events_being_sent_come_before_the_answer_to_the_unwatch(tmp_path: Path) -> None:
    for _ in range(20):  # the scheduler draws lots
        async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
            wire = await begun(nursery, registry, Shutdown(), is_reading=True)
            wire.barrier = barrier = trio.Event()
            await registry.register(Register(name="a", host="h", port=1))
            await wait_all_tasks_blocked()
            number = msgspec.json.decode(wire.frames[0])["result"]
            await wire.say(UNWATCH % number)
            await wait_all_tasks_blocked()
            wire.barrier = None
            barrier.set()
            await wait_all_tasks_blocked()
            assert kinds(wire)[-2:] == ["backend_registered", 2]
            await registry.delete("a")
            await wait_all_tasks_blocked()
            assert kinds(wire)[-1] == 2
            nursery.cancel_scope.cancel()


async def test_no_event_is_sent_before_the_acknowledgement(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        wire = await begun(nursery, registry, Shutdown(), is_reading=False)
        await registry.register(Register(name="a", host="h", port=1))
        await wait_all_tasks_blocked()
        barrier, wire.barrier = wire.barrier, None
        assert barrier is not None
        barrier.set()
        await wait_all_tasks_blocked()
        assert kinds(wire) == [1, "backend_registered"]
        nursery.cancel_scope.cancel()


async def test_a_shutdown_finishes_the_events_being_sent(tmp_path: Path) -> None:
    shutdown = Shutdown()
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        wire = await begun(nursery, registry, shutdown, is_reading=True)
        wire.barrier = barrier = trio.Event()
        await registry.register(Register(name="a", host="h", port=1))
        await wait_all_tasks_blocked()
        shutdown.begin()
        await wait_all_tasks_blocked()
        await registry.delete("a")
        barrier.set()
        # The connection and its watch sender end by themselves, or the nursery would not.
    assert kinds(wire) == [1, "backend_registered"]


async def test_a_peer_that_has_left_is_not_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        async with trio.open_nursery() as nursery:
            wire = await begun(nursery, registry, Shutdown(), is_reading=True)
            await wire.leave()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()  # as the connection's nursery is, once it is over
        assert not registry._wakeups  # or it would grow with every watcher that left


async def test_many_snapshots_are_made_a_few_at_a_time_and_each_watch_has_its_turn(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as registry:
        for number in range(20):
            await registry.register(
                Register(name=f"a{number}", host="h", port=1, description="x" * 4000)
            )
        responder = Handler(registry, HUB)
        changes = ChangeFrames(registry.change_log, registry.catalog, registry.now)
        watches = 30
        for _ in range(watches):
            await answered(responder, '{"jsonrpc":"2.0","id":1,"method":"registry.watch"}')
        assert responder.note_sent()
        told: list[int] = []
        while responder.subscriptions.is_behind(changes):
            frames = texts_of(responder.subscriptions.due(changes, changes.log.revision))
            assert sum(map(len, frames[:-1])) <= CHARACTERS_AT_ONCE
            told += [msgspec.json.decode(each)["params"]["subscription"] for each in frames]
        assert sorted(told) == [*range(1, watches + 1)]


async def test_watches_without_events_hold_nobody_up(tmp_path: Path) -> None:
    """However much there is to go through for them, others have their turn in between."""
    async with opened(tmp_path) as registry:
        for number in range(100):
            await registry.register(Register(name=f"a{number}", host="h", port=1))
        responder = Handler(registry, HUB)
        changes = ChangeFrames(registry.change_log, registry.catalog, registry.now)
        filters = '{"namespace":"no","since":0}'
        request = f'{{"jsonrpc":"2.0","id":1,"method":"registry.watch","params":{filters}}}'
        for _ in range(100):
            await answered(responder, request)
        responder.note_sent()
        rounds = 0
        while responder.subscriptions.is_behind(changes):
            assert responder.subscriptions.due(changes, changes.log.revision) == []
            rounds += 1
        assert rounds == 100 * 100 // LOOKS_AT_ONCE


async def test_a_peer_that_leaves_during_an_event_ends_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        wire = await begun(nursery, registry, Shutdown(), is_reading=True)
        wire.barrier = barrier = trio.Event()
        await registry.register(Register(name="a", host="h", port=1))
        await wait_all_tasks_blocked()
        await wire.leave()
        barrier.set()
        await wait_all_tasks_blocked()
        assert kinds(wire) == [1]
        assert not nursery.cancel_scope.cancel_called
        await registry.register(Register(name="b", host="h", port=1))


async def test_a_watch_that_came_further_by_itself_gets_nothing_twice(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        responder = Handler(registry, HUB)
        changes = ChangeFrames(registry.change_log, registry.catalog, registry.now)
        await answered(responder, WATCH)
        responder.note_sent()
        for name in "abc":
            await registry.register(Register(name=name, host="h", port=1))
        assert len(texts_of(responder.subscriptions.due(changes, changes.log.revision))) == 3
        assert responder.subscriptions.due(changes, changes.log.revision - 2) == []
        assert responder.subscriptions.due(changes, changes.log.revision) == []


async def test_an_error_while_changes_are_sent_ends_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        watchers = Watchers(registry, Fairness())
        await nursery.start(watchers.send_forever)
        wires = []
        for _ in range(2):
            wire = ScriptedPeer(nursery)
            nursery.start_soon(
                serve_connection, registry, HUB, wire.websocket, Shutdown(), watchers
            )
            await wire.say(WATCH)
            await wait_all_tasks_blocked()
            wires.append(wire)
        broken, other = wires
        monkeypatch.setattr(broken.websocket, "send_at_once", lambda _: 1 / 0)
        for name in "ab":
            await registry.register(Register(name=name, host="h", port=1))
            await wait_all_tasks_blocked()
        assert kinds(other) == [1, "backend_registered", "backend_registered"]
        assert kinds(broken) == [1]
        assert caplog.text.count("changes could not be sent") == 1
        nursery.cancel_scope.cancel()


async def test_a_request_that_came_with_the_handshake_is_answered_before_the_end(
    tmp_path: Path,
) -> None:
    shutdown, disk = Shutdown(), Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        wire = ScriptedPeer(nursery)
        register = '"method":"registry.register","params":{"name":"a","host":"h","port":1}'
        batch = f'[{{"jsonrpc":"2.0","id":6,{register}}},{{"jsonrpc":"2.0","id":7,{register}}}]'
        wire.websocket.reader.feed(encode_frame(Opcode.TEXT, batch.encode(), mask=MASK))
        disk.barrier = barrier = trio.Event()
        nursery.start_soon(serve_scripted, registry, HUB, wire, shutdown)
        await wait_all_tasks_blocked()
        shutdown.begin()
        await wait_all_tasks_blocked()
        disk.barrier = None
        barrier.set()
    (answers,) = map(msgspec.json.decode, wire.frames)
    assert ["result" in each for each in answers] == [True, True]


async def test_an_answer_does_not_wait_for_the_next_request(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        wire = ScriptedPeer(nursery)
        disk.barrier = trio.Event()
        for method, params in (
            ("registry.get", '{"name":"a"}'),
            ("registry.register", '{"name":"a","host":"h","port":1}'),
        ):
            text = f'{{"jsonrpc":"2.0","id":"{method}","method":"{method}","params":{params}}}'
            wire.websocket.reader.feed(encode_frame(Opcode.TEXT, text.encode(), mask=MASK))
        nursery.start_soon(serve_scripted, registry, HUB, wire, Shutdown())
        await wait_all_tasks_blocked()
        before = kinds(wire)
        disk.barrier.set()
        await wait_all_tasks_blocked()
        assert before == ["registry.get"]
        assert kinds(wire) == ["registry.get", "registry.register"]
        nursery.cancel_scope.cancel()


async def test_watches_share_frames_only_if_they_differ_in_their_numbers(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        changes = ChangeFrames(registry.change_log, registry.catalog, registry.now)
        responders = [Handler(registry, HUB, numbers_after=after) for after in (7, 8, 9, 98)]
        for responder in responders:
            await answered(responder, WATCH)
            responder.note_sent()
            responder.subscriptions.due(changes, 0)  # what there is
        for name in "ab":
            await registry.register(Register(name=name, host="h", port=1))
        numbers: list[int] = []
        for responder in responders:
            texts = texts_of(responder.subscriptions.due(changes, changes.log.revision))
            events = [msgspec.json.decode(text)["params"] for text in texts]
            assert [each["result"]["backend"]["name"] for each in events] == ["a", "b"]
            numbers += {each["subscription"] for each in events}
        assert numbers == [8, 9, 10, 99]
