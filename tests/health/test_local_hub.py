"""The built-in entry on a virtual clock: it follows the name of the hub that answers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from plexus_registry.rules.backend import Layer, Register, State
from plexus_registry.storage.opening import read_records
from plexus_registry.tasks.prober import probe_forever
from tests.fakes import opened
from tests.memory_hubs import Hub, MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from plexus_registry.registry import Registry

INTERVAL = 15.0
PORT = 4444


@asynccontextmanager
async def running(
    folder: Path, hub: Hub | None, *, probes: bool = True
) -> AsyncIterator[tuple[Registry, MemoryNetwork]]:
    """A registry with the built-in entry, where a hub listens on port 4444."""
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery, [] if hub is None else [(PORT, hub)])
        interval = INTERVAL if probes else 0.0
        opening = opened(folder, network=network, probe_interval=interval, auto_register=True)
        async with opening as registry:
            async with trio.open_nursery() as tasks:
                if probes:
                    await tasks.start(partial(probe_forever, registry, interval=INTERVAL))
                yield registry, network
                tasks.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


def states(registry: Registry) -> dict[str, State]:
    return {each.name: each.state for each in registry.list(active_only=False)}


async def test_a_local_hub_of_another_name_is_listed_by_it_as_well(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Hub("substrate")) as (registry, _):
        await trio.sleep(2)
        assert states(registry) == {"plexus": State.UP, "substrate": State.UP}
        backend = registry.get("substrate")
        assert backend is not None
        assert (backend.host, backend.port, backend.source) == ("127.0.0.1", PORT, "auto")
        since = registry.change_log.revision
        await trio.sleep(10 * INTERVAL)
        assert registry.change_log.revision == since, "nothing changes as long as it answers so"
    stated = {record.name for record in read_records(tmp_path / "registry.db")}
    assert stated == {"plexus", "substrate"}


async def test_a_local_hub_of_the_name_plexus_is_listed_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Hub("plexus")) as (registry, _):
        await trio.sleep(2 * INTERVAL)
        assert states(registry) == {"plexus": State.UP}


async def test_the_other_name_goes_once_the_hub_answers_as_plexus(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Hub("substrate")) as (registry, network):
        await trio.sleep(2)
        network.hubs[PORT] = Hub("plexus")
        await trio.sleep(INTERVAL + 1)
        assert states(registry) == {"plexus": State.UP}
        network.hubs[PORT] = Hub("other")
        await trio.sleep(INTERVAL + 2)
        assert states(registry) == {"plexus": State.UP, "other": State.UP}
        network.hubs[PORT] = Hub("third")
        await trio.sleep(INTERVAL + 2)
        assert states(registry) == {"plexus": State.UP, "third": State.UP}


async def test_the_other_name_goes_when_the_hub_goes_down_and_comes_back_with_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, hub := Hub("substrate")) as (registry, network):
        await trio.sleep(2)
        del network.hubs[PORT]
        await trio.sleep(INTERVAL + 1)
        assert "substrate" in states(registry), "one failure is not enough"
        await trio.sleep(3 * INTERVAL)
        assert states(registry) == {"plexus": State.DOWN}
        network.hubs[PORT] = hub
        await trio.sleep(INTERVAL + 2)
        assert states(registry) == {"plexus": State.UP, "substrate": State.UP}


async def test_a_start_keeps_the_other_name_until_a_probe_says_otherwise(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Hub("substrate")) as (registry, _):
        await trio.sleep(2)
        first = registry.get("substrate")
        assert first is not None
    async with running(tmp_path, Hub("plexus")) as (registry, _):
        again = registry.get("substrate")
        assert again is not None
        assert again.id == first.id
        await trio.sleep(2)
        assert states(registry) == {"plexus": State.UP}
    async with running(tmp_path, Hub("substrate")) as (registry, _):
        await trio.sleep(2)
    async with running(tmp_path, None, probes=False) as (registry, _):
        assert set(states(registry)) == {"plexus"}, "nobody would see that the other name is gone"


@pytest.mark.parametrize("name", ["a b", "../x", "x" * 129, "-x"])
async def test_a_name_that_breaks_the_rule_is_not_stated(
    tmp_path: Path, autojump_clock: MockClock, name: str
) -> None:
    async with running(tmp_path, Hub(name)) as (registry, _):
        await trio.sleep(INTERVAL)
        assert states(registry) == {"plexus": State.UP}


async def test_a_registered_plexus_is_held_to_its_name_and_ends_the_other_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Hub("substrate")) as (registry, _):
        await trio.sleep(2)
        await registry.register(Register(name="plexus", host="127.0.0.1", port=PORT))
        await trio.sleep(2)
        assert states(registry) == {"plexus": State.WRONG_HUB}
        assert not (await registry.check("plexus")).ok


async def test_a_registration_of_the_other_name_counts_for_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Hub("substrate")) as (registry, network):
        await trio.sleep(2)
        network.hubs[5000] = Hub("substrate")
        await registry.register(Register(name="substrate", host="127.0.0.1", port=5000))
        await trio.sleep(2 * INTERVAL)
        backend = registry.get("substrate")
        assert backend is not None
        assert backend.port == 5000
        layers = [each.layer for each in registry.catalog.records("substrate")]
        assert layers == [Layer.RUNTIME, Layer.AUTO]


async def test_a_check_of_the_built_in_entry_is_well_whatever_hub_answers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Hub("substrate"), probes=False) as (registry, _):
        checked = await registry.check("plexus")
        assert checked.ok
        assert checked.steps[-1].detail == '"substrate"; any name is right here'


async def test_a_watch_reports_the_other_name(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, Hub("substrate")) as (registry, network):
        since = registry.change_log.revision
        await trio.sleep(2)
        network.hubs[PORT] = Hub("plexus")
        await trio.sleep(INTERVAL + 1)
        told = [msgspec.json.decode(entry.event) for entry in registry.change_log.after(since)]
        about = [(each["type"], (each.get("backend") or each)["name"]) for each in told]
        assert ("backend_registered", "substrate") in about
        assert ("backend_deleted", "substrate") in about
