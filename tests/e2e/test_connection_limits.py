"""Idle connections at once, a thousand or in a soak ten thousand: they are held, at little cost."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import dial, running_registry
from tests.e2e.raw import HEAD
from tests.e2e.test_limits import memory, processor_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONNECTIONS = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 1_000
AT_ONCE = 101
MIB = 1024 * 1024


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open a file for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the hard limit of `ulimit -n` is {hard}, and {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def hold(port: int, connections: int, streams: list[trio.SocketStream]) -> None:
    for _ in range(connections):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        streams.append(stream)
        await stream.send_all(HEAD)
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 101"), answer


@pytest.mark.slow
async def test_many_idle_connections(
    tmp_path: Path,
    many_files: None,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    streams: list[trio.SocketStream] = []
    with trio.fail_after(180):
        async with running_registry(tmp_path) as server, dial(server.url) as peer:
            before = memory(server)
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(hold, server.port, (CONNECTIONS - 1) // AT_ONCE, streams)
            try:
                held = len(streams)
                each = (memory(server) - before) / held
                spent = processor_seconds(server)
                for _ in range(100):
                    assert await peer.names() == ["plexus"]
                cost = (processor_seconds(server) - spent) / 100
                for name, value in {"connections": held, "bytes_each": round(each)}.items():
                    record_property(name, value)
                with capsys.disabled():
                    print(  # noqa: T201 - this is the report
                        f"\n{held} idle connections: {memory(server) / MIB:.0f} MiB in all,"
                        f" {each / 1024:.1f} KiB each; a request costs {cost * 1000:.1f} ms",
                        file=sys.stderr,
                    )
                assert held >= CONNECTIONS - AT_ONCE
                assert each < 64 * 1024
                assert cost < 0.05
            finally:
                for stream in streams:
                    await trio.aclose_forcefully(stream)
            assert await peer.names() == ["plexus"]
        assert "Traceback" not in server.log
