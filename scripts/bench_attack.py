"""A client that asks for too much: `bench_attack.py URL ATTACK`, a process of its own.

It prints `begun` once everything is prepared and the attack begins, and `done` when the server has
answered, or where nothing is to be answered, when everything was sent. It holds its connections
until its standard input ends, unless the attack is to leave.
"""

import json
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

HEAD = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ANSWER_SECONDS = 60
BATCH = 1_000
READERS = 100
LEAVERS = 5_000
CHECKERS = 50
CLOSE_FRAME = b"\x88\x82" + bytes(4) + b"\x03\xe8"
"""Code 1000, masked with zeros."""


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


def request(method: str, params: object = None) -> str:
    """Encode a request."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(asked, separators=(",", ":"))


def batch(text: str, count: int = BATCH) -> str:
    """Encode a batch of equal requests."""
    return f"[{','.join([text] * count)}]"


def batch_of_unknown() -> str:
    """Encode a batch of long unknown methods, each of them another that is near to a known one."""
    asked = [request((f"registry.lis{number:04}." * 10)[:128]) for number in range(BATCH)]
    return f"[{','.join(asked)}]"


def with_params(params: str) -> str:
    """Encode a request whose parameters are JSON text."""
    return f'{{"jsonrpc":"2.0","id":1,"method":"registry.get","params":{params}}}'


def ask(url: str, text: str) -> None:
    """Send one message, and wait for the first bytes of the answer or for the end."""
    frame = text_frame(text)
    with open_websocket(url) as connection:
        print("begun", flush=True)
        connection.sendall(frame)
        connection.recv(1)
        print("done", flush=True)
        sys.stdin.read()


def read_nothing(url: str) -> None:
    """Send large batches on many connections, and read nothing."""
    frame = text_frame(batch(request("registry.list", {})))
    connections = [open_websocket(url) for _ in range(READERS)]
    print("begun", flush=True)
    for connection in connections:
        connection.sendall(frame)
    print("done", flush=True)
    sys.stdin.read()


def leave_in_batch(url: str, text: str, connections: int) -> None:
    """Send batches that take long, and leave."""
    frame = text_frame(text)
    opened = [open_websocket(url) for _ in range(connections)]
    print("begun", flush=True)
    for connection in opened:
        connection.sendall(frame)
    for connection in opened:
        connection.close()
    print("done", flush=True)
    sys.stdin.read()


def leave_together(url: str, goodbye: bytes = b"") -> None:
    """Open many connections from a child process, and end all of them at once by its death."""
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
    print("begun", flush=True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("done", flush=True)
    sys.stdin.read()


def _deep() -> str:
    nested = "[" * 60 + "]" * 60
    return with_params(f'{{"name":"b-000000","x":[{",".join([nested] * 8_000)}]}}')


def _keys(count: int, value: str = "1") -> str:
    members = ",".join(f'"k{number}":{value}' for number in range(count))
    return with_params(f'{{"name":"b-000000",{members}}}')


ATTACKS: dict[str, Callable[[str], None]] = {
    "unknown methods": lambda url: ask(url, batch_of_unknown()),
    "unread lists": read_nothing,
    "reload and leave": lambda url: leave_in_batch(url, batch(request("registry.reload")), 1),
    "check and leave": lambda url: leave_in_batch(
        url, batch(request("registry.check", {"name": "hangs"})), CHECKERS
    ),
    "deep arrays": lambda url: ask(url, _deep()),
    "empty arrays": lambda url: ask(url, with_params(f"[{','.join(['[]'] * 349_000)}]")),
    "many keys": lambda url: ask(url, _keys(80_000)),
    "just not too many keys": lambda url: ask(url, _keys(29_000, '":"')),
    "long host": lambda url: ask(
        url, request("registry.register", {"name": "a", "host": "h" * 1_000_000, "port": 1})
    ),
    "long floats": lambda url: ask(url, with_params(f"[{','.join(['1.' + '7' * 300] * 3_000)}]")),
    "leave together": leave_together,
    "close together": lambda url: leave_together(url, CLOSE_FRAME),
}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ATTACKS:
        sys.exit(__doc__)
    ATTACKS[sys.argv[2]](sys.argv[1])
