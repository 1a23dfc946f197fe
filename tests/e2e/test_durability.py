"""Acknowledged means durable, and what could not be saved did not happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import ConnectionClosed

from plexus_registry.client.connection import connect
from tests.e2e.database import stored_rows
from tests.e2e.harness import (
    Peer,
    dial,
    eventually,
    running_registry,
)

if TYPE_CHECKING:
    from pathlib import Path

NAME_TAKEN = -32002
OPTIONS = ("--no-auto-register", "--poll-interval=3600")
Backends = dict[str, dict[str, object]]


async def shown(peer: Peer) -> Backends:
    return {str(each["name"]): each for each in await peer.backends()}


async def shown_by(url: str) -> Backends:
    async with dial(url) as peer:
        return await shown(peer)


async def register_on_and_on(url: str, prefix: str, acknowledged: Backends) -> None:
    """Register one new name after the other until the connection dies, noting each answer."""
    async with dial(url) as peer:
        for number in range(100_000):
            name = f"{prefix}-{number}"
            try:
                event = await peer.call("registry.register", name=name, host="h", port=number + 1)
            except ConnectionClosed:
                return
            assert isinstance(event["backend"], dict)
            acknowledged[name] = event["backend"]


@pytest.mark.parametrize("enough", [10, 400])
async def test_a_kill_loses_no_acknowledged_register(tmp_path: Path, enough: int) -> None:
    acknowledged: Backends = {}
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as server:
            async with trio.open_nursery() as nursery:
                for prefix in "abcdefgh":
                    nursery.start_soon(register_on_and_on, server.url, prefix, acknowledged)
                await eventually(lambda: len(acknowledged) >= enough)
                await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server:
            kept = await shown_by(server.url)
    assert {name: kept.get(name) for name in acknowledged} == acknowledged
    # At most the one request that each connection had in flight is there unacknowledged.
    assert len(kept) <= len(acknowledged) + 8


async def test_a_kill_loses_no_acknowledged_change_of_the_history(tmp_path: Path) -> None:
    acknowledged: Backends = {}
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as server:
            async with trio.open_nursery() as nursery:
                for prefix in "abcd":
                    nursery.start_soon(register_on_and_on, server.url, prefix, acknowledged)
                await eventually(lambda: len(acknowledged) >= 200)
                await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server, connect(server.url) as client:
            changes = await client.history(limit=1000)
            while len(page := await client.history(before=changes[-1].revision, limit=1000)):
                changes += page
            kept = await client.list(active_only=False)
    assert [each.revision for each in changes] == [*range(len(changes), 0, -1)]
    assert {each.name: each.after for each in changes} == {each.name: each for each in kept}
    assert {each.name for each in changes} >= acknowledged.keys()
    for each in changes:
        assert each.by is not None
        assert (each.by.method, each.by.token) == ("registry.register", "none")


async def test_a_kill_loses_nothing_else_that_was_acknowledged(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            async with dial(server.url) as peer:
                for name in ("updated", "deleted", "gone", "moved", "registered-again"):
                    await peer.call("registry.register", name=name, host="h", port=1)
                await peer.call("registry.update", name="updated", port=2, description="new")
                await peer.call("registry.delete", name="deleted")
                await peer.call("registry.deregister", name="gone")
                await peer.call("registry.register", name="moved", host="h2", port=2, source="auto")
                await peer.call("registry.delete", name="registered-again")
                await peer.call("registry.register", name="registered-again", host="h", port=3)
                before = await shown(peer)
            await server.kill()
        assert before.keys() == {"updated", "gone", "moved", "registered-again"}
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert await shown_by(server.url) == before


async def test_a_ping_is_on_the_disk_a_second_later(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            async with dial(server.url) as peer:
                # Each time a change and then a ping: the writer must hear of every ping.
                for name in ("a", "b"):
                    await peer.call("registry.register", name=name, host="h", port=1)
                    await peer.call("registry.ping", name=name)
                    await eventually(
                        lambda: all(row["last_seen"] for row in stored_rows(tmp_path)), within=5
                    )
                pinged = await shown(peer)
            await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert await shown_by(server.url) == pinged


async def test_a_deleted_name_stays_deleted_whatever_else_happens(tmp_path: Path) -> None:
    # A ping of a name that waits for the disk must not bring it back, neither now nor later.
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            async with dial(server.url) as peer, dial(server.url) as other:
                await peer.call("registry.register", name="a", host="h", port=1)
                await peer.call("registry.register", name="marker", host="h", port=1)
                await other.call("registry.ping", name="a")
                await peer.call("registry.delete", name="a")
                assert (await other.call("registry.ping", name="a"))["success"] is False
                await peer.call("registry.ping", name="marker")
                await eventually(lambda: all(row["last_seen"] for row in stored_rows(tmp_path)))
                assert await peer.names() == ["marker"]
            await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert (await shown_by(server.url)).keys() == {"marker"}


async def test_of_many_claims_at_once_one_wins_and_all_hear_of_it(tmp_path: Path) -> None:
    answers: list[dict[str, object]] = []

    async def claim(url: str, port: int) -> None:
        async with dial(url) as peer:
            await peer.names()
            answers.append(await peer.ask("registry.register", name="a", host="h", port=port))

    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            async with trio.open_nursery() as nursery:
                for port in range(1, 17):
                    nursery.start_soon(claim, server.url, port)
            winner = (await shown_by(server.url))["a"]
            await server.kill()
        results = [each["result"] for each in answers if "result" in each]
        assert results == [{"type": "backend_registered", "revision": 1, "backend": winner}]
        for refused in (each["error"] for each in answers if "error" in each):
            assert isinstance(refused, dict)
            assert (refused["code"], refused["data"]["holder"]) == (NAME_TAKEN, winner)
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert await shown_by(server.url) == {"a": winner}


async def stir(url: str, seed: int) -> None:
    """Change three names in every way, again and again."""
    async with dial(url) as peer:
        for step in range(30):
            name = "abc"[(seed + step) % 3]
            port = 1 + step % 3
            await peer.ask("registry.register", name=name, host="h", port=port, source="auto")
            await peer.ask("registry.ping", name=name)
            await peer.ask("registry.update", name="abc"[step % 3], description=str(step))
            verb = ("delete", "deregister", "ping")[(seed * 7 + step) % 3]
            await peer.ask(f"registry.{verb}", name=name)


async def test_what_was_shown_before_a_clean_stop_is_shown_after_it(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as server:
            async with trio.open_nursery() as nursery:
                for seed in range(6):
                    nursery.start_soon(stir, server.url, seed)
            async with dial(server.url) as peer:
                # A ping beside a `deregister` may revive its backend up to a second later; one
                # beside nothing does so at once, and leaves nothing to do later.
                for name in "abc":
                    await peer.ask("registry.ping", name=name)
                await peer.ask("registry.deregister", name="b")
            before = await shown_by(server.url)
            assert await server.stop() == 0
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert await shown_by(server.url) == before
