"""The processes of a run: which core each lives on, how it starts, and that it ends.

Servers share one core and this process, which makes the load, has another, so that a faster client
never slows the server that it measures. Where the machine cannot pin, everything floats and the
report says so.
"""

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

HERE = Path(__file__).parent
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

    @property
    def cpu_seconds(self) -> float:
        """How long it has run on a core, in its own code and in the system's."""
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, kind: str = "VmRSS") -> int:
        """Return how many bytes it holds, or with VmHWM, held at most."""
        status = Path(f"/proc/{self.process_id}/status").read_text()
        found = re.search(rf"^{kind}:\s+(\d+)", status, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"process {self.process_id} has no {kind}")
        return int(found[1]) * 1024

    def open_sockets(self) -> int:
        """Count the sockets that it has open."""
        count = 0
        for descriptor in Path(f"/proc/{self.process_id}/fd").iterdir():
            try:
                count += str(descriptor.readlink()).startswith("socket:")
            except FileNotFoundError:  # closed while we looked
                continue
        return count


def choose_cores() -> Cores:
    """Give the servers the first core that we may use and the load the last."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
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
def open_server(command: Sequence[str], core: int | None) -> Iterator[Server]:
    """Run a server that prints its URL."""
    with open_process(command, core) as process:
        line = read_line(process, START_SECONDS)
        found = URL.search(line)
        if found is None:
            raise RuntimeError(f"{command[0]} printed no URL: {line!r}")
        yield Server(url=found.group(), process_id=process.pid)


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
    with open_server(command, cores.server) as server:
        yield server


def floor(*arguments: str) -> list[str]:
    """Make the command of a part of `floor.py`."""
    return [sys.executable, str(HERE / "floor.py"), *arguments]


def run_bare_sqlite(folder: Path, seconds: float, cores: Cores) -> float:
    """Commit rows for a time and return how many a second."""
    with open_process(floor("sqlite", str(folder), str(seconds)), cores.server) as process:
        return float(read_line(process, seconds + REPLY_SECONDS))
