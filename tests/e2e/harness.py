"""A real registry process, and a plain JSON-RPC peer to talk to it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

COMMAND = (sys.executable, "-m", "plexus_registry")
START_SECONDS = 15
_URL = re.compile(r"ws://[^\s,)]+")


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment, without anything that configures a registry."""
    ours = ("REGISTRY_", "RUST_LOG", "XDG_CONFIG_HOME")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, **extra}


@dataclass
class ServerProcess:
    """One running `trio-registry`.

    Attributes:
        process: The process.
        url: Where it listens.
        start_up_line: The line that it printed.
        log_path: The file that its standard error goes to.
    """

    process: trio.Process
    url: str
    start_up_line: str
    log_path: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    async def stop(self) -> int:
        """Ask it to stop, and give its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    async def kill(self) -> None:
        """End it as a power cut of the process would."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def running_registry(
    folder: Path, *options: str, env: Mapping[str, str] | None = None, port: int = 0
) -> AsyncIterator[ServerProcess]:
    """Start a registry on `folder/registry.db` and `folder/backends.toml`, and end it after."""
    log_path = folder / "server.log"
    with log_path.open("ab") as log:
        arguments = (
            *COMMAND,
            "serve",
            f"--port={port}",
            f"--db-path={folder / 'registry.db'}",
            f"--config={folder / 'backends.toml'}",
            *options,
        )
        environment = clean_environment(**(env or {}))
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    arguments,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    check=False,
                    env=environment,
                )
            )
            try:
                with trio.fail_after(START_SECONDS):
                    line = await _first_line(process)
                url = _URL.search(line)
                assert url is not None, f"no URL in {line!r}; log: {log_path.read_text()}"
                yield ServerProcess(process, url[0], line, log_path)
            finally:
                if process.returncode is None:
                    process.kill()


async def _first_line(process: trio.Process) -> str:
    assert process.stdout is not None
    text = b""
    while b"\n" not in text:
        data = await process.stdout.receive_some()
        if not data:
            break
        text += data
    return text.decode()


@dataclass
class Peer:
    """A JSON-RPC peer on one WebSocket, one request at a time."""

    ws: WebSocketConnection
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def exchange(self, frame: str | bytes) -> object:
        """Send one frame as it is, and give the decoded answer."""
        await self.ws.send_message(frame)
        return await self.receive()

    async def receive(self) -> object:
        value: object = msgspec.json.decode(await self.ws.get_message())
        return value

    async def ask(self, method: str, **params: object) -> dict[str, object]:
        """Call a method with named parameters, and give the whole response object."""
        request = {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}
        response = await self.exchange(msgspec.json.encode(request).decode())
        assert isinstance(response, dict)
        assert response["id"] == request["id"]
        return response

    async def call(self, method: str, **params: object) -> dict[str, object]:
        """Call a method, and give its result."""
        response = await self.ask(method, **params)
        assert "result" in response, response
        result = response["result"]
        assert isinstance(result, dict)
        return result

    async def error(self, method: str, **params: object) -> dict[str, object]:
        """Call a method that must be refused, and give the error object."""
        response = await self.ask(method, **params)
        assert "error" in response, response
        error = response["error"]
        assert isinstance(error, dict)
        return error

    async def names(self, *, active_only: bool = False) -> list[object]:
        """The names that `registry.list` shows, in its order."""
        listed = (await self.call("registry.list", active_only=active_only))["backends"]
        assert isinstance(listed, list)
        return [backend["name"] for backend in listed]


@asynccontextmanager
async def dial(url: str) -> AsyncIterator[Peer]:
    """Open a WebSocket to a registry."""
    async with open_websocket_url(url) as ws:
        yield Peer(ws)


async def run_command(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run `trio-registry` with arguments to its end, and give status, output and errors."""
    return await trio.run_process(
        (*COMMAND, *arguments),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        stdin=stdin,
        env=clean_environment(**(env or {})),
    )
