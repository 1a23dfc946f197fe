"""A real registry process, and a plain JSON-RPC peer to talk to it."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from tests.fork_server import ForkedProcess, open_fork

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

COMMAND = (sys.executable, "-m", "plexus_registry")
# The same in a new interpreter, for what acts on its start.
FRESH_COMMAND = ("env", *COMMAND)
MAIN = "from plexus_registry.__main__ import main; main()"
START_SECONDS = 30
POLL_SECONDS = 0.02
Process = trio.Process | ForkedProcess
_URL = re.compile(r"wss?://[^\s,)]+")


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment, without anything that configures a registry.

    Nobody is probed unless a test asks for it: the backends of most tests do not exist. Coverage is
    measured in forks, and not in new interpreters, where it takes long.
    """
    ours = ("REGISTRY_", "RUST_LOG", "XDG_CONFIG_HOME", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "REGISTRY_PROBE_INTERVAL": "0", **extra}


@dataclass
class ServerProcess:
    """One running `trio-registry`.

    Attributes:
        process: The process.
        url: Where it listens.
        start_up_line: The line that it printed.
        log_path: The file that its standard error goes to.
    """

    process: Process
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
    folder: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    port: int = 0,
    command: tuple[str, ...] = COMMAND,
) -> AsyncIterator[ServerProcess]:
    """Start a registry on `folder/registry.db` and `folder/backends.toml`, and end it after."""
    arguments = (
        "serve",
        f"--port={port}",
        f"--db-path={folder / 'registry.db'}",
        f"--config={folder / 'backends.toml'}",
        *options,
    )
    log_path = folder / "server.log"
    async with running_command(*arguments, log_path=log_path, env=env, command=command) as server:
        yield server


@asynccontextmanager
async def running_command(
    *arguments: str,
    log_path: Path,
    env: Mapping[str, str] | None = None,
    command: tuple[str, ...] = COMMAND,
) -> AsyncIterator[ServerProcess]:
    """Start `trio-registry` with just these arguments, wait until it serves, and end it after."""
    async with running_process((*command, *arguments), log_path=log_path, env=env) as process:
        with trio.fail_after(START_SECONDS):
            line = await _first_line(process)
        url = _URL.search(line)
        assert url is not None, f"no URL in {line!r}; see {log_path}"
        yield ServerProcess(process, url[0], line, log_path)


@asynccontextmanager
async def running_process(
    command: tuple[str, ...],
    *,
    log_path: Path,
    stdin: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Process]:
    """Start a command with its output on a pipe and its errors in a file, and end it after."""
    environment = clean_environment(**(env or {}))
    forked = code_and_arguments(command)
    with log_path.open("ab") as log:
        if forked is not None:
            async with open_fork(
                *forked, env=environment, stdin=stdin, stderr=log.fileno()
            ) as process:
                yield process
            return
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
                env=environment,
            )
            real: trio.Process = await nursery.start(run)
            try:
                yield real
            finally:
                real.kill()


def code_and_arguments(command: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """What a fork has to run for a command; None where it takes a new interpreter."""
    if command[:3] == COMMAND:
        return MAIN, command[3:]
    if command[:2] == (sys.executable, "-c"):
        return command[2], command[3:]
    return None


@contextmanager
def shared_registry(
    folder: Path, *options: str, command: tuple[str, ...] = COMMAND
) -> Iterator[str]:
    """A registry for all tests of a module, where one of their own would take too long.

    Gives its URL; its log is `folder/server.log`. It must end well, and without a trace.
    """
    paths = (f"--db-path={folder / 'registry.db'}", f"--config={folder / 'backends.toml'}")
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            (*command, "--port=0", *paths, *options),
            stdout=subprocess.PIPE,
            stderr=log,
            env=clean_environment(),
        )
    assert process.stdout is not None
    with process.stdout:
        too_late = threading.Timer(START_SECONDS, process.kill)
        too_late.start()
        line = process.stdout.readline().decode()
        too_late.cancel()
    try:
        url = _URL.search(line)
        assert url is not None, f"no URL in {line!r}; see {folder / 'server.log'}"
        yield url[0]
        process.terminate()
        assert process.wait(START_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (folder / "server.log").read_text()


def with_prelude(code: str) -> tuple[str, ...]:
    """A command like `COMMAND` that runs a line of Python first, to break something on purpose."""
    return (sys.executable, "-c", f"{code}\n{MAIN}")


def writing_at_most(size: int) -> tuple[str, ...]:
    """A command like `COMMAND` that cannot write a larger file, as on a full disk."""
    # A fork could not save the coverage that it measures.
    code = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({size}, {size}))"
    return ("env", *with_prelude(code))


