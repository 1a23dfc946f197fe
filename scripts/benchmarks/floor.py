"""The floor under the registry, and a hub for it to probe: each a process of its own.

floor.py constant PORT           answers every message with as many bytes as the path says
floor.py hub PORT                answers `_info`, on every loopback address
floor.py sqlite FOLDER SECONDS   commits rows like a registration's, and prints how many a second
"""

import json
import sqlite3
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketRequest, serve_websocket

HUB = "bench-hub"


async def answer(request: WebSocketRequest, messages: list[str]) -> None:
    """Answer each message with others."""
    try:
        async with await request.accept() as ws:
            while True:
                await ws.get_message()
                for message in messages:
                    await ws.send_message(message)
    except (ConnectionClosed, HandshakeError):
        return


async def answer_constant(request: WebSocketRequest) -> None:
    await answer(request, ["x" * int(request.path.removeprefix("/"))])


async def answer_info(request: WebSocketRequest) -> None:
    metadata = {"provenance": [HUB], "plexus_hash": "0f1e2d3c4b5a6978", "timestamp": 1}
    content = {"backend": HUB, "version": "1.0"}
    data = {"type": "data", "metadata": metadata, "content_type": "_info", "content": content}
    items = [
        {"jsonrpc": "2.0", "method": "result", "params": {"subscription": 7, "result": item}}
        for item in (data, {"type": "done", "metadata": metadata})
    ]
    accepted = {"jsonrpc": "2.0", "id": 1, "result": 7}
    await answer(request, [json.dumps(message) for message in (accepted, *items)])


def commit_rows(folder: Path, seconds: float) -> float:
    """Commit one row after the other for a time, and return how many a second."""
    now = int(time.time())
    address = ("runtime", "127.0.0.1", 4444, "ws", None, None, None, None, "manual", 1)
    with sqlite3.connect(folder / f"bare-{uuid.uuid4()}.db", isolation_level=None) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(
            "CREATE TABLE backends (id, name, layer, host, port, protocol, description, namespace, "
            "version, metadata, source, is_active, registered_at, last_seen, created_at, "
            "updated_at, PRIMARY KEY (name, layer))"
        )
        insert = f"INSERT INTO backends VALUES ({', '.join('?' * 16)})"
        rows, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            name = f"b-{rows:06}"
            database.execute(insert, (str(uuid.uuid4()), name, *address, now, None, now, now))
            rows += 1
    return rows / elapsed


if __name__ == "__main__":
    serve = partial(serve_websocket, ssl_context=None)
    match sys.argv[1:]:
        case ["constant", port]:
            trio.run(partial(serve, answer_constant, "127.0.0.1", int(port)))
        case ["hub", port]:
            trio.run(partial(serve, answer_info, "0.0.0.0", int(port)))
        case ["sqlite", folder, seconds]:
            print(commit_rows(Path(folder), float(seconds)))
        case _:
            sys.exit(__doc__)
