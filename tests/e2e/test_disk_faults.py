"""Faults below SQLite and kills: what was acknowledged stays, what was refused does not appear.

Only a refusal that says that its outcome is unknown may show after a restart, and only where the
process died before it could repair the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.disk_faults import Fault, Faults, disk_faults
from tests.e2e.harness import Peer, dial, eventually, running_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORAGE_FAILED, NOT_FOUND = -32004, -32001
OPTIONS = ("--no-auto-register", "--poll-interval=3600")


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    with disk_faults(tmp_path) as faults:
        yield faults


async def storage(peer: Peer, method: str, **params: object) -> object:
    """Call a method that must fail with `storage_failed`, and give its `data.outcome`."""
    error = await peer.error(f"registry.{method}", **params)
    assert error["code"] == STORAGE_FAILED, error
    data = error["data"]
    assert isinstance(data, dict)
    return data.get("outcome")


async def test_what_is_acknowledged_after_a_doubt_survives(tmp_path: Path, faults: Faults) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS, env=faults.env) as server:
            async with dial(server.url) as peer:
                y = {"name": "y", "host": "h", "port": 1}
                await peer.call("registry.register", **y)
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "delete", name="y") == "unknown"
                # It changes nothing in memory, and must not be acknowledged for that.
                assert await storage(peer, "register", **y) == "unknown"
                assert await storage(peer, "delete", name="nobody") == "unknown"
                assert await peer.names() == ["y"]
                faults.clear()
                await peer.call("registry.register", **y)
                await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["y"]


async def test_what_is_not_found_after_a_doubt_does_not_appear(
    tmp_path: Path, faults: Faults
) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS, env=faults.env) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="y", host="h", port=1)
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "register", name="z", host="h", port=1) == "unknown"
                faults.clear()
                assert (await peer.error("registry.delete", name="z"))["code"] == NOT_FOUND
                await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["y"]


async def test_a_doubt_is_repaired_though_nobody_asks(tmp_path: Path, faults: Faults) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS, env=faults.env) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="y", host="h", port=1)
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "register", name="z", host="h", port=1) == "unknown"
                assert await storage(peer, "delete", name="y") == "unknown"
                failed = faults.failed
                # The repair is tried, and tried again.
                await eventually(lambda: faults.failed >= failed + 2)
                faults.clear()
                await eventually(lambda: "storage works again" in server.log)
                await server.kill()
            assert server.log.count("storage fails") == 1
            assert server.log.count("storage works again") == 1
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["y"]


async def test_a_crash_before_the_repair_shows_what_was_said_to_be_unknown(
    tmp_path: Path, faults: Faults
) -> None:
    # It shows that the faults are real ones, and the doubt is no mere caution.
    with trio.fail_after(40):
        async with running_registry(tmp_path, *OPTIONS, env=faults.env) as server:
            async with dial(server.url) as peer:
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "register", name="z", host="h", port=1) == "unknown"
                await server.kill()
        faults.clear()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["z"]
