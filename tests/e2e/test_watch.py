"""The change stream of a real server: every way in, resuming, restarts, and slow readers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.e2e.harness import dial, running_registry
from tests.e2e.test_config_file import NO_HUB, Config, entry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.harness import Peer

Json = dict[str, object]
LIMIT_SECONDS = 40
GOING_AWAY = 1001
# Together they are far more than fits into the buffers of a socket.
CHANGES = 3000


async def watched(peer: Peer, **params: object) -> int:
    """Begin a direct watch, and give its number."""
    answer = await peer.ask("registry.watch", **params)
    assert type(answer["result"]) is int
    return answer["result"]


async def frame_of(peer: Peer) -> Json:
    """The next frame, whatever it is."""
    return msgspec.convert(await peer.receive(), Json)


async def event(peer: Peer, number: int) -> Json:
    """The next frame, which must be an event of a direct watch."""
    frame = await frame_of(peer)
    assert frame.keys() == {"jsonrpc", "method", "params"}
    assert frame["method"] == "registry.event"
    params = msgspec.convert(frame["params"], Json)
    assert params.keys() == {"subscription", "result"}
    assert params["subscription"] == number
    return msgspec.convert(params["result"], Json)


def short(change: Json) -> tuple[object, object, object]:
    """Type, revision and name of an event."""
    backend = msgspec.convert(change.get("backend") or {}, Json)
    return change["type"], change["revision"], change.get("name", backend.get("name"))


async def test_each_kind_of_change_is_told_with_its_revision(tmp_path: Path) -> None:
    config = Config(tmp_path)
    options = (NO_HUB, "--poll-interval=0.05", "--stale-after=0.2", "--sweep-interval=0.05")
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, *options) as server:
            async with dial(server.url) as watcher, dial(server.url) as peer:
                number = await watched(watcher)
                assert await event(watcher, number) == {
                    "type": "snapshot",
                    "revision": 0,
                    "backends": [],
                }
                replies = [
                    await peer.call("registry.register", name="a", host="h", port=1),
                    await peer.call("registry.update", name="a", port=2),
                    await peer.call("registry.deregister", name="a"),
                    await peer.call("registry.ping", name="a"),
                ]
                assert [each["revision"] for each in replies] == [1, 2, 3, 4]
                told = [await event(watcher, number) for _ in range(5)]
                assert [short(each) for each in told] == [
                    ("backend_registered", 1, "a"),
                    ("backend_updated", 2, "a"),
                    ("backend_stale", 3, "a"),
                    ("backend_active", 4, "a"),
                    ("backend_stale", 5, "a"),  # the ping was the last one
                ]
                assert all(type(each["at"]) is int for each in told)
                assert told[0] == {**replies[0], "at": told[0]["at"]}
                assert told[1] == {**replies[1], "at": told[1]["at"]}
                await peer.call("registry.delete", name="a")
                config.write(entry("b"))
                told = [await event(watcher, number) for _ in range(3)]
                assert [short(each) for each in told] == [
                    ("backend_deleted", 6, "a"),
                    ("backend_registered", 7, "b"),
                    ("reloaded", 8, None),
                ]
                assert (told[2]["count"], told[2]["added"]) == (1, ["b"])
                assert (await peer.call("registry.list"))["revision"] == 8


async def test_a_mere_ping_and_a_refusal_are_no_changes(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB) as server, dial(server.url) as peer:
            await peer.call("registry.register", name="a", host="h", port=1)
            assert "revision" not in await peer.call("registry.ping", name="a")
            await peer.error("registry.register", name="a", host="h", port=2)
            await peer.error("registry.delete", name="b")
            assert (await peer.call("registry.list"))["revision"] == 1


async def hub_items(peer: Peer, number: int, count: int) -> list[Json]:
    items = []
    for _ in range(count):
        frame = await frame_of(peer)
        params = msgspec.convert(frame["params"], Json)
        assert (frame["method"], params["subscription"]) == ("registry-hub.call", number)
        items.append(msgspec.convert(params["result"], Json))
    return items


async def test_through_the_hub_they_are_data_items_until_unsubscribed(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB) as server:
            async with dial(server.url) as watcher, dial(server.url) as peer:
                answer = await watcher.exchange(
                    '{"jsonrpc":"2.0","id":1,"method":"registry-hub.call","params":'
                    '{"method":"registry.watch","params":{"name":"a","since":null}}}'
                )
                number = msgspec.convert(msgspec.convert(answer, Json)["result"], int)
                assert answer == {"jsonrpc": "2.0", "id": 1, "result": number}
                (snapshot,) = await hub_items(watcher, number, 1)
                assert snapshot["type"] == "data"
                assert snapshot["content_type"] == "registry.watch"
                assert msgspec.convert(snapshot["metadata"], Json)["provenance"] == ["registry"]
                for name in ("a", "b"):
                    await peer.call("registry.register", name=name, host="h", port=1)
                await peer.call("registry.delete", name="a")
                told = await hub_items(watcher, number, 2)
                contents = [msgspec.convert(each["content"], Json) for each in told]
                assert [short(each) for each in contents] == [
                    ("backend_registered", 1, "a"),
                    ("backend_deleted", 3, "a"),
                ]
                unsubscribe = (
                    '{"jsonrpc":"2.0","id":9,"method":"registry-hub.call_unsub",'
                    f'"params":[{number}]}}'
                )
                assert await watcher.exchange(unsubscribe) == {
                    "jsonrpc": "2.0",
                    "id": 9,
                    "result": True,
                }
                await peer.call("registry.register", name="a", host="h", port=1)
                assert await watcher.names() == ["a", "b"]


async def test_an_unwatch_is_the_last_that_is_heard_of_a_watch(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB) as server, dial(server.url) as peer:
            first = await watched(peer)
            assert (await event(peer, first))["type"] == "snapshot"
            second = await watched(peer, since=0)
            assert second == first + 1
            request = '{"jsonrpc":"2.0","id":7,"method":"registry.unwatch","params":%s}'
            live, other = f"[{first}]", f"[{first + 98}]"
            for params, was_live in ((live, True), (live, False), (other, False), ("[]", False)):
                reply = await peer.exchange(request % params)
                assert reply == {"jsonrpc": "2.0", "id": 7, "result": was_live}
            await peer.ws.send_message(
                '{"jsonrpc":"2.0","id":8,"method":"registry.register",'
                '"params":{"name":"a","host":"h","port":1}}'
            )
            frames = [await frame_of(peer), await frame_of(peer)]
            told, answer = sorted(frames, key=lambda frame: "id" in frame)
            assert msgspec.convert(told["params"], Json)["subscription"] == second
            assert msgspec.convert(answer["result"], Json)["revision"] == 1


@pytest.mark.parametrize("is_kill", [False, True], ids=["stop", "kill"])
async def test_a_watch_is_resumed_after_a_restart_without_a_gap(
    tmp_path: Path, *, is_kill: bool
) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB) as server, dial(server.url) as peer:
            for port in range(1, 6):
                await peer.call("registry.register", name="a", host="h", port=port, replace=True)
            await (server.kill() if is_kill else server.stop())
        async with running_registry(tmp_path, NO_HUB) as server, dial(server.url) as peer:
            number = await watched(peer, since=2)
            told = [await event(peer, number) for _ in range(3)]
            assert [short(each)[1] for each in told] == [3, 4, 5]
            assert await watched(peer, since=5) == number + 1
            assert (await peer.call("registry.get", name="a"))["type"] == "backend"
            last = await watched(peer, since=6)
            assert last == number + 2
            assert await event(peer, last) == {"type": "compacted", "revision": 5}
            assert (await event(peer, last))["type"] == "snapshot"


def registrations(ports: range, **params: object) -> str:
    """A batch that registers a name again and again, each time at another port."""
    calls = [
        {
            "jsonrpc": "2.0",
            "method": "registry.register",
            "params": {"name": "a", "host": "h", "port": port, "replace": True, **params},
        }
        for port in ports
    ]
    return msgspec.json.encode(calls).decode()


async def test_the_last_changes_are_kept_and_no_more(tmp_path: Path) -> None:
    kept = 100
    with trio.fail_after(LIMIT_SECONDS):
        fewer = f"--keep-changes={kept}"
        async with running_registry(tmp_path, NO_HUB, fewer) as server:
            async with dial(server.url) as peer:
                await peer.ws.send_message(registrations(range(1, kept + 6)))
                assert (await peer.call("registry.list"))["revision"] == kept + 5
            await server.kill()
        with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM changes").fetchone()
        assert rows == kept
        async with running_registry(tmp_path, NO_HUB, fewer) as server:
            async with dial(server.url) as peer:
                number = await watched(peer, since=5)
                told = [short(await event(peer, number))[1] for _ in range(kept)]
                assert told == [*range(6, kept + 6)]
                number = await watched(peer, since=4)
                assert await event(peer, number) == {"type": "compacted", "revision": kept + 5}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"since": -1}, "since"),
        ({"since": True}, "since"),
        ({"since": "1"}, "since"),
        ({"name": 5}, "name"),
        ({"since": 0, "nmae": "a"}, "did you mean name"),
    ],
)
async def test_wrong_parameters_are_refused(tmp_path: Path, params: Json, said: str) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB) as server, dial(server.url) as peer:
            error = await peer.error("registry.watch", **params)
            assert error["code"] == -32602
            assert said in str(error["message"])


async def test_a_batch_of_watches_is_answered_before_any_event(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB, "--max-subscriptions=2") as server:
            async with dial(server.url) as peer:
                request = '{"jsonrpc":"2.0","id":%d,"method":"registry.watch"}'
                notification = '{"jsonrpc":"2.0","method":"registry.watch"}'
                batch = ",".join([request % 1, notification, request % 2, request % 3])
                await peer.ws.send_message(f"[{batch}]")
                answers = msgspec.convert(await peer.receive(), list[Json])
                numbers = [msgspec.convert(each["result"], int) for each in answers[:2]]
                assert numbers[1] == numbers[0] + 1
                assert msgspec.convert(answers[2]["error"], Json)["code"] == -32006
                assert {(await event(peer, number))["type"] for number in numbers} == {"snapshot"}


async def test_a_reader_that_stops_hinders_nobody_and_is_cut_off(tmp_path: Path) -> None:
    """Its socket fills, then its watch falls out of what is kept, and it can go on from there."""
    patience = f"--unread-seconds={3 * LIMIT_SECONDS}"
    kept, step = 200, 100
    fewer = f"--keep-changes={kept}"
    with trio.fail_after(3 * LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB, patience, fewer) as server:
            async with dial(server.url, receive_buffer=100_000) as slow, dial(server.url) as peer:
                number = await watched(slow)
                first = await event(slow, number)
                assert first["type"] == "snapshot"
                for start in range(1, CHANGES, step):
                    ports = range(start, start + step)
                    await peer.ws.send_message(registrations(ports, description="x" * 4000))
                assert (await peer.call("registry.list"))["revision"] == CHANGES
                seen = 0
                while (change := await event(slow, number))["type"] == "backend_registered" or (
                    change["type"] == "backend_updated"
                ):
                    seen += 1
                    assert change["revision"] == seen
                assert change["type"] == "error"
                assert (change["code"], change["revision"]) == ("too_slow", seen)
                assert seen < CHANGES - kept
                number = await watched(slow, since=seen)
                assert await event(slow, number) == {"type": "compacted", "revision": CHANGES}


async def test_a_stop_says_goodbye_to_watchers(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, NO_HUB) as server, dial(server.url) as peer:
            number = await watched(peer)
            await event(peer, number)
            assert await server.stop() == 0
            with pytest.raises(ConnectionClosed) as closed:
                await peer.receive()
            assert closed.value.reason is not None
            assert closed.value.reason.code == GOING_AWAY
