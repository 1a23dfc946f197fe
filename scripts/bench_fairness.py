"""How long one client waits for a `get` while others ask for too much.

Each case has a registry of its own and an attack in a process of its own. The figure is the
longest `get` from the beginning of the attack until the registry is idle again.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import bench_calls as calls
from bench_attack import open_websocket, request, text_frame
from bench_client import ask, tell
from bench_plan import Bench
from bench_processes import SCRIPTS, Server, open_process, open_registry, read_line
from bench_report import Figure
from bench_scenarios import new_folder

if TYPE_CHECKING:
    import subprocess

MOST_SECONDS = 20.0
"""A `get` that takes longer is given up, and the case with it."""
CALM_SECONDS = 1.0
BUSY_SHARE = 0.3
PAUSE_SECONDS = 0.002
MEGABYTE = 1024 * 1024
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Waiting:
    """What one client found.

    Attributes:
        longest: The longest `get`, in seconds.
        busy: How long the registry was at work after the attack was over, in seconds.
        connects: How many connections it made to a backend for calls of clients that had left.
    """

    longest: float = 0.0
    busy: float = 0.0
    connects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attack, or one change of a file.

    Attributes:
        what: What the report calls it.
        attack: What `bench_attack.py` calls it; None where `change` is the attack.
        stored: How many backends are stored.
        config: The contents of the config file from the beginning.
        change: Is done to the server and its folder instead of an attack.
        weighs: Whether the memory of the registry is reported, too.
    """

    what: str
    attack: str | None = None
    stored: int = 10
    config: str = ""
    change: Callable[[Server, Path], None] | None = None
    weighs: bool = False


def entries(count: int, *, port: int = 1) -> str:
    """Write a config file."""
    return "".join(
        f'[[backend]]\nname = "f-{number:06}"\nhost = "127.0.0.1"\nport = {port}\n'
        for number in range(count)
    )


def _write(text: str) -> Callable[[Server, Path], None]:
    def change(_server: Server, folder: Path) -> None:
        path = folder / "backends.toml"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    return change


