"""What the scenarios with real clients play in front of: a quiet registry, and odd neighbours."""

from __future__ import annotations

import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from tests.e2e.harness import ServerProcess, dial, running_registry
from tests.e2e.peers.synapse import Synapse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

HOST = "127.0.0.1"
HUB = "registry-hub"
LIMIT_SECONDS = 30
OPTIONS = ("--no-auto-register",)


@asynccontextmanager
async def quiet_registry(folder: Path, *options: str) -> AsyncIterator[ServerProcess]:
    """Run a registry that has nothing to complain about, in all its time."""
    (folder / "backends.toml").touch()  # one that is named and does not exist is warned about
    async with running_registry(folder, *OPTIONS, *options) as server:
        yield server
        if server.process.returncode is None:
            assert await server.stop() == 0
    lines = [line for line in server.log.splitlines() if " INFO " not in line]
    # On a busy machine, the system may let a process wait, and the registry rightly says so.
    warnings = [line for line in lines if "this process did not run for" not in line]
    assert warnings == [], warnings


@contextmanager
def dead_ports(count: int) -> Iterator[list[int]]:
    """Hold ports where nobody listens: a connection is refused."""
    with ExitStack() as held:
        ports = []
        for _ in range(count):
            taken = held.enter_context(socket.socket())
            taken.bind((HOST, 0))
            ports.append(taken.getsockname()[1])
        yield ports


@contextmanager
def mute_port() -> Iterator[int]:
    """Hold a port where somebody listens and never says a word."""
    with socket.socket() as mute:
        mute.bind((HOST, 0))
        mute.listen()
        yield mute.getsockname()[1]


def at(server: ServerProcess) -> Synapse:
    """Synapse, pointed at the registry, which is the main hub."""
    return Synapse(port=server.port, main_port=server.port)


async def register(server: ServerProcess, name: str, port: int) -> None:
    """Put an entry there the plain way."""
    async with dial(server.url) as peer:
        await peer.call("registry.register", name=name, host=HOST, port=port)


async def entry(server: ServerProcess, name: str) -> dict[str, object] | None:
    """What the registry has under a name, asked the plain way."""
    async with dial(server.url) as peer:
        return await peer.get(name)
