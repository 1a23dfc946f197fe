"""The processes of a run: which core each lives on, how it starts, and that it ends.

Servers share one core and the load has another, so that a faster client never slows the server it
measures. Where the machine cannot pin, everything floats and the report says so.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_calls import Call
from bench_load import Job, Load, encode_job

SCRIPTS = Path(__file__).parent
START_SECONDS = 120
STOP_SECONDS = 10
REPLY_SECONDS = 60
URL = re.compile(r"ws://\S+?(?=[\s,]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The cores of the servers and of the load; None means that nothing is pinned."""

    server: int | None
    load: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server under measurement."""

    url: str
    process_id: int


def choose_cores() -> Cores:
    """Give the servers the first core that we may use and the load the last."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores(server=None, load=None)
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Cores(server=None, load=None)
    return Cores(server=usable[0], load=usable[-1])


def pin(core: int | None) -> None:
    """Bind the calling process to one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


@contextmanager
def open_process(command: Sequence[str], core: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child on its core, with pipes; it is stopped, and if need be killed, at the end."""
    # A registry of the user's must not leak into the one that we start.
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("REGISTRY_") and key != "RUST_LOG"
    }
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=inherited,
        preexec_fn=lambda: pin(core),
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


def read_line(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Read one line of a child's output, within a time."""
    assert process.stdout is not None
    line, deadline = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        wait = max(0.0, deadline - time.monotonic())
        if not select.select([process.stdout], [], [], wait)[0]:
            raise RuntimeError(f"no line within {seconds} s from {process.args!r}")
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            raise RuntimeError(f"{process.args!r} ended early: {line.decode()!r}")
        line += piece
    return line.decode()


@contextmanager
def open_registry(folder: Path, cores: Cores, *, probe_interval: float = 0.0) -> Iterator[Server]:
    """Run the registry on a database and a config file in `folder`; by default it probes nobody."""
    folder.mkdir(exist_ok=True)
    (folder / "backends.toml").touch()
    command = [str(Path(sys.executable).with_name("trio-registry")), "--port", "0"]
    command += ["--db-path", str(folder / "registry.db")]
    command += ["--config", str(folder / "backends.toml")]
    command += ["--no-auto-register", "--log-level", "warning"]
    command += ["--probe-interval", str(probe_interval)]
    with _open_server(command, cores.server) as server:
        yield server


@contextmanager
def open_bare_websocket(cores: Cores) -> Iterator[Server]:
    """Run the server that answers with constants."""
    with _open_server(
        [sys.executable, str(SCRIPTS / "bench_bare.py"), "websocket"], cores.server
    ) as server:
        yield server


@contextmanager
def open_hub(name: str, cores: Cores) -> Iterator[Server]:
    """Run a hub that answers `_info`, on the core of the load."""
    with _open_server([sys.executable, str(SCRIPTS / "bench_hub.py"), name], cores.load) as hub:
        yield hub


@contextmanager
def _open_server(command: Sequence[str], core: int | None) -> Iterator[Server]:
    with open_process(command, core) as process:
        line = read_line(process, START_SECONDS)
        found = URL.search(line)
        if found is None:
            raise RuntimeError(f"{command[0]} printed no URL: {line!r}")
        yield Server(url=found.group(), process_id=process.pid)


def run_bare_sqlite(folder: Path, seconds: float, cores: Cores) -> float:
    """Commit rows for a time and return how many a second."""
    command = [sys.executable, str(SCRIPTS / "bench_bare.py"), "sqlite", str(folder), str(seconds)]
    with open_process(command, cores.server) as process:
        return float(read_line(process, seconds + REPLY_SECONDS))


class LoadGenerator:
    """The other process's end: one job at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def drive(
        self, url: str, call: Call, *, connections: int, warm_up: float, seconds: float
    ) -> Load:
        """Load one server and return what it managed."""
        assert self._process.stdin is not None
        job = Job(url=url, call=call, connections=connections, warm_up=warm_up, seconds=seconds)
        self._process.stdin.write(encode_job(job).encode())
        load = Load(**json.loads(read_line(self._process, warm_up + seconds + REPLY_SECONDS)))
        if load.failure is not None:
            raise RuntimeError(f"{url}: {load.failure}")
        return load


@contextmanager
def open_load_generator(cores: Cores) -> Iterator[LoadGenerator]:
    """Run the load generator on its core."""
    with open_process([sys.executable, str(SCRIPTS / "bench_load.py")], cores.load) as process:
        yield LoadGenerator(process)


def resident_bytes(process_id: int) -> int:
    """Read how much memory a process holds."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {process_id} has no VmRSS")