def without_root_powers() -> tuple[str, ...]:
    """A command like `COMMAND` for which file permissions count, even if root runs the tests."""
    # See capset(2); the powers are CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, capabilities(7).
    return with_prelude(
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "head, powers = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
        "assert libc.capget(head, powers) == 0\n"
        "powers[0] &= ~0b110; powers[1] &= ~0b110\n"
        "assert libc.capset(head, powers) == 0"
    )


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, within: float = 30
) -> None:
    """Wait until a condition, plain or asynchronous, is true; fail after `within` seconds."""
    with trio.fail_after(within):
        while not await _is_met(condition):  # noqa: ASYNC110 - another process sets no event
            await trio.sleep(POLL_SECONDS)


async def _is_met(condition: Callable[[], object | Awaitable[object]]) -> bool:
    value = condition()
    return bool(await value if inspect.isawaitable(value) else value)


async def _first_line(process: Process) -> str:
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

    async def post(self, method: str, **params: object) -> int:
        """Send a request, and wait until the server has it in hand, but not for its answer."""
        number = next(self.ids)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        await self.ws.send_message(msgspec.json.encode(request).decode())
        # Frames are read in order: once the pong is here, the request is at its conversation.
        await self.ws.ping()
        return number

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

    async def names(self, *, active_only: bool = False) -> list[str]:
        """The names that `registry.list` shows, sorted: its own order goes by the second first."""
        return sorted(str(each["name"]) for each in await self.backends(active_only=active_only))

    async def backends(self, *, active_only: bool = False) -> list[dict[str, object]]:
        """The backends that `registry.list` shows, in its order."""
        listed = (await self.call("registry.list", active_only=active_only))["backends"]
        assert isinstance(listed, list)
        return listed

    async def get(self, name: str) -> dict[str, object] | None:
        """The backend that `registry.get` shows."""
        found = (await self.call("registry.get", name=name))["backend"]
        assert found is None or isinstance(found, dict)
        return found


@asynccontextmanager
async def dial(
    url: str,
    *,
    tls: ssl.SSLContext | None = None,
    path: str = "/",
    receive_buffer: int | None = None,
    **fields: str,
) -> AsyncIterator[Peer]:
    """Open a WebSocket to a registry, and close it whoever closed first.

    Args:
        url: Where it is.
        tls: What to trust, for `wss`.
        path: The target of the request.
        receive_buffer: How many bytes the system keeps for a peer that does not read.
        fields: Header fields to send, with `_` for `-`.
    """
    address = urlsplit(url)
    plain = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
    if receive_buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    stream = plain if tls is None else trio.SSLStream(plain, tls, server_hostname=address.hostname)
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    try:
        async with trio.open_nursery() as nursery:
            ws = await wrap_client_stream(nursery, stream, address.netloc, path, extra_headers=sent)
            yield Peer(ws)
            with trio.move_on_after(2):
                await ws.aclose()
    finally:
        # The library leaves the socket open where the server closed first.
        await trio.aclose_forcefully(stream)


async def run_command(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    command: tuple[str, ...] = COMMAND,
) -> subprocess.CompletedProcess[bytes]:
    """Run `trio-registry` with arguments to its end, and give status, output and errors."""
    environment = clean_environment(**(env or {}))
    forked = code_and_arguments((*command, *arguments))
    if forked is None:
        return await trio.run_process(
            (*command, *arguments),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=stdin,
            env=environment,
        )
    read: dict[str, bytes] = {}

    async def read_all(name: str, stream: trio.abc.ReceiveStream | None) -> None:
        assert stream is not None
        read[name] = b"".join([data async for data in stream])

    with TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        async with open_fork(*forked, env=environment, stdin=given.fileno()) as process:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_all, "stdout", process.stdout)
                nursery.start_soon(read_all, "stderr", process.stderr)
                status = await process.wait()
    return subprocess.CompletedProcess(arguments, status, **read)
