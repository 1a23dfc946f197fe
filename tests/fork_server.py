"""Registry processes that start in milliseconds: forks of one process that has loaded the package.

Most of the time that a registry takes to start goes into imports, and the tests start hundreds.
The fork server imports everything once, and forks for each request. A fork is a process of its own,
with its own id, signals, environment, standard streams and exit status, and runs the code that a
new interpreter would run. What acts on the start of an interpreter needs a new one.

Theory of operation. A request is one message on the control socket: JSON with code, arguments and
environment, and four file descriptors, the three standard streams and a status socket. The server
answers on the status socket, first with the id of the process, then with its wait status. It ends
when the control socket is closed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

MODULES = ("app", "cli.verbs", "cli.announce", "cli.offline")
REQUEST_BYTES = 2**20


class ForkedProcess:
    """A process that the fork server started, with the members of `trio.Process` that tests use.

    Attributes:
        pid: Its process id.
        returncode: Its exit status, or minus the signal that ended it; None until it is awaited.
        stdin: What it reads, where that is a pipe.
        stdout: What it prints, where that is a pipe.
        stderr: Where it writes its errors, where that is a pipe.
    """

    def __init__(
        self, code: str, arguments: Sequence[str], *, env: Mapping[str, str], streams: Sequence[int]
    ) -> None:
        """Run code with `sys.argv`; each stream is a descriptor, or PIPE for a new pipe."""
        self.returncode: int | None = None
        theirs = [*streams]
        ours: list[trio.lowlevel.FdStream | None] = [None, None, None]
        pipes = [number for number, stream in enumerate(streams) if stream == subprocess.PIPE]
        for number in pipes:
            reading, writing = os.pipe()
            theirs[number], kept = (writing, reading) if number else (reading, writing)
            ours[number] = trio.lowlevel.FdStream(kept)
        self.stdin, self.stdout, self.stderr = ours
        request = json.dumps([code, [*arguments], {**env}]).encode()
        self._status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with status:
            socket.send_fds(_control(), [request], [*theirs, status.fileno()])
        for number in pipes:
            os.close(theirs[number])
        self.pid = int(self._status.recv(64))

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self._status)
            self.returncode = os.waitstatus_to_exitcode(int(self._status.recv(64)))
            self._status.close()
        return self.returncode


@asynccontextmanager
async def open_fork(
    code: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> AsyncIterator[ForkedProcess]:
    """Run code in a fork, and kill it in the end if it still runs."""
    process = ForkedProcess(code, arguments, env=env, streams=(stdin, stdout, stderr))
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


@cache
def _control() -> socket.socket:
    """Start the fork server of this test process; it ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = (sys.executable, "-m", "tests.fork_server", str(theirs.fileno()))
        server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def serve_forks(control: socket.socket) -> str:
    """Fork for every request; return its code in the fork, and none at the end here."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:
                pid, status = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                status.send(str(os.waitpid(pid, 0)[1]).encode())
                status.close()
                continue
            request, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 4)
            if not request:
                return ""
            status = socket.socket(fileno=descriptors.pop())
            pid = os.fork()
            if pid == 0:
                selector.close()
                status.close()
                code: str
                code, arguments, env = json.loads(request)
                sys.argv[1:] = arguments
                _become(env, descriptors)
                return code
            for descriptor in descriptors:
                os.close(descriptor)
            status.send(str(pid).encode())
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))


def _become(env: Mapping[str, str], descriptors: Sequence[int]) -> None:
    """Set up environment, signals and standard streams as a new process has them."""
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    errors = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(errors, errors="backslashreplace", line_buffering=True)


if __name__ == "__main__":
    # A Ctrl-C in the terminal is for the tests, which end this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in MODULES:
        importlib.import_module(f"plexus_registry.{name}")
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        code = serve_forks(control)
    exec(code, {"__name__": "__main__"})  # noqa: S102 - as `python -c` does
