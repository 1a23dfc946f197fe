"""What flags and environment say is what happens, and a flag beats the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed

from plexus_registry import __version__
from tests.e2e.harness import clean_environment, dial, running_command, running_registry

if TYPE_CHECKING:
    from pathlib import Path

ONE_BACKEND = '[[backend]]\nname = "of-{0}"\nhost = "h"\nport = 1\n'


def folder_with_config(parent: Path, name: str) -> Path:
    """A folder with a config file that states one backend, named after the folder."""
    folder = parent / name
    folder.mkdir()
    (folder / "backends.toml").write_text(ONE_BACKEND.format(name))
    return folder


async def test_the_start_up_line_says_where_everything_is(tmp_path: Path) -> None:
    folder = folder_with_config(tmp_path, "file")
    stated = {"REGISTRY_BACKENDS": "dev=ws://192.168.1.100:4444, prod=wss://[::1]:4443,"}
    with trio.fail_after(30):
        async with running_registry(folder, env=stated) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="a", host="h", port=1)
                shown = {each["name"]: each for each in await peer.backends()}
            await server.kill()
        async with running_registry(folder, env=stated) as again:
            line = again.start_up_line
    assert again.url == f"ws://127.0.0.1:{again.port}"
    said = [__version__, again.url, str(folder / "registry.db"), str(folder / "backends.toml")]
    said += ["5 backends", "1 auto", "2 env", "1 file", "1 manual"]
    assert [each for each in said if each not in line] == []
    assert line.count("\n") == 1
    address = [(shown[name]["protocol"], shown[name]["host"]) for name in ("dev", "prod")]
    assert address == [("ws", "192.168.1.100"), ("wss", "::1")]
    assert {name: each["source"] for name, each in shown.items()} == {
        "a": "manual",
        "dev": "env",
        "prod": "env",
        "of-file": "file",
        "plexus": "auto",
    }


async def test_the_environment_sets_port_and_paths(tmp_path: Path) -> None:
    folder = folder_with_config(tmp_path, "env")
    told = {
        "REGISTRY_PORT": "0",
        "REGISTRY_HOST": "127.0.0.2",
        "REGISTRY_DB_PATH": str(folder / "new" / "folder" / "some.db"),
        "REGISTRY_CONFIG": str(folder / "backends.toml"),
        "REGISTRY_BACKENDS": "dev=ws://h:1",
    }
    with trio.fail_after(30):
        # No verb at all: that serves, too.
        async with running_command(log_path=tmp_path / "log", env=told) as server:
            assert server.url.startswith("ws://127.0.0.2:")
            async with dial(server.url) as peer:
                assert set(await peer.names()) == {"dev", "of-env", "plexus"}
            assert await server.stop() == 0
    assert (folder / "new" / "folder" / "some.db").stat().st_size > 0


async def test_a_flag_beats_the_environment(tmp_path: Path) -> None:
    flag, env = (folder_with_config(tmp_path, name) for name in ("flag", "env"))
    told = {
        "REGISTRY_PORT": "nonsense",
        "REGISTRY_HOST": "nonsense.invalid",
        "REGISTRY_DB_PATH": str(env / "registry.db"),
        "REGISTRY_CONFIG": str(env / "backends.toml"),
        "REGISTRY_BACKENDS": "nonsense",
        "RUST_LOG": "nonsense",
    }
    options = ("--host=127.0.0.1", "--backends=dev=ws://h:1", "--log-level=info")
    with trio.fail_after(30):
        async with running_registry(flag, *options, env=told) as server:
            async with dial(server.url) as peer:
                assert set(await peer.names()) == {"dev", "of-flag", "plexus"}
            assert await server.stop() == 0
    assert (flag / "registry.db").exists()
    assert not (env / "registry.db").exists()


@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "HOME"])
async def test_the_default_paths_are_in_the_config_folder(tmp_path: Path, variable: str) -> None:
    base = tmp_path if variable == "XDG_CONFIG_HOME" else tmp_path / ".config"
    base.mkdir(exist_ok=True)
    folder = folder_with_config(base, "plexus")
    with trio.fail_after(30):
        async with running_command(
            "--port=0", log_path=tmp_path / "log", env={variable: str(tmp_path)}
        ) as server:
            async with dial(server.url) as peer:
                assert set(await peer.names()) == {"of-plexus", "plexus"}
    assert (folder / "registry.db").exists()


async def test_the_local_hub_is_stated_unless_told_otherwise(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server, dial(server.url) as peer:
            hub = await peer.get("plexus")
        assert hub is not None
        assert (hub["protocol"], hub["host"], hub["port"]) == ("ws", "127.0.0.1", 4444)
        async with running_registry(tmp_path, "--no-auto-register") as server:
            assert "0 backends" in server.start_up_line
            async with dial(server.url) as peer:
                assert await peer.names() == []


DEBUG_LINE = "DEBUG plexus_registry.server.connection: peer left"
INFO_LINE = "INFO plexus_registry.app: stopping"


@pytest.mark.parametrize(
    ("level", "debug", "info"),
    [
        ("info", False, True),
        ("TRACE", True, True),
        ("off", False, False),
        ("plexus_registry=debug,warn", True, True),
        ("warn, plexus_registry::server::connection=trace", True, False),
        ("hyper=debug,tokio::net=trace", False, True),
    ],
)
async def test_rust_log_forms(tmp_path: Path, level: str, debug: bool, info: bool) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, env={"RUST_LOG": level}) as server:
            async with dial(server.url) as peer:
                await peer.names()
            assert await server.stop() == 0
        assert (DEBUG_LINE in server.log, INFO_LINE in server.log) == (debug, info)


async def test_the_log_level_flag_beats_rust_log(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(
            tmp_path, "--log-level=error", env={"RUST_LOG": "debug"}
        ) as server:
            assert await server.stop() == 0
        assert server.log == ""


def test_the_tests_are_not_told_anything_by_their_own_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("REGISTRY_PORT", "RUST_LOG", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "x")
    assert not {"REGISTRY_PORT", "RUST_LOG", "XDG_CONFIG_HOME"} & clean_environment().keys()


async def test_the_limits_are_settings_and_the_server_shows_them(tmp_path: Path) -> None:
    limits = (
        *("--max-message-bytes=2048", "--max-batch=2", "--max-subscriptions=1"),
        *("--max-nesting=8", "--max-unread-bytes=4096"),
    )
    call = '{"jsonrpc":"2.0","id":1,"method":"_info"}'
    with trio.fail_after(30):
        async with running_registry(tmp_path, *limits) as server:
            async with dial(server.url) as peer:
                await peer.exchange(call)
                shown = msgspec.convert(await peer.receive(), dict[str, object])
                told = (
                    '"limits":{"message_bytes":2048,"batch_requests":2,"subscriptions":1,'
                    '"nesting":8,"unread_bytes":4096}'
                )
                assert told in msgspec.json.encode(shown).decode()
                await peer.receive()
                refused = await peer.exchange(f"[{call},{call},{call}]")
                assert '"code":-32010' in msgspec.json.encode(refused).decode()
                answers = msgspec.convert(await peer.exchange(f"[{call},{call}]"), list[object])
                assert '"code":-32006' in msgspec.json.encode(answers[1]).decode()
            async with dial(server.url) as peer:
                with pytest.raises(ConnectionClosed) as closed:
                    await peer.exchange(" " * 2049)
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1009
