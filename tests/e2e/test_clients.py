"""All clients at one registry, by scripted peers as strict as the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import ServerProcess, dial
from tests.e2e.peers import gamma, rust_hub, synapse
from tests.e2e.peers.fake_hub import running_fake
from tests.e2e.peers.rust_hub import RustHub
from tests.e2e.peers.synapse import Synapse
from tests.e2e.peers.websocket import StreamFailedError, open_wire
from tests.e2e.scenery import HOST, HUB, LIMIT_SECONDS, at, quiet_registry

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow


async def test_all_clients_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 5
    # So many at once may take longer than clients wait, on a slow machine.
    monkeypatch.setattr(gamma, "SCAN_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(synapse, "PROBE_SECONDS", LIMIT_SECONDS)

    async def live(server: ServerProcess, number: int) -> None:
        for generation in range(rounds):
            port = 46000 + 100 * number + generation
            hub = RustHub(name=f"hub-{number}", port=port, registry_port=server.port)
            await rust_hub.register(hub)
            await rust_hub.say_goodbye(hub)

    async def type_commands(server: ServerProcess, fake_port: int) -> None:
        for _ in range(rounds):
            async with synapse.running(Synapse(port=fake_port, main_port=server.port)):
                pass
            async with synapse.running(at(server)) as run:
                await synapse.browse(run, "registry", "list")
                await synapse.browse(run, "registry", "get", name="hub-1")

    async def watch(server: ServerProcess, fake_port: int) -> None:
        for _ in range(rounds):
            found = await gamma.scan(HOST, [server.port, fake_port])
            assert found == {server.port: HUB, fake_port: "lforge"}
            async with gamma.open_session(HOST, server.port, HUB) as session:
                tree = await gamma.load_tree(session)
                assert await gamma.poll_hash(session) == tree.hub.hash
                await gamma.discover(session, tree)

    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, running_fake("lforge") as fake:
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(live, server, number)
                for task in (type_commands, watch) * 3:
                    nursery.start_soon(task, server, fake.port)
            async with dial(server.url) as peer:
                assert await peer.names(active_only=True) == ["lforge"]
                assert len(await peer.names(active_only=False)) == 6


async def test_a_hub_of_another_name(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path, "--hub-namespace", "plaza") as server:
            assert await gamma.scan(HOST, [server.port]) == {server.port: "plaza"}
            await rust_hub.register(RustHub(name="lforge", port=46011, registry_port=server.port))
            async with synapse.running(at(server)) as run:
                assert run.hub == "plaza"
                event = await synapse.browse(run, "registry", "list")
                assert event is not None
                with pytest.raises(StreamFailedError, match=f"Activation not found: {HUB}"):
                    await synapse.call(run, f"{HUB}.schema")
            async with gamma.open_session(HOST, server.port, "plaza") as session:
                assert (await gamma.load_tree(session)).hub.namespace == "plaza"


async def test_a_stream_of_every_client_dies_with_its_connection_only(tmp_path: Path) -> None:
    """A client that vanishes between its request and the answer leaves the others alone."""
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            quiet_registry(tmp_path) as server,
            gamma.open_session(HOST, server.port, HUB) as session,
        ):
            for number in range(30):
                async with open_wire(HOST, server.port) as wire:
                    params = {"name": f"hub-{number}", "host": HOST, "port": 5000 + number}
                    await wire.send(
                        f"{HUB}.call", {"method": "registry.register", "params": params}
                    )
                await gamma.poll_hash(session)
