"""What could not be saved did not happen, the caller hears it, and the server serves on."""

from __future__ import annotations

import resource
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from tests.e2e.database import locked_database, stored_rows
from tests.e2e.harness import (
    Peer,
    ServerProcess,
    dial,
    eventually,
    running_registry,
    with_prelude,
)
from tests.e2e.raw import WebSocket, wire_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

STORAGE_FAILED = -32004
OPTIONS = ("--no-auto-register", "--poll-interval=0.05")


@contextmanager
def full_disk(server: ServerProcess, _folder: Path) -> Iterator[None]:
    """No file of the server can grow or be written beyond its first byte."""
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
    yield
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def database_moved_away(_server: ServerProcess, folder: Path) -> Iterator[None]:
    (folder / "registry.db").rename(folder / "away.db")
    yield
    (folder / "away.db").rename(folder / "registry.db")


@contextmanager
def folder_moved_away(_server: ServerProcess, folder: Path) -> Iterator[None]:
    away = folder.with_name("away")
    folder.rename(away)
    yield
    away.rename(folder)


@contextmanager
def other_database_in_its_place(_server: ServerProcess, folder: Path) -> Iterator[None]:
    (folder / "registry.db").rename(folder / "away.db")
    (folder / "registry.db").write_bytes((folder / "away.db").read_bytes())
    yield
    (folder / "away.db").replace(folder / "registry.db")


@contextmanager
def held_by_another_program(_server: ServerProcess, folder: Path) -> Iterator[None]:
    with locked_database(folder):
        yield


CHANGES = (
    ("register", {"name": "new", "host": "h", "port": 9}),
    ("register", {"name": "a", "host": "elsewhere", "port": 9, "replace": True}),
    ("update", {"name": "a", "description": "changed"}),
    ("deregister", {"name": "a"}),
    ("delete", {"name": "a"}),
)
TROUBLES = [full_disk, database_moved_away, folder_moved_away, other_database_in_its_place]


