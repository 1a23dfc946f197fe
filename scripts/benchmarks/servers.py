"""The processes of a run: each starts on its core and is stopped at the end.

Servers share one core and the load has another, so that a faster client never slows the server
that it measures.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
START_SECONDS = 120
STOP_SECONDS = 10
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server under measurement."""

    port: int
    process_id: int

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def cpu_seconds(self) -> float:
        """How long it has run on a core, in its own code and in the system's."""
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, kind: str = "VmRSS") -> int:
        """Return how many bytes it holds, or with VmHWM, held at most."""
        status = Path(f"/proc/{self.process_id}/status").read_text()
        return int(re.findall(rf"^{kind}:\s+(\d+)", status, re.MULTILINE)[0]) * 1024

    def open_sockets(self) -> int:
        count = 0
        for descriptor in Path(f"/proc/{self.process_id}/fd").iterdir():
            try:
                count += str(descriptor.readlink()).startswith("socket:")
            except FileNotFoundError:  # closed while we looked
                continue
        return count


@contextmanager
def open_process(
    command: Sequence[str], core: int = SERVER_CORE
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child on its core, with pipes; it is stopped, and if need be killed, at the end."""
    # A registry of the user's must not leak into the one that we start.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**inherited, "RUST_LOG": "warn"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        process_group=0,  # Ctrl-C is for us: we stop our children in order
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def run(command: Sequence[str], core: int = SERVER_CORE) -> str:
    """Run a program to its end and return what it printed."""
    with open_process(command, core) as process:
        output, _ = process.communicate(timeout=START_SECONDS)
        if process.returncode != 0:
            raise RuntimeError(f"{command!r} ended with status {process.returncode}")
    return output.decode()


@contextmanager
def open_server(command: Sequence[str], port: int, core: int = SERVER_CORE) -> Iterator[Server]:
    """Run a server that is ready when its port accepts connections."""
    with open_process(command, core) as process:
        deadline = time.monotonic() + START_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command!r} does not listen on port {port}")
            time.sleep(0.002)
        yield Server(port, process.pid)


@contextmanager
def open_registry(
    folder: Path, *options: str, program: str | None = None, core: int = SERVER_CORE
) -> Iterator[Server]:
    """Run our registry, which probes nobody, or the original on files in a folder."""
    port, config = free_port(), folder / "backends.toml"
    config.touch()
    files = ["--db-path", str(folder / "registry.db"), "--config", str(config)]
    if program is None:
        program = str(Path(sys.executable).with_name("trio-registry"))
        options = ("--no-auto-register", "--probe-interval", "0", *options)
    command = [program, "--host", "127.0.0.1", "--port", str(port), *files, *options]
    with open_server(command, port, core) as server:
        yield server


@contextmanager
def open_floor() -> Iterator[Server]:
    """Run the bare server of `floor.py`."""
    port = free_port()
    command = [sys.executable, str(HERE / "floor.py"), "constant", str(port)]
    with open_server(command, port) as server:
        yield server


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def find_program(name: str, how: str) -> str:
    """Return the path of a program, or raise RuntimeError, which says how to install it."""
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed; install it with: {how}")
    return found
