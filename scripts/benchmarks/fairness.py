"""How long one client waits for a `get` while others ask for too much.

Each case has a registry of its own and an attack, which is a process of its own:
`fairness.py URL FOLDER CASE`. That prints a line once everything is prepared, and another when the
server has answered, or where nothing is to be answered, when everything was sent. It holds its
connections until its standard input ends, unless the attack is to leave. The figure is the longest
`get` from the first line until the registry is idle again.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import Bench
from load import Client, address, ask, encode, timed_gets
from report import Row, state
from servers import HERE, LOAD_CORE, Server, open_process

MOST_SECONDS = 20.0
"""A `get` that takes longer is given up, and the case with it."""
CALM_SECONDS = 1.0
BUSY_SHARE = 0.3
BATCH = 1_000
LEAVERS = 5_000
LOOKS_SECONDS = 3
"""In this time the registry looks at its config file twice."""
CLOSE_FRAME = b"\x88\x82" + bytes(4) + b"\x03\xe8"
"""Code 1000, masked with zeros."""
MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """An attack, which gets the URL and the folder of a registry, and what that begins with."""

    attack: Callable[[str, Path], None]
    stored: int = 10
    config: str = ""


def measure_fairness(bench: Bench) -> Iterator[Row]:
    """Measure the longest `get` of another client in each case."""
    wanted = os.environ.get("BENCH_FAIRNESS", "")
    for what, case in CASES.items():
        if wanted in what and bench.rows in what:
            yield from _measure(bench, what, case)


def _measure(bench: Bench, what: str, case: Case) -> Iterator[Row]:
    folder = bench.new_folder()
    (folder / "backends.toml").write_text(case.config)
    with (
        bench.filled_registry(case.stored, folder=folder) as server,
        socket.create_server(("127.0.0.1", 0), backlog=4096) as hanging,  # it never answers
    ):
        hangs = address("hangs", hanging.getsockname()[1])
        ask(server.url, encode("registry.register", hangs))
        script = [sys.executable, str(HERE / "fairness.py"), server.url, str(folder), what]
        with open_process(script, LOAD_CORE) as attack:
            longest, busy = _watch(server, attack)
        unit = "ms" if longest < MOST_SECONDS else "ms or more"
        yield state(f"{what}: longest get", longest * 1e3, unit)
        yield state(f"{what}: at work", busy, "s" if busy < MOST_SECONDS else "s or more")
        yield state(f"{what}: memory", server.memory("VmHWM") / MEGABYTE, "MB")
        if max(longest, busy) >= MOST_SECONDS:
            os.kill(server.process_id, signal.SIGKILL)


def _watch(server: Server, attack: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Get a backend again and again until the attack is done and the registry idle.

    Returns:
        The longest `get`, and how long the registry was at work, both in seconds.
    """
    assert attack.stdout is not None
    if not attack.stdout.readline():
        raise RuntimeError(f"{attack.args!r} ended early")
    os.set_blocking(attack.stdout.fileno(), False)
    longest, used, is_done = 0.0, server.cpu_seconds, False
    began = checked = time.monotonic()
    try:
        for taken in timed_gets(server.url, MOST_SECONDS):
            longest = max(longest, taken)
            is_done = is_done or bool(attack.stdout.read())
            now = time.monotonic()
            if now - checked >= CALM_SECONDS:
                # Our own calls are some of its work.
                share = (server.cpu_seconds - used) / (now - checked)
                used, checked = server.cpu_seconds, now
                if is_done and share < BUSY_SHARE:
                    break
            if now - began > MOST_SECONDS + CALM_SECONDS:
                break
    except TimeoutError:
        longest = MOST_SECONDS
    return longest, max(0.0, time.monotonic() - began - CALM_SECONDS)


@contextmanager
def attacking() -> Iterator[None]:
    """Report when the attack begins and when it is done, and hold what it opened until the end."""
    print("begun", flush=True)
    yield
    print("done", flush=True)
    sys.stdin.read()


def send(text: str, url: str, _folder: Path) -> None:
    """Send one message, and wait for the first bytes of the answer or for the end."""
    with Client(url) as client, attacking():
        client.send(text)
        client.socket.recv(1)


