"""The registry as a process: it starts, answers, stops, and keeps what it acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.e2e.harness import dial, running_registry

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                event = await peer.call("registry.register", name="hub2", host="h", port=5001)
            await server.kill()
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                found = await peer.call("registry.get", name="hub2")
            assert found["backend"] == event["backend"]
            assert await server.stop() == 0
