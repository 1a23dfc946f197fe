"""The floor under the registry, and a hub for it to probe: each a process of its own.

floor.py websocket               answers every message with as many bytes as the path says
floor.py sqlite FOLDER SECONDS   commits rows like a registration's, and prints how many a second
floor.py hub NAME                answers `_info` and nothing else, on every loopback address
"""

import asyncio
import base64
import hashlib
import json
import re
import sqlite3
import sys
import time
import uuid
from functools import partial
from pathlib import Path

COLUMNS = (
    "id, name, layer, host, port, protocol, "
    "description, namespace, version, metadata, source, is_active, "
    "registered_at, last_seen, created_at, updated_at"
)
KEY = re.compile(rb"sec-websocket-key: *([^\r]+)\r", re.IGNORECASE)
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def serve_constant() -> None:
    # Imported here: the other two have no use for them.
    import trio
    from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

    async def serve_connection(request: WebSocketRequest) -> None:
        constant = "x" * int(request.path.removeprefix("/"))
        try:
            async with await request.accept() as ws:
                while True:
                    await ws.get_message()
                    await ws.send_message(constant)
        except ConnectionClosed:
            return

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            start = partial(serve_websocket, serve_connection, "127.0.0.1", 0, None)
            server = await nursery.start(start)
            print(f"ws://127.0.0.1:{server.port}", flush=True)

    trio.run(serve)


def commit_rows(folder: Path, seconds: float) -> None:
    with sqlite3.connect(folder / f"bare-{uuid.uuid4()}.db", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"CREATE TABLE backends ({COLUMNS}, PRIMARY KEY (name, layer))")
        insert = f"INSERT INTO backends VALUES ({', '.join('?' * len(COLUMNS.split(',')))})"
        rows, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            now = int(time.time())
            address = (str(uuid.uuid4()), f"b-{rows:06}", "runtime", "127.0.0.1", 4444, "ws")
            others = (None, None, None, None, "manual", 1, now, None, now, now)
            database.execute(insert, address + others)
            rows += 1
    print(rows / elapsed, flush=True)


def _frame(message: object) -> bytes:
    text = json.dumps(message).encode()
    size = bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")
    return b"\x81" + size + text


def _info_of(name: str) -> bytes:
    metadata = {"provenance": [name], "plexus_hash": "0f1e2d3c4b5a6978", "timestamp": 1}
    content = {"backend": name, "version": "1.0"}
    data = {"type": "data", "metadata": metadata, "content_type": "_info", "content": content}
    answer = _frame({"jsonrpc": "2.0", "id": 1, "result": 7})
    for item in (data, {"type": "done", "metadata": metadata}):
        params = {"subscription": 7, "result": item}
        answer += _frame({"jsonrpc": "2.0", "method": "result", "params": params})
    return answer


class Hub(asyncio.Protocol):
    """One connection: the first data is the handshake, the second the call."""

    def __init__(self, answer: bytes) -> None:
        self.answers: list[bytes | None] = [None, answer]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if len(self.answers) == 2:
            key = KEY.search(data)
            accept = base64.b64encode(hashlib.sha1(key[1] + MAGIC).digest()) if key else b""
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
        elif self.answers:
            self.transport.write(self.answers[0] or b"")
        del self.answers[:1]


async def serve_hub(name: str) -> None:
    loop = asyncio.get_running_loop()
    answer = _info_of(name)
    server = await loop.create_server(lambda: Hub(answer), "0.0.0.0", 0, backlog=1024)
    print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["websocket"]:
            serve_constant()
        case ["sqlite", folder, seconds]:
            commit_rows(Path(folder), float(seconds))
        case ["hub", name]:
            asyncio.run(serve_hub(name))
        case _:
            sys.exit(__doc__)
