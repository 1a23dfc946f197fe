"""Synapse's habits, by a scripted peer as strict as the specification, at a real server."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import dial, eventually
from tests.e2e.peers import rust_hub, synapse
from tests.e2e.peers.backends import read_backends
from tests.e2e.peers.fake_hub import running_fake
from tests.e2e.peers.rust_hub import RustHub
from tests.e2e.peers.synapse import Synapse
from tests.e2e.peers.websocket import StreamFailedError
from tests.e2e.scenery import (
    HOST,
    HUB,
    LIMIT_SECONDS,
    at,
    dead_ports,
    entry,
    mute_port,
    quiet_registry,
    register,
)
from tests.e2e.test_adoption import row, write_original

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.peers.frames import Failure


pytestmark = pytest.mark.slow


async def test_synapse_browses(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, synapse.running(at(server)) as run:
            assert (run.hub, run.main_hub) == (HUB, None)
            event = await synapse.browse(run, "registry", "list")
            assert event == {"type": "backends", "revision": 0, "backends": []}
            await register(server, "alpha", 5001)
            event = await synapse.browse(run, "registry", "list", **{"active-only": "true"})
            assert event is not None
            assert json.dumps(event).count('"alpha"') == 1
            event = await synapse.browse(run, "registry", "get", name="alpha")
            assert event is not None
            assert event["type"] == "backend"
            assert await synapse.browse(run, "registry", "get") is None, "it prints help"


# What is typed for each method, and the event that comes back.
COMMANDS: list[tuple[str, dict[str, str], str]] = [
    ("register", {"name": "alpha", "host": HOST, "port": "5001"}, "backend_registered"),
    (
        "register",
        {
            "name": "beta",
            "host": HOST,
            "port": "5002",
            "protocol": "wss",
            # Typed as a string, or it would go out as a number.
            "description": "123",
            "namespace": "true",
            "version": "1",
            "metadata": '{"pid": 1}',
        },
        "backend_registered",
    ),
    ("list", {}, "backends"),
    ("list", {"active-only": "false"}, "backends"),
    ("get", {"name": "beta"}, "backend"),
    ("get", {"name": "nobody"}, "backend"),
    ("update", {"name": "alpha", "port": "6001"}, "backend_updated"),
    ("update", {"name": "alpha", "description": "456"}, "backend_updated"),
    ("ping", {"name": "alpha"}, "ping"),
    ("ping", {"name": "nobody"}, "ping"),
    ("deregister", {"name": "beta"}, "backend_deregistered"),
    ("delete", {"name": "alpha"}, "backend_deleted"),
    ("delete", {"name": "nobody"}, "error"),
    ("reload", {}, "reloaded"),
]


async def test_synapse_types_every_command_from_the_schemas(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, synapse.running(at(server)) as run:
            for name, flags, kind in COMMANDS:
                event = await synapse.browse(run, "registry", name, **flags)
                assert event is not None, name
                assert event["type"] == kind, event
            beta = await entry(server, "beta")
        assert beta is not None
        assert [beta[name] for name in ("description", "namespace", "version")] == [
            "123",
            "true",
            "1",
        ]


async def test_synapse_updates_only_what_is_typed(tmp_path: Path) -> None:
    given = {"protocol": "wss", "description": "d", "namespace": "n", "version": "v"}
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, synapse.running(at(server)) as run:
            flags = {"name": "alpha", "host": "h", "port": "5001", **given}
            await synapse.browse(run, "registry", "register", **flags)
            await synapse.browse(run, "registry", "update", name="alpha", port="6001")
            alpha = await entry(server, "alpha")
        assert alpha is not None
        assert {name: alpha[name] for name in given} == given
        assert alpha["port"] == 6001


async def test_synapse_shows_the_schema_of_a_method_in_both_generations(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, synapse.running(at(server)) as run:
            method = await synapse.show_schema(run, "registry", "list")
            plugin = await synapse.show_schema_4(run, "registry", "list")
            hub_method = await synapse.show_schema(run, HUB, "call")
    assert method.name == "list"
    assert plugin.namespace == "registry"
    assert plugin.methods == {"list": method}
    assert hub_method.streaming, "streaming is true only for the call of the hub"
    assert not method.streaming


async def test_synapse_lists_and_probes(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS), dead_ports(1) as (dead,), mute_port() as mute:
        async with quiet_registry(tmp_path) as server, running_fake("lforge") as hub:
            await register(server, "lforge", hub.port)
            await register(server, "crashed", dead)
            await register(server, "hung", mute)
            await register(server, "another-name", server.port)
            async with synapse.running(at(server)) as run:
                listed = await synapse.list_backends(run)
            assert {found.backend.name: found.answered for found in listed} == {
                "lforge": "lforge",
                "crashed": None,
                "hung": None,
                "another-name": HUB,
            }


async def test_synapse_resolves_a_name(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, running_fake("lforge") as hub:
            await register(server, "lforge", hub.port)
            async with synapse.running(at(server)) as run:
                found = await synapse.resolve(run, "lforge")
                assert found is not None
                assert found.port == hub.port
                assert await synapse.resolve(run, "nobody") is None


async def test_synapse_registers_a_hub_on_every_run(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, running_fake("lforge") as hub:
            command = Synapse(port=hub.port, main_port=server.port)
            async with synapse.running(command) as run:
                assert (run.hub, run.main_hub) == ("lforge", HUB)
                await synapse.list_backends(run)
            # Nobody waited for the reply; the process may have been gone before it.
            await eventually(partial(entry, server, "lforge"))
            first = await entry(server, "lforge")
            for _ in range(10):
                async with synapse.running(command):
                    pass
            async with synapse.running(at(server)) as run:
                assert [found.answered for found in await synapse.list_backends(run)] == ["lforge"]
            again = await entry(server, "lforge")
        assert first is not None
        assert again is not None
        assert (again["id"], again["port"], again["source"]) == (first["id"], hub.port, "manual")
        assert again["created_at"] == first["created_at"]
        assert "last_seen" not in again, "being pointed at is no sign of life"


async def test_synapse_takes_no_live_name_away(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, running_fake("lforge") as impostor:
            owner = RustHub(name="lforge", port=46011, registry_port=server.port)
            await rust_hub.register(owner)
            command = Synapse(port=impostor.port, main_port=server.port)
            async with synapse.running(command) as run:
                assert run.main_hub == HUB
                await synapse.list_backends(run)
            found = await entry(server, "lforge")
            assert found is not None
            assert found["port"] == 46011


async def test_synapse_exits_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server:
            async with dial(server.url) as peer:
                for number in range(200):
                    await peer.call("registry.register", name=f"hub-{number}", host=HOST, port=5001)

            async def exit_early() -> None:
                async with synapse.running(at(server)) as run:
                    # The replies are megabytes that nobody reads.
                    for _ in range(40):
                        await run.wire.send(f"{HUB}.call", {"method": "registry.list"})

            async with trio.open_nursery() as nursery:
                for _ in range(25):
                    nursery.start_soon(exit_early)
            async with synapse.running(at(server)) as run:
                event = await synapse.browse(run, "registry", "list")
                assert event is not None
                assert json.dumps(event).count('"name"') == 200


async def test_synapse_with_a_token_for_somebody_else(tmp_path: Path) -> None:
    headers = {
        "Cookie": "access_token=eyJhbGciOiJub25lIn0.e30.; theme=dark",
        "Authorization": "Bearer for-another-hub",
        "X-Request-Source": "synapse",
    }
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server:
            command = Synapse(port=server.port, main_port=server.port, headers=headers)
            async with synapse.running(command) as run:
                assert await synapse.list_backends(run) == []


async def test_synapse_lists_what_the_original_left(tmp_path: Path) -> None:
    """It took any name and port 0: the schema has to admit what the registry keeps."""
    rows = [
        row("", port=0, protocol="http"),
        row("a b", host="", created_at=1_700_000_001),
    ]
    write_original(tmp_path, rows)
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, synapse.running(at(server)) as run:
            event = await synapse.browse(run, "registry", "list")
            assert event is not None
            assert [backend.name for backend in read_backends(event)] == ["a b", ""]


async def failure_of(run: synapse.Run, method: str, params: object) -> Failure:
    """Make a call that must end with an error item."""
    with pytest.raises(StreamFailedError) as failed:
        await synapse.call(run, method, params)
    await run.wire.settle()
    return failed.value.failure


async def test_errors_can_be_read_by_every_generation(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with quiet_registry(tmp_path) as server, synapse.running(at(server)) as run:
            no_activation = await failure_of(run, "foo.bar", {})
            no_method = await failure_of(run, "registry.lst", {})
            no_name = await failure_of(run, "registry.get", {})
            bad_name = await failure_of(run, "registry.get", {"name": 5})
    failures = (no_activation, no_method, no_name, bad_name)
    assert [failure.code for failure in failures] == ["-32601", "-32601", "-32602", "-32602"]
    assert not any(failure.recoverable for failure in failures)
    # Readers fall back to error_kind, and from there to code: all three must say the same.
    typed = [failure.error or {} for failure in failures]
    assert [error.get("kind") for error in typed] == [failure.kind for failure in failures]
    assert [failure.kind for failure in failures] == [
        "activation_not_found",
        "method_not_found",
        "invalid_params",
        "invalid_params",
    ]
    assert typed[0]["activation"] == "foo"
    assert (typed[1]["activation"], typed[1]["method"]) == ("registry", "lst")
    assert (typed[2]["param"], typed[2]["problem"]) == ("name", "missing")
    assert (typed[3]["param"], typed[3]["problem"]) == ("name", "malformed")
    assert "registry.list" in f"{no_method.message} {no_method.error}", "the nearest known one"
