"""Hubs that register themselves, by a scripted peer as strict as jsonrpsee, at a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import dial, running_registry
from tests.e2e.peers import rust_hub, synapse
from tests.e2e.peers.rust_hub import RustHub
from tests.e2e.scenery import (
    HOST,
    LIMIT_SECONDS,
    OPTIONS,
    at,
    dead_ports,
    entry,
    quiet_registry,
    register,
)

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


async def test_rust_hub_boots_and_says_goodbye(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server:
            hub = RustHub(name="lforge", port=46011, registry_port=server.port)
            booted = await rust_hub.register(hub)
            assert (await entry(server, "lforge") or {})["is_active"] is True
            await rust_hub.say_goodbye(hub)
            left = await entry(server, "lforge")
            assert left is not None, "the entry is kept"
            assert left["is_active"] is False
            async with dial(server.url) as peer:
                assert await peer.names(active_only=True) == []
                assert await peer.names(active_only=False) == ["lforge"]
            again = await rust_hub.register(hub)
            assert again.is_active
            assert again.name == booted.name


async def test_rust_hub_restarts_on_another_port(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server:
            for generation in range(5):
                hub = RustHub(
                    name="lforge",
                    port=46011 + generation,
                    pid=100 + generation,
                    version=f"1.0.{generation}",
                    registry_port=server.port,
                )
                await rust_hub.register(hub)
                if generation % 2:
                    await rust_hub.say_goodbye(hub)
                # Otherwise SIGKILL: no goodbye, and the old entry is still live.
            assert (await entry(server, "lforge") or {})["port"] == 46015


@pytest.mark.parametrize("holder_calls", [True, False], ids=["by call", "by file"])
async def test_rust_hub_wins_its_own_name(tmp_path: Path, *, holder_calls: bool) -> None:
    if not holder_calls:
        table = f'[[backend]]\nname = "lforge"\nhost = "{HOST}"\nport = 5001\n'
        await trio.Path(tmp_path / "backends.toml").write_text(table)
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server:
            if holder_calls:
                await register(server, "lforge", 5001)
            hub = RustHub(name="lforge", port=46011, registry_port=server.port)
            await rust_hub.register(hub)
            found = await entry(server, "lforge")
            assert found is not None
            assert (found["port"], found["source"]) == (46011, "auto")


async def test_rust_hub_is_still_known_after_the_registry_was_killed(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS), dead_ports(2) as (port, other_port):
        (tmp_path / "backends.toml").touch()  # one that is missing is warned about
        async with running_registry(tmp_path, *OPTIONS) as server:
            hub = RustHub(name="lforge", port=port, registry_port=server.port)
            booted = await rust_hub.register(hub)
            await server.kill()
        # It registers once in its life: after this nobody would tell the registry again.
        async with quiet_registry(tmp_path) as server:
            async with synapse.running(at(server)) as run:
                (listed,) = await synapse.list_backends(run)
            assert listed.backend == booted
            hub = RustHub(name="lforge", port=other_port, registry_port=server.port)
            await rust_hub.register(hub)


async def test_rust_hub_boots_before_the_registry(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS), dead_ports(1) as (port,):
        hub = RustHub(name="lforge", port=46011, registry_port=port, pause_seconds=0)
        with pytest.raises(rust_hub.NotRegisteredError) as failed:
            await rust_hub.register(hub)
        assert str(failed.value).count(f"{HOST}:{port}: OSError") == rust_hub.ATTEMPTS
    async with running_registry(tmp_path, *OPTIONS) as server:
        hub = RustHub(name="lforge", port=46011, registry_port=server.port)
        await rust_hub.register(hub)