def send_batches(text: str, connections: int, url: str, _folder: Path, *, leaves: bool) -> None:
    """Send a batch of equal requests on each connection, and read nothing, or leave at once."""
    batch = f"[{','.join([text] * BATCH)}]"
    clients = [Client(url) for _ in range(connections)]
    with attacking():
        for client in clients:
            client.send(batch)
        for client in clients if leaves else ():
            client.socket.close()


def leave(goodbye: bytes, url: str, _folder: Path) -> None:
    """Open many connections from a child process, and end all of them at once by its death."""
    clients = [Client(url) for _ in range(LEAVERS)]
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    for client in clients:
        client.socket.send(goodbye)
        client.socket.close()  # the child still holds it
    with attacking():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def write(make_text: Callable[[], str], _url: str, folder: Path) -> None:
    """Replace the config file."""
    new = folder / "backends.new"
    new.write_text(make_text())
    with attacking():
        new.replace(folder / "backends.toml")
        time.sleep(LOOKS_SECONDS)


def check_secured(url: str, _folder: Path) -> None:
    """Have a `wss` backend probed; nobody need answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener, attacking():
        params = address("secured", listener.getsockname()[1])
        ask(url, encode("registry.register", {**params, "protocol": "wss"}))
        ask(url, encode("registry.check", {"name": "secured"}))


def with_params(params: str) -> Case:
    """Send a request whose parameters are JSON text."""
    request = f'{{"jsonrpc":"2.0","id":1,"method":"registry.get","params":{params}}}'
    return Case(partial(send, request))


def with_keys(count: int, value: str = "1") -> Case:
    """Send a request that has many unknown parameters."""
    members = ",".join(f'"k{number}":{value}' for number in range(count))
    return with_params(f'{{"name":"b-000000",{members}}}')


def entries(count: int) -> str:
    """Write a config file."""
    return "".join(
        f'[[backend]]\nname = "f-{number:06}"\nhost = "127.0.0.1"\nport = 1\n'
        for number in range(count)
    )


def unknown_keys() -> str:
    """Write a config file of 55 MB that says nothing."""
    line = f'key_%07d = "{"v" * 80}"\n'
    return "".join(line % number for number in range(55 * MEGABYTE // 95))


# Each of them is another, and near to a known one.
UNKNOWN = ",".join(
    encode((f"registry.lis{number:04}." * 10)[:128], None) for number in range(BATCH)
)
DEEP = ",".join(["[" * 60 + "]" * 60] * 8_000)
LONG_HOST = {"name": "a", "host": "h" * 1_000_000, "port": 1}
LISTS = partial(send_batches, encode("registry.list", {}), 100, leaves=False)
RELOADS = partial(send_batches, encode("registry.reload", None), 1, leaves=True)
CHECKS = partial(send_batches, encode("registry.check", {"name": "hangs"}), 50, leaves=True)
CASES = {
    "B1 1,000 unknown methods": Case(partial(send, f"[{UNKNOWN}]")),
    "B2 100 x 1,000 unread lists": Case(LISTS),
    "B2 ... with 10,000 stored": Case(LISTS, stored=10_000),
    "B3 1,000 reloads, left": Case(RELOADS, config=entries(1_000)),
    "B3 50 x 1,000 checks, left": Case(CHECKS),
    "B4 8,000 arrays 60 deep": with_params(f'{{"name":"b-000000","x":[{DEEP}]}}'),
    "B4 349,000 empty arrays": with_params(f"[{','.join(['[]'] * 349_000)}]"),
    "B4 80,000 keys": with_keys(80_000),
    "B4 29,000 keys, not refused": with_keys(29_000, '":"'),
    "B4 a host of 1 MB": Case(partial(send, encode("registry.register", LONG_HOST))),
    "B4 3,000 long floats": with_params(f"[{','.join(['1.' + '7' * 300] * 3_000)}]"),
    "B5 5,000 connections end": Case(partial(leave, b"")),
    "B5 ... with close frames": Case(partial(leave, CLOSE_FRAME)),
    "B6 a file of 20,000 entries": Case(partial(write, lambda: entries(20_000))),
    "B6 a file of 55 MB": Case(partial(write, unknown_keys)),
    "B6 one entry, 50,000 stored": Case(partial(write, lambda: entries(1)), stored=50_000),
    "B7 the first wss probe": Case(check_secured),
}

if __name__ == "__main__":
    CASES[sys.argv[3]].attack(sys.argv[1], Path(sys.argv[2]))
