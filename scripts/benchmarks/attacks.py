"""Clients that ask for too much, each a process of its own: `attacks.py URL FOLDER CASE`.

Each prints `begun` once everything is prepared and the attack begins, and `done` when the server
has answered, or where nothing is to be answered, when everything was sent. It holds its connections
until its standard input ends, unless the attack is to leave.
"""

import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load import ask, encode

HEAD = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ANSWER_SECONDS = 60
BATCH = 1_000
READERS = 100
LEAVERS = 5_000
CHECKERS = 50
LOOKS_SECONDS = 3
"""In this time the registry looks at its config file twice."""
CLOSE_FRAME = b"\x88\x82" + bytes(4) + b"\x03\xe8"
"""Code 1000, masked with zeros."""
MEGABYTE = 1024 * 1024

Attack = Callable[[str, Path], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One attack.

    Attributes:
        attack: Is called with the URL of the registry and the folder of its config file.
        stored: How many backends are stored.
        config: The contents of the config file from the beginning.
        weighs: Whether the memory of the registry is reported, too.
    """

    attack: Attack
    stored: int = 10
    config: str = ""
    weighs: bool = False


def open_websocket(url: str, *, seconds: float = ANSWER_SECONDS) -> socket.socket:
    """Connect and shake hands."""
    found = re.fullmatch(r"ws://([^:]+):(\d+)", url)
    if found is None:
        raise ValueError(f"no ws:// URL: {url}")
    connection = socket.create_connection((found[1], int(found[2])), timeout=seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(HEAD)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(4096)
        if not data:
            raise RuntimeError(f"{url} refused the handshake: {answer!r}")
        answer += data
    return connection


def text_frame(text: str) -> bytes:
    """Make a frame as clients send it, masked with zeros."""
    payload = text.encode()
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 1 << 16:
        size = b"\xfe" + length.to_bytes(2, "big")
    else:
        size = b"\xff" + length.to_bytes(8, "big")
    return b"\x81" + size + bytes(4) + payload


@contextmanager
def attacking() -> Iterator[None]:
    """Report when the attack begins and when it is done, and hold what it opened until the end."""
    print("begun", flush=True)
    yield
    print("done", flush=True)
    sys.stdin.read()


def sending(text: str) -> Attack:
    """Send one message, and wait for the first bytes of the answer or for the end."""

    def attack(url: str, _folder: Path) -> None:
        frame = text_frame(text)
        with open_websocket(url) as connection, attacking():
            connection.sendall(frame)
            connection.recv(1)

    return attack


def sending_batches(text: str, connections: int, *, leaves: bool) -> Attack:
    """Send a batch of equal requests on each connection, and read nothing, or leave at once."""

    def attack(url: str, _folder: Path) -> None:
        frame = text_frame(f"[{','.join([text] * BATCH)}]")
        opened = [open_websocket(url) for _ in range(connections)]
        with attacking():
            for connection in opened:
                connection.sendall(frame)
            for connection in opened if leaves else ():
                connection.close()

    return attack


def leaving(goodbye: bytes = b"") -> Attack:
    """Open many connections from a child process, and end all of them at once by its death."""

    def attack(url: str, _folder: Path) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        opened = [open_websocket(url) for _ in range(min(LEAVERS, limit - 100))]
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        for connection in opened:
            if goodbye:
                connection.send(goodbye)
            connection.close()  # the child still holds it
        with attacking():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    return attack


def writing(make_text: Callable[[], str]) -> Attack:
    """Replace the config file."""

    def attack(_url: str, folder: Path) -> None:
        new = folder / "backends.new"
        new.write_text(make_text())
        with attacking():
            new.replace(folder / "backends.toml")
            time.sleep(LOOKS_SECONDS)

    return attack


def check_secured(url: str, _folder: Path) -> None:
    """Have a `wss` backend probed; nobody need answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener, attacking():
        params = {"name": "secured", "host": "127.0.0.1", "port": listener.getsockname()[1]}
        ask(url, encode("registry.register", {**params, "protocol": "wss"}))
        ask(url, encode("registry.check", {"name": "secured"}))


def with_params(params: str) -> Attack:
    """Send a request whose parameters are JSON text."""
    return sending(f'{{"jsonrpc":"2.0","id":1,"method":"registry.get","params":{params}}}')


def with_keys(count: int, value: str = "1") -> Attack:
    """Send a request that has many unknown parameters."""
    members = ",".join(f'"k{number}":{value}' for number in range(count))
    return with_params(f'{{"name":"b-000000",{members}}}')


def entries(count: int) -> str:
    """Write a config file."""
    return "".join(
        f'[[backend]]\nname = "f-{number:06}"\nhost = "127.0.0.1"\nport = 1\n'
        for number in range(count)
    )


def _unknown_keys() -> str:
    line = f'key_%07d = "{"v" * 80}"\n'
    return "".join(line % number for number in range(55 * MEGABYTE // 95))


# Each of them is another, and near to a known one.
UNKNOWN = ",".join(
    encode((f"registry.lis{number:04}." * 10)[:128], None) for number in range(BATCH)
)
DEEP = ",".join(["[" * 60 + "]" * 60] * 8_000)
LONG_HOST = {"name": "a", "host": "h" * 1_000_000, "port": 1}
LISTS = sending_batches(encode("registry.list", {}), READERS, leaves=False)
RELOADS = sending_batches(encode("registry.reload", None), 1, leaves=True)
CHECKS = sending_batches(encode("registry.check", {"name": "hangs"}), CHECKERS, leaves=True)
CASES = {
    "B1 1,000 unknown methods": Case(sending(f"[{UNKNOWN}]")),
    "B2 100 x 1,000 unread lists": Case(LISTS, weighs=True),
    "B2 ... with 10,000 stored": Case(LISTS, stored=10_000, weighs=True),
    "B3 1,000 reloads, left": Case(RELOADS, config=entries(1_000)),
    "B3 50 x 1,000 checks, left": Case(CHECKS),
    "B4 8,000 arrays 60 deep": Case(with_params(f'{{"name":"b-000000","x":[{DEEP}]}}')),
    "B4 349,000 empty arrays": Case(with_params(f"[{','.join(['[]'] * 349_000)}]")),
    "B4 80,000 keys": Case(with_keys(80_000)),
    "B4 29,000 keys, not refused": Case(with_keys(29_000, '":"')),
    "B4 a host of 1 MB": Case(sending(encode("registry.register", LONG_HOST))),
    "B4 3,000 long floats": Case(with_params(f"[{','.join(['1.' + '7' * 300] * 3_000)}]")),
    "B5 5,000 connections end": Case(leaving()),
    "B5 ... with close frames": Case(leaving(CLOSE_FRAME)),
    "B6 a file of 20,000 entries": Case(writing(lambda: entries(20_000))),
    "B6 a file of 55 MB": Case(writing(_unknown_keys)),
    "B6 one entry, 50,000 stored": Case(writing(lambda: entries(1)), stored=50_000),
    "B7 the first wss probe": Case(check_secured),
}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[3] not in CASES:
        sys.exit(__doc__)
    CASES[sys.argv[3]].attack(sys.argv[1], Path(sys.argv[2]))
