"""The floor under the registry: each a process of its own.

floor.py constant PORT           answers every message with as many bytes as the path says
floor.py sqlite FOLDER SECONDS   commits rows like a registration's, and prints how many a second
"""

import sqlite3
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def answer_constant(request: WebSocketRequest) -> None:
    constant = "x" * int(request.path.removeprefix("/"))
    try:
        async with await request.accept() as ws:
            while True:
                await ws.get_message()
                await ws.send_message(constant)
    except ConnectionClosed:
        return


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
    match sys.argv[1:]:
        case ["constant", port]:
            trio.run(partial(serve_websocket, answer_constant, "127.0.0.1", int(port), None))
        case ["sqlite", folder, seconds]:
            print(commit_rows(Path(folder), float(seconds)))
        case _:
            sys.exit(__doc__)
