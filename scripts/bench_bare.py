"""The floor under the registry: the least that anything on the same parts has to do.

`websocket` is a bare trio-websocket server that answers every message with a constant; the path of
the URL says how many bytes. `sqlite FOLDER SECONDS` inserts rows like a registration's into a
fresh WAL database, a commit each with synchronous=FULL, and prints how many a second. Both run as
processes of their own, on the registry's core.
"""

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


def serve_constant() -> None:
    # Imported here: the SQLite loop has no use for them.
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


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["websocket"]:
            serve_constant()
        case ["sqlite", folder, seconds]:
            commit_rows(Path(folder), float(seconds))
        case _:
            sys.exit(__doc__)
