"""The config file is watched: a change is applied as a whole, soon, or not at all."""

from __future__ import annotations

import resource
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest
import trio

from tests.e2e.harness import (
    Peer,
    ServerProcess,
    dial,
    eventually,
    running_registry,
    without_root_powers,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

POLL = "--poll-interval=0.05"
NO_HUB = "--no-auto-register"


def entry(name: str, port: int = 1, **more: str) -> str:
    members = {"name": f'"{name}"', "host": '"h"', "port": port, **more}
    return "\n".join(["[[backend]]", *(f"{k} = {v}" for k, v in members.items()), ""])


class Save(Protocol):
    """A way to save a config file."""

    def __call__(self, config: Config, /, *entries: str) -> None: ...


class Config:
    """The config file of a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "backends.toml"

    def write(self, *entries: str) -> None:
        """Write it in place."""
        self.path.write_text("".join(entries))

    def replace(self, *entries: str) -> None:
        """Write beside it, and rename, as most editors do."""
        new = self.path.with_suffix(".new")
        new.write_text("".join(entries))
        new.replace(self.path)

    def remove_and_write(self, *entries: str) -> None:
        self.path.unlink()
        self.path.write_text("".join(entries))

    def remove(self) -> None:
        self.path.unlink()


@asynccontextmanager
async def watched(
    folder: Path, *entries: str, poll: str = POLL
) -> AsyncIterator[tuple[ServerProcess, Peer, Config]]:
    """A registry that watches a config file, and a peer of it."""
    config = Config(folder)
    config.write(*entries)
    async with running_registry(folder, NO_HUB, poll, command=without_root_powers()) as server:
        async with dial(server.url) as peer:
            yield server, peer, config


async def lists(peer: Peer, *names: str) -> None:
    """Wait until just these are listed."""

    async def is_so() -> bool:
        return set(await peer.names()) == set(names)

    await eventually(is_so)


async def ports(peer: Peer) -> dict[object, object]:
    return {each["name"]: each["port"] for each in await peer.backends()}


async def ids(peer: Peer) -> dict[object, object]:
    return {each["name"]: each["id"] for each in await peer.backends()}


WAYS: list[Save] = [Config.write, Config.replace, Config.remove_and_write]


@pytest.mark.parametrize("save", WAYS)
async def test_entries_are_added_edited_and_removed(tmp_path: Path, save: Save) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), entry("b")) as (server, peer, config):
            before = await peer.get("a")
            save(config, entry("a"), entry("b"), entry("c", 3))
            await lists(peer, "a", "b", "c")
            save(config, entry("a", description='"new"'), entry("c", 30))
            await lists(peer, "a", "c")
            assert await ports(peer) == {"a": 1, "c": 30}
            after = await peer.get("a")
            assert before is not None
            assert after is not None
            assert {**after, "updated_at": 0} == {**before, "description": "new", "updated_at": 0}
            save(config, "# nothing is left\n")
            await lists(peer)
            assert "added none; updated a, c; removed b" in server.log


async def test_many_quick_saves_leave_the_last_one(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a")) as (_, peer, config):
            first = await ids(peer)
            for port in range(10, 60):
                config.replace(entry("a", port))
                assert await ids(peer) == first
                if port % 7 == 0:
                    assert (await peer.call("registry.reload"))["count"] == 1

            async def is_last() -> bool:
                return await ports(peer) == {"a": 59}

            await eventually(is_last)
            assert await ids(peer) == first


@pytest.mark.parametrize("goes", [Config.remove, Config.write], ids=["removed", "emptied"])
async def test_a_file_that_is_gone_for_good_takes_its_entries_along(
    tmp_path: Path, goes: Callable[[Config], None]
) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), entry("b")) as (_, peer, config):
            await peer.call("registry.register", name="manual", host="h", port=1)
            await peer.call("registry.update", name="b", port=20)
            goes(config)
            await lists(peer, "manual", "b")
            config.write(entry("a"), entry("b"))
            await lists(peer, "manual", "a", "b")
            assert (await ports(peer))["b"] == 20


async def test_a_file_that_was_not_there_is_found(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, NO_HUB, POLL) as server, dial(server.url) as peer:
            assert await peer.names() == []
            Config(tmp_path).write(entry("a"))
            await lists(peer, "a")


async def test_hot_reload_does_not_bring_back_what_was_deleted(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), entry("b")) as (server, peer, config):
            await peer.call("registry.delete", name="a")
            config.replace(entry("a", 2), entry("b"), entry("marker-1"))
            await lists(peer, "b", "marker-1")
            config.remove()
            await lists(peer)
            config.write(entry("a", 3), entry("marker-2"))
            await lists(peer, "marker-2")
            await server.kill()
        async with running_registry(tmp_path, NO_HUB, POLL) as server, dial(server.url) as peer:
            assert await peer.names() == ["marker-2"]
            Config(tmp_path).write(entry("a", 4), entry("marker-3"))
            await lists(peer, "marker-3")


@contextmanager
def no_more_files(server: ServerProcess) -> Iterator[None]:
    """The server can open nothing: it has as many files open as it may."""
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    yield
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)


async def test_a_file_that_may_not_be_read_for_a_while_is_read_after(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a")) as (server, peer, config):
            config.write(entry("a"), entry("b"))
            await lists(peer, "a", "b")
            config.path.chmod(0)
            await eventually(lambda: "cannot be read: Permission denied" in server.log)
            assert set(await peer.names()) == {"a", "b"}
            config.path.chmod(0o600)
            config.write(entry("c"))
            await lists(peer, "c")


async def test_a_change_that_could_not_be_read_is_not_forgotten(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a")) as (server, peer, config):
            with no_more_files(server):
                config.write(entry("a"), entry("b"))
                await eventually(lambda: "cannot be read: Too many open files" in server.log)
                assert await peer.names() == ["a"]
                assert server.log.count("cannot be read") == 1
            # The file did not change meanwhile: it is the server's turn to look again.
            await lists(peer, "a", "b")
