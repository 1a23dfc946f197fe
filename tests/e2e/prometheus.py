"""A real Prometheus, where Debian's package is installed."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMTOOL is None and "REGISTRY_TEST_PROMETHEUS" not in os.environ,
    reason="Prometheus is not installed: scripts/test --prometheus installs it",
)


@asynccontextmanager
async def running_prometheus(folder: Path) -> AsyncIterator[str]:
    """Prometheus with the config file of a folder; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        str(PROMETHEUS),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, stdout=log, stderr=log, check=False)
            process: trio.Process = await nursery.start(run)
            yield f"http://{address}"
            process.terminate()


async def get(url: str) -> bytes:
    """Get a page of Prometheus; empty while it cannot be reached."""

    def read() -> bytes:
        try:
            with urlopen(url, timeout=5) as answer:  # noqa: S310 - of this machine
                data: bytes = answer.read()
                return data
        except OSError:
            return b""

    return await trio.to_thread.run_sync(read)
