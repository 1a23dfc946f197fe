"""The client library on real sockets, against the real server in the same process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry import (
    Backend,
    BackendDeleted,
    BackendRegistered,
    BackendUpdated,
    ConfigInvalid,
    InvalidParamsError,
    NameTaken,
    NotFound,
    RegistryUnavailableError,
    Settings,
    Snapshot,
    Status,
    announce,
    connect,
    discover,
    open_registry,
    serve,
)
from plexus_registry.rules.errors import MethodNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[str]:
    settings = Settings(
        db_path=folder / "registry.db",
        config_path=folder / "backends.toml",
        auto_register=False,
        port=0,
    )
    with trio.fail_after(10):
        async with open_registry(settings) as registry, trio.open_nursery() as nursery:
            yield await nursery.start(serve, registry, settings)
            nursery.cancel_scope.cancel()


async def test_every_method(tmp_path: Path) -> None:
    async with served(tmp_path) as url, connect(url) as client:
        assert await client.list() == ()
        hub = await client.register("hub", "h", 1, "wss", metadata={"x": [1]}, version="2")
        assert (hub.url, hub.version, hub.metadata) == ("wss://h:1", "2", '{"x":[1]}')
        assert await client.get("hub") == hub
        assert await client.get("other") is None
        assert (await client.update("hub", port=2, description="d")).port == 2
        assert await client.ping("hub")
        assert not await client.ping("other")
        await client.deregister("hub")
        assert await client.list() == ()
        assert [each.name for each in await client.list(active_only=False)] == ["hub"]
        await client.delete("hub")
        assert (await client.reload()).count == 0
        answer = await client.call("registry.get", {"name": "hub"})
        assert answer == {"type": "backend", "backend": None}


async def test_every_refusal(tmp_path: Path) -> None:
    async with served(tmp_path) as url, connect(url) as client:
        with pytest.raises(NotFound):
            await client.delete("hub")
        hub = await client.register("hub", "h", 1)
        await client.ping("hub")
        with pytest.raises(NameTaken) as taken:
            await client.register("hub", "other", 1)
        holder = taken.value.data["holder"]
        assert getattr(holder, "id", None) == hub.id
        assert (await client.register("hub", "other", 1, replace=True)).host == "other"
        with pytest.raises(InvalidParamsError) as malformed:
            await client.register("hub", "h", 0)
        assert malformed.value.data["param"] == "port"
        with pytest.raises(MethodNotFoundError):
            await client.call("registry.no", {})
        (tmp_path / "backends.toml").write_text("no toml")
        with pytest.raises(ConfigInvalid):
            await client.reload()
        nested: object = None
        for _ in range(70):
            nested = [nested]
        with pytest.raises(Exception, match="Parse error"):
            await client.register("deep", "h", 1, metadata={"x": nested})


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["list", "snapshot"])
async def test_following_on_misses_nothing_whatever_happens_meanwhile(
    tmp_path: Path, begin: str
) -> None:
    """Not even where others make calls on the same connection."""
    async with served(tmp_path) as url, connect(url) as client, trio.open_nursery() as nursery:

        async def write() -> None:
            for number in range(300):
                name = f"hub-{number % 7}"
                await client.register(name, "h", number + 1, replace=True)
                if number % 5 == 0:
                    await client.delete(name)
            await client.register("end", "h", 1)

        async def follow() -> None:
            seen: dict[str, Backend] = {}
            since = None
            if begin == "list":
                listed = await client.list(active_only=False)
                seen = {backend.name: backend for backend in listed}
                since = listed.revision
            async with client.watch(since=since) as events:
                revision = since or 0
                while "end" not in seen:
                    event = await anext(events)
                    assert event.revision == revision + 1 or not revision
                    revision = event.revision
                    match event:
                        case Snapshot():
                            seen = {backend.name: backend for backend in event.backends}
                        case BackendDeleted():
                            del seen[event.name]
                        case BackendRegistered() | BackendUpdated():
                            seen[event.backend.name] = event.backend
                        case _:
                            raise AssertionError(event)
            everyone = await client.list(active_only=False)
            assert seen == {backend.name: backend for backend in everyone}

        nursery.start_soon(write)
        for _ in range(8):
            nursery.start_soon(follow)
            await client.ping("nobody")


async def test_calls_at_once_on_one_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as url, connect(url) as client:

        async def use(name: str) -> None:
            await client.register(name, "h", 1, description=name * 50)
            with trio.move_on_after(0):
                await client.list()
            found = await client.get(name)
            assert found is not None
            assert found.description == name * 50

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(use, f"hub-{number}")
        assert len(await client.list()) == 50


async def test_nobody_there(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        pass
    with trio.fail_after(5):
        with pytest.raises(RegistryUnavailableError) as caught:
            async with connect(url):
                raise AssertionError
    assert str(caught.value) == f"cannot connect to {url}: connection refused"


async def test_a_registry_that_stops(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with served(tmp_path) as url:
                manager = connect(url)
                client = await nursery.start(_hold, manager)
            await client.wait_lost()
            with pytest.raises(RegistryUnavailableError):
                await client.list()
            nursery.cancel_scope.cancel()


async def _hold(manager: object, *, task_status: trio.TaskStatus[object]) -> None:
    async with manager as client:  # type: ignore[attr-defined]  # of connect
        task_status.started(client)
        await trio.sleep_forever()


async def test_announced_and_discovered(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        async with announce(url, name="svc", host="127.0.0.1", port=9) as announcement:
            assert announcement.status is Status.REGISTERED
            assert (await discover(url, "svc", last_known={})).url == "ws://127.0.0.1:9"
        assert not (await discover(url, "svc", last_known={})).backend.is_active


@pytest.mark.parametrize("module", ["connection", "announce"])
def test_a_client_loads_neither_the_server_nor_its_libraries(module: str) -> None:
    script = (
        f"import json, sys, plexus_registry.client.{module}; print(json.dumps(sorted(sys.modules)))"
    )
    # Whoever measures the coverage of this process loads more than it does.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=30, env=plain
    )
    loaded = set(json.loads(result.stdout))
    foreign = {"trio_websocket", "wsproto", "h11", "sqlite_utils", "sqlite3", "click", "tomllib"}
    assert loaded & foreign == set()
    assert f"plexus_registry.client.{module}" in loaded
    assert {"plexus_registry.storage.sqlite", "plexus_registry.app"} & loaded == set()