async def refuse_all(peer: Peer) -> None:
    before = await peer.backends()
    for verb, params in CHANGES:
        error = await peer.error(f"registry.{verb}", **params)
        assert error["code"] == STORAGE_FAILED
        data = error["data"]
        assert isinstance(data, dict)
        assert data["code"] == "storage_failed"
        assert data["reason"]
        assert await peer.backends() == before
    assert await peer.get("new") is None


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_nothing_happens_and_all_is_well_again_after(
    tmp_path: Path, trouble: Callable[[ServerProcess, Path], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with trio.fail_after(40):
        async with running_registry(folder, *OPTIONS) as server, dial(server.url) as peer:
            await peer.call("registry.register", name="a", host="h", port=1)
            await peer.call("registry.register", name="b", host="h", port=2)
            before = stored_rows(folder)
            with trouble(server, folder):
                await refuse_all(peer)
            assert stored_rows(folder) == before
            await peer.call("registry.delete", name="a")
            await peer.call("registry.register", name="new", host="h", port=9)
            await server.kill()
        assert [row["name"] for row in stored_rows(folder)] == ["b", "new"]


@pytest.mark.parametrize("trouble", [full_disk, database_moved_away])
async def test_the_health_page_shows_it_until_it_is_repaired(
    tmp_path: Path, trouble: Callable[[ServerProcess, Path], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()

    async def shown(wire: WebSocket) -> tuple[int, object, object]:
        reply = await wire.ask("/healthz")
        health = msgspec.json.decode(reply.body, type=dict[str, object])
        return reply.status, health["status"], health["storage"]

    with trio.fail_after(40):
        async with running_registry(folder, *OPTIONS) as server:
            async with dial(server.url) as peer, wire_to(server.port) as wire:
                well = (200, "ok", {"state": "ok"})
                assert await shown(wire) == well
                before = int(time.time())
                with trouble(server, folder):
                    error = await peer.error("registry.register", name="a", host="h", port=1)
                    data = error["data"]
                    assert isinstance(data, dict)
                    status, working, storage = await shown(wire)
                    assert (status, working) == (200, "degraded")
                    assert isinstance(storage, dict)
                    assert storage.keys() == {"state", "since", "reason"}
                    assert storage["state"] == "failing"
                    assert before <= storage["since"] <= time.time()
                    assert storage["reason"] == data["reason"]
                    assert await peer.names() == []

                async def is_well() -> bool:
                    return await shown(wire) == well

                await eventually(is_well)  # though nobody makes a change
                await server.kill()
        assert stored_rows(folder) == []
        assert "storage works again" in server.log


async def test_everyone_in_a_group_hears_that_it_was_not_saved(tmp_path: Path) -> None:
    codes: list[object] = []

    async def change(url: str, number: int, ready: trio.Event) -> None:
        async with dial(url) as peer:
            await peer.names()
            await ready.wait()
            name = f"new-{number}"
            error = await peer.error("registry.register", name=name, host="h", port=1)
            codes.append(error["code"])

    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            await peer.call("registry.register", name="a", host="h", port=1)
            ready = trio.Event()
            with full_disk(server, tmp_path):
                async with trio.open_nursery() as nursery:
                    for number in range(12):
                        nursery.start_soon(change, server.url, number, ready)
                    ready.set()
            assert codes == [STORAGE_FAILED] * 12
            assert await peer.names() == ["a"]
            await peer.call("registry.register", name="new-1", host="h", port=1)
            await server.kill()
        assert [row["name"] for row in stored_rows(tmp_path)] == ["a", "new-1"]


async def test_pings_wait_until_the_disk_is_back(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            await peer.call("registry.register", name="a", host="h", port=1)
            with database_moved_away(server, tmp_path):
                assert (await peer.call("registry.ping", name="a"))["success"] is True
                await eventually(lambda: "pings not saved" in server.log)
                pinged = await peer.get("a")
            await eventually(lambda: "pings are saved again" in server.log)
            await server.kill()
        assert pinged is not None
        assert [row["last_seen"] for row in stored_rows(tmp_path)] == [pinged["last_seen"]]


async def test_a_config_change_waits_until_the_disk_is_back(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            with database_moved_away(server, tmp_path):
                write_config(tmp_path)
                await eventually(lambda: "config file not applied yet" in server.log)
                assert await peer.names() == []

            async def is_applied() -> bool:
                return await peer.names() == ["from-file"]

            await eventually(is_applied)
            await server.kill()
        assert [row["name"] for row in stored_rows(tmp_path)] == ["from-file"]


async def test_a_reload_that_cannot_be_saved_changes_nothing(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS[:1]) as server, dial(server.url) as peer:
            write_config(tmp_path)
            await peer.call("registry.reload")
            await peer.call("registry.delete", name="from-file")
            with full_disk(server, tmp_path):
                error = await peer.error("registry.reload")
                assert error["code"] == STORAGE_FAILED
                assert await peer.names() == []
            assert await peer.names() == []
            await peer.call("registry.reload")
            assert await peer.names() == ["from-file"]


async def test_a_write_ahead_log_that_is_gone_is_noticed(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            await peer.call("registry.register", name="a", host="h", port=1)
            (tmp_path / "registry.db-wal").unlink()
            answer = await peer.ask("registry.register", name="b", host="h", port=1)
            assert "a" in await peer.names()
            await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            # Refused, or done and durable: one or the other.
            assert ("result" in answer) == ("b" in await peer.names())


async def test_without_its_lock_file_a_registry_writes_nothing(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS) as first, dial(first.url) as peer:
            (tmp_path / "registry.db.lock").unlink()
            async with running_registry(tmp_path, *OPTIONS) as second, dial(second.url) as other:
                await other.call("registry.register", name="a", host="h", port=1)
                error = await peer.error("registry.register", name="b", host="h", port=1)
                assert error["code"] == STORAGE_FAILED
                assert "lock" in str(error["message"])
                assert await other.names() == ["a"]


def write_config(folder: Path) -> None:
    (folder / "backends.toml").write_text('[[backend]]\nname = "from-file"\nhost="h"\nport=1\n')


async def test_a_database_that_another_program_holds_is_waited_for(tmp_path: Path) -> None:
    with trio.fail_after(40):
        impatient = with_prelude(
            "import plexus_registry.storage.opening as s; s.BUSY_TIMEOUT = 0.7"
        )
        # `post` needs a pong while the database is held.
        quick = "--ping-interval=0.2"
        async with running_registry(tmp_path, *OPTIONS, quick, command=impatient) as server:
            async with dial(server.url) as peer, dial(server.url) as reader:
                with held_by_another_program(server, tmp_path):
                    waiting = await peer.post("registry.register", name="a", host="h", port=1)
                    assert await reader.names() == []
                answer = await peer.receive()
                assert isinstance(answer, dict)
                assert (answer["id"], "result" in answer) == (waiting, True)
                # Held for longer than a write waits.
                with held_by_another_program(server, tmp_path):
                    error = await peer.error("registry.register", name="b", host="h", port=1)
                    assert error["code"] == STORAGE_FAILED
                    assert await reader.names() == ["a"]
                await peer.call("registry.register", name="b", host="h", port=1)
                await server.kill()
        assert [row["name"] for row in stored_rows(tmp_path)] == ["a", "b"]