def _unknown_keys() -> str:
    line = f'key_%07d = "{"v" * 80}"\n'
    return "".join(line % number for number in range(55 * MEGABYTE // 95))


def _check_secured(server: Server, _folder: Path) -> None:
    """Have a `wss` backend probed; nobody need answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        params = {"name": "secured", "host": "127.0.0.1", "port": listener.getsockname()[1]}
        ask(server.url, request("registry.register", {**params, "protocol": "wss"}))
        ask(server.url, request("registry.check", {"name": "secured"}))


CASES = (
    Case(what="B1 1,000 unknown methods", attack="unknown methods"),
    Case(what="B2 100 x 1,000 unread lists", attack="unread lists", weighs=True),
    Case(what="B2 ... with 10,000 stored", attack="unread lists", stored=10_000, weighs=True),
    Case(what="B3 1,000 reloads, left", attack="reload and leave", config=entries(1_000)),
    Case(what="B3 50 x 1,000 checks, left", attack="check and leave"),
    Case(what="B4 8,000 arrays 60 deep", attack="deep arrays"),
    Case(what="B4 349,000 empty arrays", attack="empty arrays"),
    Case(what="B4 80,000 keys", attack="many keys"),
    Case(what="B4 29,000 keys, not refused", attack="just not too many keys"),
    Case(what="B4 a host of 1 MB", attack="long host"),
    Case(what="B4 3,000 long floats", attack="long floats"),
    Case(what="B5 5,000 connections end", attack="leave together"),
    Case(what="B5 ... with close frames", attack="close together"),
    Case(what="B6 a file of 20,000 entries", change=_write(entries(20_000))),
    Case(what="B6 a file of 55 MB", change=lambda s, f: _write(_unknown_keys())(s, f)),
    Case(what="B6 one entry, 50,000 stored", stored=50_000, change=_write(entries(1))),
    Case(what="B7 the first wss probe", change=_check_secured),
)


def measure_fairness(bench: Bench) -> list[Figure]:
    """Measure the longest `get` of another client in each case."""
    figures = []
    wanted = os.environ.get("BENCH_FAIRNESS", "")
    for case in CASES:
        if wanted in case.what:
            figures += _measure(bench, case)
    return figures


def _measure(bench: Bench, case: Case) -> list[Figure]:
    folder = new_folder(bench)
    folder.mkdir()
    (folder / "backends.toml").write_text(case.config)
    with open_registry(folder, bench.cores) as server, _hanging_backend(server) as hanging:
        tell(server.url, calls.register_batches(case.stored))
        _wait_until_idle(server)
        waiting = Waiting()
        if case.attack is None:
            assert case.change is not None
            script = [sys.executable, __file__, server.url, str(folder), case.what]
        else:
            script = [sys.executable, str(SCRIPTS / "bench_attack.py"), server.url, case.attack]
        with open_process(script, bench.cores.load) as attack:
            line = read_line(attack, MOST_SECONDS * 3)
            if not line.startswith("begun"):
                raise RuntimeError(f"{case.what}: {line!r}")
            _watch(server, waiting, attack, is_done="done" in line)
            if case.attack == "check and leave":
                waiting.connects = _connects_later(hanging)
        figures = [
            Figure(
                scenario="fairness",
                what=f"{case.what}: longest get",
                value=waiting.longest * 1e3,
                unit="ms" if waiting.longest < MOST_SECONDS else "ms or more",
            ),
            Figure(
                scenario="fairness",
                what=f"{case.what}: at work",
                value=waiting.busy,
                unit="s" if waiting.busy < MOST_SECONDS else "s or more",
            ),
        ]
        if case.attack == "check and leave":
            what = f"{case.what}: connects in 5 s, 15 s later"
            figures.append(
                Figure(scenario="fairness", what=what, value=waiting.connects, unit="connects")
            )
        if case.weighs:
            peak = _status(server.process_id, "VmHWM") / MEGABYTE
            figures.append(
                Figure(scenario="fairness", what=f"{case.what}: memory", value=peak, unit="MB")
            )
        for figure in figures:
            print(
                f"  {figure.what}: {figure.value:,.1f} {figure.unit}", file=sys.stderr, flush=True
            )
        if waiting.longest >= MOST_SECONDS or waiting.busy >= MOST_SECONDS:
            os.kill(server.process_id, signal.SIGKILL)
        return figures


def _watch(
    server: Server, waiting: Waiting, attack: "subprocess.Popen[bytes]", *, is_done: bool
) -> None:
    """Ask again and again until the attack is done and the registry idle."""
    frame = text_frame(calls.get([calls.backend_name(0)]).frames[0])
    began = checked = time.monotonic()
    used = _cpu_seconds(server.process_id)
    assert attack.stdout is not None
    os.set_blocking(attack.stdout.fileno(), False)
    try:
        with open_websocket(server.url, seconds=MOST_SECONDS) as client:
            while True:
                asked = time.monotonic()
                client.sendall(frame)
                if not client.recv(4096):
                    raise RuntimeError("the registry hung up")
                now = time.monotonic()
                waiting.longest = max(waiting.longest, now - asked)
                if not is_done:
                    is_done = b"done" in (attack.stdout.read() or b"")
                if now - checked >= CALM_SECONDS:
                    # Our own calls are some of its work.
                    share = (_cpu_seconds(server.process_id) - used) / (now - checked)
                    used, checked = _cpu_seconds(server.process_id), now
                    if is_done and share < BUSY_SHARE:
                        break
                if now - began > MOST_SECONDS:
                    break
                time.sleep(PAUSE_SECONDS)
    except TimeoutError:
        waiting.longest = MOST_SECONDS
    waiting.busy = max(0.0, time.monotonic() - began - CALM_SECONDS)


@contextmanager
def _hanging_backend(server: Server) -> Iterator[socket.socket]:
    """Register a backend that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        params = {"name": "hangs", "host": "127.0.0.1", "port": listener.getsockname()[1]}
        ask(server.url, request("registry.register", params))
        yield listener


def _connects_later(listener: socket.socket) -> int:
    """Count the connections that still come when each client has had its one probe."""
    listener.setblocking(False)
    time.sleep(15)
    _accept_all(listener)
    time.sleep(5)
    return _accept_all(listener)


def _accept_all(listener: socket.socket) -> int:
    for number in count():
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return number
    raise AssertionError


def _wait_until_idle(server: Server) -> None:
    used = -1.0
    for _ in range(100):
        before, used = used, _cpu_seconds(server.process_id)
        if used - before < 0.02:
            return
        time.sleep(0.2)


def _cpu_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _status(process_id: int, name: str) -> int:
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {process_id} has no {name}")


def main() -> None:
    """Make the change of one case, as a process of its own."""
    url, folder, what = sys.argv[1:]
    (case,) = (each for each in CASES if each.what == what)
    assert case.change is not None
    print("begun", flush=True)
    case.change(Server(url=url, process_id=0), Path(folder))
    time.sleep(3)  # until the file was looked at twice
    print("done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
