"""Pings over real sockets while the disk hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from plexus_registry import Settings, connect, open_registry, serve
from plexus_registry.rules.backend import State
from tests.fakes import Disk

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry import RegistryClient

STALE_AFTER = 1.0
NAMES = [f"hub{index}" for index in range(5)]


async def test_a_disk_that_hangs_makes_nobody_stale_who_pings_over_a_socket(
    tmp_path: Path,
) -> None:
    settings = Settings(
        db_path=tmp_path / "registry.db",
        config_path=tmp_path / "backends.toml",
        auto_register=False,
        probe_interval=0,
        stale_after=STALE_AFTER,
        sweep_interval=STALE_AFTER / 10,
        port=0,
    )
    disk = Disk()
    with trio.fail_after(30):
        async with open_registry(settings, run_sync=disk) as registry, trio.open_nursery() as tasks:
            url = await tasks.start(serve, registry, settings)
            async with connect(url) as pings, connect(url) as other:
                for name in [*NAMES, "silent"]:
                    await pings.register(name, "127.0.0.1", 1)
                    assert await pings.ping(name)
                barrier = disk.barrier = trio.Event()
                tasks.start_soon(other.register, "waits", "127.0.0.1", 1)
                await disk.reached_barrier.wait()
                try:
                    began = trio.current_time()
                    while trio.current_time() < began + 3 * STALE_AFTER:
                        await ping_all(pings)
                    assert await pings.get("waits") is None, "the disk still hangs"
                finally:
                    # A commit in hand is finished though everything is cancelled.
                    disk.barrier = None
                    barrier.set()
                while (silent := await pings.get("silent")) is None or silent.is_active:
                    await ping_all(pings)
                events = [msgspec.json.decode(each.event) for each in registry.change_log.after(0)]
                stale = [each["backend"] for each in events if each["type"] == "backend_stale"]
                assert [each["name"] for each in stale] == ["silent"]
                assert await pings.get("waits") is not None
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_ping_that_revives_a_backend_holds_up_no_frame_while_the_disk_hangs(
    tmp_path: Path, *, leaves: bool
) -> None:
    settings = Settings(
        db_path=tmp_path / "registry.db",
        config_path=tmp_path / "backends.toml",
        auto_register=False,
        probe_interval=0,
        port=0,
    )
    disk = Disk()
    with trio.fail_after(30):
        async with open_registry(settings, run_sync=disk) as registry, trio.open_nursery() as tasks:
            url = await tasks.start(serve, registry, settings)
            async with connect(url) as other:
                for name in ("gone", "away"):
                    await other.register(name, "127.0.0.1", 1)
                    await other.deregister(name)
                barrier = disk.barrier = trio.Event()
                tasks.start_soon(other.register, "waits", "127.0.0.1", 1)
                await disk.reached_barrier.wait()
                async with connect(url) as pings:
                    for name in ("gone", "gone", "away"):
                        assert await pings.ping(name)
                    assert not await pings.ping("absent")
                    assert (await state_of(pings, "gone")) is State.DEREGISTERED
                    if not leaves:
                        disk.barrier = None
                        barrier.set()
                        await until_pinged(pings, "gone", "away")
                if leaves:
                    disk.barrier = None
                    barrier.set()
                await until_pinged(other, "gone", "away")
            tasks.cancel_scope.cancel()


async def state_of(client: RegistryClient, name: str) -> State:
    found = await client.get(name)
    assert found is not None
    return found.state


async def until_pinged(client: RegistryClient, *names: str) -> None:
    """Wait until backends are shown as revived."""
    async with client.watch() as events:
        async for _ in events:
            if all([await state_of(client, name) is not State.DEREGISTERED for name in names]):
                return


async def ping_all(client: RegistryClient) -> None:
    """Ping all of them over one connection, each once the one before it is answered."""
    for name in NAMES:
        assert await client.ping(name)
