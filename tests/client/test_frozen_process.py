"""A registry process that is stopped in its tracks, and goes on later."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry import Status, announce, connect, discover
from plexus_registry.client import announce as announcing
from plexus_registry.client import connection
from tests.e2e.harness import Peer, dial, eventually, running_registry

if TYPE_CHECKING:
    from pathlib import Path

FROZEN_SECONDS = 0.7


@pytest.mark.slow
async def test_a_frozen_process_stops_nobody_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Announced, discovered, and waited for no longer than was said; then all is as before."""
    for module in (announcing, connection):
        monkeypatch.setattr(module, "ANSWER_SECONDS", FROZEN_SECONDS)
    monkeypatch.setattr(announcing, "LONGEST_PAUSE", FROZEN_SECONDS)
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            find = partial(discover, server.url, "svc", last_known={})
            async with announce(
                server.url, name="svc", host="h", port=9, stale_after=0.3
            ) as announced:
                assert announced.status is Status.REGISTERED
                assert not (await find()).is_stale
                server.process.send_signal(signal.SIGSTOP)
                await announced.wait_for(Status.UNREACHABLE)
                assert (await find()).is_stale
                with trio.move_on_after(FROZEN_SECONDS) as scope:
                    async with connect(server.url):
                        raise AssertionError
                assert scope.cancelled_caught
                server.process.send_signal(signal.SIGCONT)
                await announced.wait_for(Status.REGISTERED)

                async def is_found() -> bool:
                    found = await find()
                    return (found.is_stale, found.backend.is_active) == (False, True)

                await eventually(is_found)
            async with dial(server.url) as peer:
                assert await is_inactive(peer)


@pytest.mark.slow
async def test_leaving_a_frozen_process_ends(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with announce(server.url, name="svc", host="h", port=9):
                server.process.send_signal(signal.SIGSTOP)
            server.process.send_signal(signal.SIGCONT)


async def is_inactive(peer: Peer) -> bool:
    backend = await peer.get("svc")
    return backend is not None and backend["is_active"] is False
