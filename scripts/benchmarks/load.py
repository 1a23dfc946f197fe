"""WebSocket connections to a server, the requests to send, and the load that they are.

A direct call is one message there and one back. A Plexus call goes through the hub and comes back
as three messages: the acknowledgement, the data and `done`; it counts as complete at `done`.
"""

import itertools
import json
import re
import select
import socket
import statistics
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from report import Sample

HEAD = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ANSWER_SECONDS = 60
CHUNK = 1 << 16
FEWEST = 10
"""A load goes on until it has seen as many replies."""
PAUSE_SECONDS = 0.002
PORT = 4444
REFUSED = re.compile(rb'"error":\s*\{|"type":\s*"error"')
SERIAL = "@serial@"
"""Stands in a request for a number that is never used twice."""
INFO = '{"jsonrpc":"2.0","id":1,"method":"_info","params":null}'
CONTENTS = {
    "get": r'"backend":\s*\{',
    "hash": r'"event":\s*"hash"',
    "list": r'"backends":\s*\[',
    "ping": r'"success":\s*true',
    "register": r'"type":\s*"backend_registered"',
    "update": r'"type":\s*"backend_updated"',
}

_serials = itertools.count()


class Client:
    """A connection; its frames are masked with zeros, and it answers no pings."""

    def __init__(self, url: str, seconds: float = ANSWER_SECONDS) -> None:
        """Connect and shake hands; each wait for the server is limited to `seconds`."""
        self.sent, self.arrived = 0.0, 0  # of the request in flight under load
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(HEAD.format(parts.path or "/").encode())
        self._read = b""
        while b"\r\n\r\n" not in self._read:
            self.read()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        if b" 101 " not in head:
            raise RuntimeError(f"{url} refused the handshake: {head!r}")

    def __enter__(self) -> "Client":  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, text: str) -> None:
        payload = text.encode()
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x81, 0x80 | size)
        else:
            short = size < 1 << 16
            head = struct.pack("!BBH" if short else "!BBQ", 0x81, 0xFE if short else 0xFF, size)
        self.socket.sendall(head + bytes(4) + payload)

    def read(self) -> None:
        """Read what has come, or wait for something."""
        data = self.socket.recv(CHUNK)
        if not data:
            raise RuntimeError("the server closed a connection")
        self._read += data

    def next_message(self) -> bytes | None:
        """Return the first message of what was read, joined from its frames, if it is whole."""
        read, message, at = self._read, b"", 0
        while len(read) >= at + 2:
            is_last, size, start = read[at] & 0x80, read[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                size = int.from_bytes(read[at + 2 : start], "big")
            at = start + size
            if len(read) < at:
                break
            message += read[start:at]
            if is_last:
                self._read = read[at:]
                return message
        return None

    def receive(self) -> bytes:
        """Return the next message."""
        while (message := self.next_message()) is None:
            self.read()
        return message


def ask(url: str, *requests: str, messages: int = 1) -> list[bytes]:
    """Send requests one after the other, each answered by some messages; return all messages."""
    answers = []
    with Client(url) as client:
        for request in requests:
            client.send(request)
            answers += [client.receive() for _ in range(messages)]
            if any(map(REFUSED.search, answers[-messages:])):
                raise RuntimeError(f"{url} refused a request: {answers[-1][:300]!r}")
    return answers


def hub_name(url: str) -> str:
    """Ask a server for the name of its Plexus hub."""
    data = json.loads(ask(url, INFO, messages=3)[1])
    return str(data["params"]["result"]["content"]["backend"])


def timed_gets(url: str, seconds: float) -> Iterator[float]:
    """Get a backend again and again, with pauses, and yield how many seconds each took."""
    request = encode("registry.get", {"name": backend_name(0)})
    with Client(url, seconds) as client:
        while True:
            asked = time.monotonic()
            client.send(request)
            client.receive()
            yield time.monotonic() - asked
            time.sleep(PAUSE_SECONDS)


def encode(method: str, params: object, hub: str | None = None) -> str:
    """Encode a request, directly or through a hub."""
    if hub is not None:
        method, params = f"{hub}.call", {"method": method, "params": params}
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(request, separators=(",", ":"))


def backend_name(number: int) -> str:
    """Name a stored backend; all names have one length, so that all replies have one size."""
    return f"b-{number:06}"


def address(name: str, port: int = PORT) -> dict[str, object]:
    """Make the parameters that register a backend."""
    return {"name": name, "host": "127.0.0.1", "port": port}


@dataclass(frozen=True, slots=True)
class Call:
    """What to send, each request in turn, and a pattern for each message of a reply."""

    requests: Sequence[str]
    replies: Sequence[str]


INFO_CALL = Call((INFO,), (r'"result":\s*\d', '"backend"', '"done"'))


def call(method: str, params: Sequence[object], hub: str | None = None) -> Call:
    """Make a call, directly or through a hub, with each of `params` in turn."""
    content = CONTENTS[method.rpartition(".")[2]]
    replies = (content,) if hub is None else (r'"result":\s*\d', content, '"done"')
    return Call([encode(method, each, hub) for each in params], replies)


def named(numbers: Sequence[int]) -> list[object]:
    """Make parameters that only name a backend."""
    return [{"name": backend_name(number)} for number in numbers]


def moved(numbers: Sequence[int]) -> list[object]:
    """Make parameters that move backends to one port and, when all are there, to another."""
    ports = (PORT + 1, PORT + 2)
    return [{"name": backend_name(number), "port": port} for port in ports for number in numbers]


UNSEEN = [address(f"new-{SERIAL}")]
"""Parameters that register a new name each time."""


def drive(url: str, call: Call, connections: int, *, warm_up: float, seconds: float) -> Sample:
    """Load a server for a time, and return how many calls a second it answered.

    On each connection one request is in flight. Every message of every reply is checked, because
    a server that answers errors quickly would look fast.
    """
    requests = itertools.cycle(call.requests)
    patterns = [re.compile(reply.encode()) for reply in call.replies]
    latencies: list[float] = []
    taken = 0.0

    def send(client: Client) -> None:
        client.sent = time.perf_counter()
        client.send(next(requests).replace(SERIAL, str(next(_serials))))

    with ExitStack() as stack, select.epoll() as poll:
        clients = [stack.enter_context(Client(url)) for _ in range(connections)]
        by_number = {client.socket.fileno(): client for client in clients}
        began, used, busy = time.perf_counter() + warm_up, time.process_time(), 0.0
        for number, client in by_number.items():
            client.socket.settimeout(None)  # else each call of it polls, too
            poll.register(number, select.EPOLLIN)
            send(client)
        at_work = connections
        while at_work:
            ready = poll.poll(ANSWER_SECONDS)
            if not ready:
                raise RuntimeError(f"{url}: no answer in {ANSWER_SECONDS} s")
            for client in (by_number[number] for number, _ in ready):
                client.read()
                while (message := client.next_message()) is not None:
                    if not patterns[client.arrived].search(message):
                        raise RuntimeError(f"{url}: unexpected reply: {message[:500]!r}")
                    client.arrived += 1
                if client.arrived < len(patterns):
                    continue
                client.arrived, now = 0, time.perf_counter()
                if now >= began and not taken:
                    latencies.append(now - client.sent)
                    if now >= began + seconds and len(latencies) >= FEWEST:
                        taken = now - began
                        busy = (time.process_time() - used) / (now - began + warm_up)
                if taken:
                    at_work -= 1
                else:
                    send(client)
    p99 = statistics.quantiles(latencies, n=100)[98]
    return Sample(len(latencies) / taken, p99 * 1e3, busy)
