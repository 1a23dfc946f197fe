"""`registry.reload`: what it counts, what it lifts, and what it refuses."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from tests.e2e.harness import dial, running_registry
from tests.e2e.test_config_file import NO_HUB, Config, entry, ports, watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.harness import Peer

CONFIG_INVALID = -32003
NEVER = "--poll-interval=3600"


def report(
    count: int, *, added: str = "", updated: str = "", removed: str = ""
) -> dict[str, object]:
    names = {"added": added.split(), "updated": updated.split(), "removed": removed.split()}
    return {"type": "reloaded", "count": count, **names}


async def reload(peer: Peer) -> dict[str, object]:
    """Reload, and give the report without its time and revision, that of a list right after."""
    event: dict[str, object] = await peer.call("registry.reload")
    assert type(event.pop("at")) is int
    assert event.pop("revision") == (await peer.call("registry.list"))["revision"]
    return event


async def test_it_counts_what_the_file_states_and_names_what_changed(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), entry("b"), poll=NEVER) as (_, peer, config):
            assert await reload(peer) == report(2)
            config.write(entry("c"), entry("a", 2), entry("d"))
            assert await reload(peer) == report(3, added="c d", updated="a", removed="b")
            assert await ports(peer) == {"a": 2, "c": 1, "d": 1}
            assert await reload(peer) == report(3)
            config.remove()
            assert await reload(peer) == report(0, removed="a c d")
            assert await peer.names() == []
            config.write(entry("a"))
            assert await reload(peer) == report(1, added="a")


async def test_it_leaves_alone_what_calls_registered(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), entry("b"), poll=NEVER) as (server, peer, config):
            await peer.call("registry.register", name="manual", host="h", port=9)
            await peer.call("registry.update", name="a", port=9)
            config.write(entry("a", 2), entry("manual"))
            assert await reload(peer) == report(2, added="manual", updated="a", removed="b")
            assert await ports(peer) == {"a": 9, "manual": 9}
            await peer.call("registry.delete", name="a")
            await server.kill()
        async with running_registry(tmp_path, NO_HUB, NEVER) as server, dial(server.url) as peer:
            assert await ports(peer) == {"manual": 9}


async def test_it_lifts_the_tombstones_of_what_the_file_states(tmp_path: Path) -> None:
    with trio.fail_after(30):
        stated = {"REGISTRY_BACKENDS": "env=ws://h:1,both=ws://h:1"}
        Config(tmp_path).write(entry("a"), entry("both", 2))
        async with running_registry(tmp_path, NO_HUB, NEVER, env=stated) as server:
            async with dial(server.url) as peer:
                for name in ("a", "env", "both"):
                    await peer.call("registry.delete", name=name)
                assert await peer.names() == []
                await server.kill()
        async with running_registry(tmp_path, NO_HUB, NEVER, env=stated) as server:
            async with dial(server.url) as peer:
                assert await peer.names() == []
                assert await reload(peer) == report(2)
                assert await ports(peer) == {"a": 1, "both": 1}
                await server.kill()
        async with running_registry(tmp_path, NO_HUB, NEVER, env=stated) as server:
            async with dial(server.url) as peer:
                assert await ports(peer) == {"a": 1, "both": 1}


async def test_an_invalid_file_lifts_no_tombstone(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), entry("b"), poll=NEVER) as (_, peer, config):
            await peer.call("registry.delete", name="a")
            config.write(entry("a"), entry("b"), entry("c", 0))
            error = await peer.error("registry.reload")
            assert error["code"] == CONFIG_INVALID
            assert await peer.names() == ["b"]


async def test_it_refuses_what_is_no_text_of_toml(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), poll=NEVER) as (_, peer, config):

            async def refusal() -> str:
                error = await peer.error("registry.reload")
                assert error["code"] == CONFIG_INVALID
                assert await peer.names() == ["a"]
                return str(error["message"])

            config.path.write_bytes(b"# \xff\n")
            assert "is not UTF-8" in await refusal()
            config.path.write_bytes(b"\0")
            assert "line 1" in await refusal()
            config.path.write_bytes(b"a = " + b"[" * 50_000)
            assert "nested too deeply" in await refusal()
            config.remove()
            config.path.mkdir()
            assert "cannot be read: Is a directory" in await refusal()


@contextmanager
def rewritten_on_and_on(config: Config) -> Iterator[None]:
    """A program that writes the file without a pause."""
    stopping = threading.Event()

    def rewrite() -> None:
        port = 0
        while not stopping.is_set():
            port = port % 60_000 + 1
            config.write(entry("a", port))

    writer = threading.Thread(target=rewrite)
    writer.start()
    yield
    stopping.set()
    writer.join()


async def test_it_answers_while_the_file_keeps_changing(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a"), poll="--poll-interval=0.01") as (
            _,
            peer,
            config,
        ):
            with rewritten_on_and_on(config):
                for _ in range(5):
                    with trio.fail_after(8):
                        await peer.ask("registry.reload")
            assert await peer.call("registry.reload")
            assert await peer.names() == ["a"]
