"""Watches of the client library, against a scripted registry."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from plexus_registry import RegistryUnavailableError, WatchEnded
from plexus_registry.client.exchange import BUFFERED_EVENTS
from plexus_registry.rules import events
from plexus_registry.rules.errors import MethodNotFoundError
from tests.client.scripted import BACKEND, PINGED, event_frame, response, scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from plexus_registry.client.connection import RegistryClient
    from plexus_registry.client.exchange import WatchEvent
    from tests.client.scripted import ScriptedPeer

SNAPSHOT: dict[str, object] = {"type": "snapshot", "revision": 3, "backends": [BACKEND]}


def deleted(revision: int) -> dict[str, object]:
    return {"type": "backend_deleted", "revision": revision, "name": "hub"}


@asynccontextmanager
async def watching(
    client: RegistryClient, peer: ScriptedPeer, *first: dict[str, object], number: int = 9
) -> AsyncIterator[AsyncIterator[WatchEvent]]:
    """Begin a watch, whose first events come in one packet with the subscription number."""

    async def accept() -> None:
        request = await peer.receive()
        assert request["method"] == "registry.watch"
        await peer.send(response(request, number), *(event_frame(number, event) for event in first))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            async with client.watch() as feed:
                yield feed


async def test_every_kind_of_event_is_a_record() -> None:
    sent = [
        SNAPSHOT,
        *(
            {"type": f"backend_{what}", "revision": 4, "backend": BACKEND, "later": 1}
            for what in ("registered", "updated", "stale", "active")
        ),
        deleted(8),
        {"type": "reloaded", "revision": 9, "count": 2, "added": ["a"]},
        {"type": "from the future", "revision": 10},
        {"type": "compacted", "revision": 11},
    ]
    async with scripted() as (client, peer), watching(client, peer, *sent) as feed:
        got = [await anext(feed) for _ in range(8)]
    assert [type(event) for event in got] == [
        *(events.Snapshot, events.BackendRegistered, events.BackendUpdated),
        *(events.BackendStale, events.BackendActive, events.BackendDeleted),
        *(events.Reloaded, events.Compacted),
    ]
    assert isinstance(got[0], events.Snapshot)
    assert got[0].backends[0].url == "ws://h:1"
    assert [event.revision for event in got] == [3, 4, 4, 4, 4, 8, 9, 11]


async def test_only_what_was_given_is_asked_for() -> None:
    async with scripted() as (client, peer), trio.open_nursery() as nursery:

        async def watch() -> None:
            async with client.watch(since=0, namespace="n"):
                pass

        nursery.start_soon(watch)
        request = await peer.receive()
        assert request["params"] == {"since": 0, "namespace": "n"}
        await peer.answer(request, 1)
        assert (await peer.receive())["params"] == [1]


async def test_leaving_ends_the_subscription_and_nobody_waits_on() -> None:
    async with scripted() as (client, peer):
        async with watching(client, peer, number=5) as feed:
            pass
        request = await peer.receive()
        assert (request["method"], request["params"]) == ("registry.unwatch", [5])
        await peer.send(event_frame(5, deleted(1)), response(request, result=True))
        with pytest.raises(trio.ClosedResourceError):
            await anext(feed)


async def test_two_watches_and_a_call_do_not_mix() -> None:
    async with (
        scripted() as (client, peer),
        watching(client, peer, deleted(1), number=1) as one,
        watching(client, peer, deleted(2), number=2) as two,
    ):
        await peer.send(event_frame(3, deleted(9)), event_frame(1, deleted(3)))
        assert (await anext(two)).revision == 2
        assert [(await anext(one)).revision for _ in range(2)] == [1, 3]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping, "hub")
            await peer.answer(await peer.receive(), PINGED)


async def test_a_watch_that_is_cut_off_says_where_to_resume() -> None:
    end: dict[str, object] = {
        "type": "error",
        "message": "you are too slow",
        "code": "too_slow",
        "revision": 3,
    }
    async with (
        scripted() as (client, peer),
        watching(client, peer, SNAPSHOT, end) as feed,
    ):
        await anext(feed)
        for _ in range(2):
            with pytest.raises(WatchEnded, match="you are too slow") as caught:
                await anext(feed)
            assert (caught.value.code, caught.value.revision) == ("too_slow", 3)


@pytest.mark.slow
async def test_a_reader_that_was_not_even_given_its_snapshot_has_nothing_to_resume_from() -> None:
    compacted: dict[str, object] = {"type": "compacted", "revision": 9}
    async with scripted() as (client, peer), watching(client, peer) as feed:
        await peer.send(*[event_frame(9, compacted)] * (BUFFERED_EVENTS + 1))
        assert (await peer.receive())["method"] == "registry.unwatch"
        for _ in range(BUFFERED_EVENTS):
            await anext(feed)
        with pytest.raises(WatchEnded) as caught:
            await anext(feed)
        assert caught.value.revision is None


@pytest.mark.slow
async def test_a_reader_that_is_too_slow_is_cut_off_and_others_are_not() -> None:
    async with scripted() as (client, peer):
        async with watching(client, peer) as feed:
            frames = [event_frame(9, deleted(n)) for n in range(1, BUFFERED_EVENTS + 3)]
            await peer.send(*frames)
            assert (await peer.receive())["method"] == "registry.unwatch"
            revisions = [(await anext(feed)).revision for _ in range(BUFFERED_EVENTS)]
            assert revisions == [*range(1, BUFFERED_EVENTS + 1)]
            with pytest.raises(WatchEnded, match="16384 events wait") as caught:
                await anext(feed)
            assert caught.value.revision == BUFFERED_EVENTS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping, "hub")
            await peer.answer(await peer.receive(), PINGED)


@pytest.mark.slow
async def test_a_reader_that_takes_a_whole_replay_one_by_one_is_not_too_slow() -> None:
    """A registry keeps 10,000 changes, and sends them at once to who asks for them."""
    replay = [deleted(revision) for revision in range(1, 10_001)]
    async with scripted() as (client, peer), watching(client, peer, *replay) as feed:
        for revision in range(1, 10_001):
            await trio.lowlevel.checkpoint()  # what it does with an event
            assert (await anext(feed)).revision == revision


async def test_a_lost_connection_comes_after_the_events_that_came() -> None:
    async with (
        scripted() as (client, peer),
        watching(client, peer, SNAPSHOT, deleted(4)) as feed,
    ):
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(peer.stream)
        await client.wait_lost()
        assert [(await anext(feed)).revision for _ in range(2)] == [3, 4]
        with pytest.raises(RegistryUnavailableError):
            await anext(feed)


@pytest.mark.parametrize("missing", ["name", "revision"])
async def test_an_event_without_what_it_needs_ends_the_connection(missing: str) -> None:
    """To pass it over would be a gap that nobody sees."""
    event = deleted(4)
    del event[missing]
    async with scripted() as (client, peer), watching(client, peer, event) as feed:
        with pytest.raises(RegistryUnavailableError, match="makes no sense"):
            await anext(feed)


async def test_a_watch_that_is_given_up_before_its_answer_is_ended(
    autojump_clock: MockClock,
) -> None:
    async with scripted() as (client, peer):
        with trio.move_on_after(1):
            async with client.watch():
                raise AssertionError
        request = await peer.receive()
        await peer.send(response(request, 7), event_frame(7, SNAPSHOT))
        request = await peer.receive()
        assert (request["method"], request["params"]) == ("registry.unwatch", [7])


async def test_a_registry_without_watches_says_so() -> None:
    async with scripted() as (client, peer), trio.open_nursery() as nursery:

        async def watch() -> None:
            with pytest.raises(MethodNotFoundError):
                async with client.watch():
                    raise AssertionError

        nursery.start_soon(watch)
        await peer.refuse(await peer.receive(), -32601)


async def test_a_subscription_that_is_no_number_is_no_answer() -> None:
    async with scripted() as (client, peer), trio.open_nursery() as nursery:

        async def watch() -> None:
            with pytest.raises(
                RegistryUnavailableError, match=r"answer to registry\.watch makes no sense"
            ):
                async with client.watch():
                    raise AssertionError

        nursery.start_soon(watch)
        await peer.answer(await peer.receive(), "x")
