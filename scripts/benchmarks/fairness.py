"""How long one client waits for a `get` while others ask for too much.

Each case has a registry of its own and an attack in a process of its own. The figure is the
longest `get` from the beginning of the attack until the registry is idle again.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import count

from attacks import CASES, CHECKS, MEGABYTE, Case, open_websocket, text_frame
from bench import Bench
from load import ask, backend_name, encode, get, register_batches, tell
from report import Figure
from servers import HERE, Server, open_process, open_registry, read_line

MOST_SECONDS = 20.0
"""A `get` that takes longer is given up, and the case with it."""
CALM_SECONDS = 1.0
BUSY_SHARE = 0.3
PAUSE_SECONDS = 0.002


def measure_fairness(bench: Bench) -> list[Figure]:
    """Measure the longest `get` of another client in each case."""
    figures = []
    wanted = os.environ.get("BENCH_FAIRNESS", "")
    for what, case in CASES.items():
        if wanted in what:
            for name, value, unit in _measure(bench, what, case):
                print(f"  {what}: {name}: {value:,.1f} {unit}", file=sys.stderr, flush=True)
                what_exactly = f"{what}: {name}"
                figure = Figure(scenario="fairness", what=what_exactly, value=value, unit=unit)
                figures.append(figure)
    return figures


def _measure(bench: Bench, what: str, case: Case) -> list[tuple[str, float, str]]:
    folder = bench.new_folder()
    (folder / "backends.toml").write_text(case.config)
    with (
        open_registry(folder, bench.cores) as server,
        socket.create_server(("127.0.0.1", 0), backlog=4096) as hanging,  # it never answers
    ):
        address = {"host": "127.0.0.1", "port": hanging.getsockname()[1]}
        ask(server.url, encode("registry.register", {"name": "hangs", **address}))
        tell(server.url, register_batches(case.stored))
        _wait_until_idle(server)
        script = [sys.executable, str(HERE / "attacks.py"), server.url, str(folder), what]
        with open_process(script, bench.cores.load) as attack:
            line = read_line(attack, MOST_SECONDS * 3)
            if not line.startswith("begun"):
                raise RuntimeError(f"{what}: {line!r}")
            longest, busy = _watch(server, attack, is_done="done" in line)
            connects = _connects_later(hanging) if case.attack is CHECKS else 0
        or_more = "" if longest < MOST_SECONDS else " or more"
        found = [("longest get", longest * 1e3, f"ms{or_more}")]
        found += [("at work", busy, "s" if busy < MOST_SECONDS else "s or more")]
        if case.attack is CHECKS:
            found += [("connects in 5 s, 15 s later", connects, "connects")]
        if case.weighs:
            found += [("memory", server.memory("VmHWM") / MEGABYTE, "MB")]
        if longest >= MOST_SECONDS or busy >= MOST_SECONDS:
            os.kill(server.process_id, signal.SIGKILL)
        return found


def _watch(
    server: Server, attack: subprocess.Popen[bytes], *, is_done: bool
) -> tuple[float, float]:
    """Ask again and again until the attack is done and the registry idle.

    Returns:
        The longest `get`, and how long the registry was at work, both in seconds.
    """
    frame = text_frame(get([backend_name(0)]).frames[0])
    longest = 0.0
    began = checked = time.monotonic()
    used = server.cpu_seconds
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
                longest = max(longest, now - asked)
                if not is_done:
                    is_done = b"done" in (attack.stdout.read() or b"")
                if now - checked >= CALM_SECONDS:
                    # Our own calls are some of its work.
                    share = (server.cpu_seconds - used) / (now - checked)
                    used, checked = server.cpu_seconds, now
                    if is_done and share < BUSY_SHARE:
                        break
                if now - began > MOST_SECONDS:
                    break
                time.sleep(PAUSE_SECONDS)
    except TimeoutError:
        longest = MOST_SECONDS
    return longest, max(0.0, time.monotonic() - began - CALM_SECONDS)


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
        before, used = used, server.cpu_seconds
        if used - before < 0.02:
            return
        time.sleep(0.2)
