"""A database that the original registry wrote is taken over, and no row of it is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

import trio

from tests.e2e.database import stored_rows
from tests.e2e.harness import dial, eventually, running_registry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Row = dict[str, object]
Backends = dict[str, dict[str, object]]

LAYOUT = """
CREATE TABLE backends (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    protocol TEXT NOT NULL DEFAULT 'ws',
    description TEXT,
    namespace TEXT,
    version TEXT,
    metadata TEXT,
    source TEXT NOT NULL,
    is_active INTEGER NOT NULL DEFAULT 1,
    registered_at INTEGER NOT NULL,
    last_seen INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX idx_backends_active ON backends (is_active);
"""
"""The layout of the original. Source: manual/operations.md, "The original registry"."""

OPTIONS = ("--no-auto-register", "--poll-interval=0.05")


def row(name: str, **values: object) -> Row:
    """A row as the original writes it for a registered backend."""
    times = dict.fromkeys(("registered_at", "created_at", "updated_at"), 1_700_000_000)
    optional = dict.fromkeys(("description", "namespace", "version", "metadata", "last_seen"))
    address = {"host": "127.0.0.1", "port": 5001, "protocol": "ws"}
    state = {"source": "manual", "is_active": 1}
    return {"id": str(uuid4()), "name": name, **address, **optional, **state, **times, **values}


def write_original(folder: Path, rows: Iterable[Row]) -> None:
    with closing(sqlite3.connect(folder / "registry.db")) as connection, connection:
        connection.executescript(LAYOUT)
        insert(connection, rows)


def insert(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    for each in rows:
        places = ", ".join("?" * len(each))
        connection.execute(
            f"INSERT INTO backends ({', '.join(each)}) VALUES ({places})",  # noqa: S608 - our own
            tuple(each.values()),
        )


def write_config(folder: Path, *names: str, host: str = "from.file") -> None:
    entries = [f'[[backend]]\nname = "{name}"\nhost = "{host}"\nport = 7000\n' for name in names]
    (folder / "backends.toml").write_text("\n".join(entries))


def original_rows(path: Path) -> list[Row]:
    """The rows of a database in the original's layout, once it is found to be intact."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        assert [tuple(r) for r in connection.execute("PRAGMA integrity_check")] == [("ok",)]
        return [dict(r) for r in connection.execute("SELECT * FROM backends ORDER BY rowid")]


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("registry.db.original*"))


async def shown_by(url: str) -> Backends:
    async with dial(url) as peer:
        return {str(each["name"]): each for each in await peer.backends()}


def as_shown(original: Row) -> Row:
    """What the registry must show for a row of the original."""
    kept = {column: value for column, value in original.items() if value is not None}
    return {**kept, "is_active": bool(original["is_active"])}


ROWS = [
    row("alpha", description="Alpha hub"),
    row("seen", last_seen=1_700_000_200, registered_at=1_700_000_100, updated_at=1_700_000_300),
    row("full", namespace="ns", version="0.1", metadata='{"a": 1}', protocol="wss"),
    row("own-time", created_at=1_600_000_000),
    row("of-env", source="env"),
    row("of-auto", source="auto", host="127.0.0.1", port=4444),
    row("asleep", is_active=0),
    row(""),
    row(" "),
    row("with a space/and a slash"),
    row("../../etc/passwd"),
    row("two\nlines\tand \x1b[31mred\x00 "),
    row("'; DROP TABLE backends; --"),
    row("名前 \N{PILE OF POO}"),
    row("\u00e9"),
    row("e\u0301"),
    row("x" * 5000),
    row("no-port", port=0),
    row("high-port", port=65535),
    row("odd-protocol", protocol="http"),
    row("no-host", host=""),
    row("odd-host", host="ws://[::1]:4444/path?query"),
    row("odd-texts", description="", namespace="", version="", metadata="not json"),
    row("long-text", description="d" * 10_000),
    row("no-times", registered_at=0, created_at=0, updated_at=0),
]


async def test_every_row_is_kept_and_served(tmp_path: Path) -> None:
    write_original(tmp_path, ROWS)
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert await shown_by(server.url) == {str(r["name"]): as_shown(r) for r in ROWS}
            assert f"{len(ROWS)} backends" in server.start_up_line
            assert await server.stop() == 0
    assert copies(tmp_path) == ["registry.db.original"]
    assert original_rows(tmp_path / "registry.db.original") == ROWS


async def test_every_adopted_row_can_be_changed_and_deleted(tmp_path: Path) -> None:
    write_original(tmp_path, ROWS)
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            for name in [str(r["name"]) for r in ROWS]:
                assert (await peer.call("registry.ping", name=name))["success"] is True
                await peer.call("registry.update", name=name, port=6000)
                found = await peer.get(name)
                assert found is not None
                assert (found["name"], found["port"]) == (name, 6000)
            await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert {each["port"] for each in await peer.backends()} == {6000}
            for name in [str(r["name"]) for r in ROWS]:
                await peer.call("registry.delete", name=name)
            await server.kill()
        assert stored_rows(tmp_path) == []


FROM_FILE = [row(name, source="file") for name in ("stated", "unstated")]


async def test_the_config_file_rules_what_it_states_and_no_more(tmp_path: Path) -> None:
    write_original(tmp_path, FROM_FILE)
    write_config(tmp_path, "stated", "new")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            shown = await shown_by(server.url)
            assert shown.keys() == {"stated", "unstated", "new"}
            assert (shown["stated"]["host"], shown["stated"]["port"]) == ("from.file", 7000)
            assert shown["stated"]["id"] == FROM_FILE[0]["id"]
            assert shown["stated"]["created_at"] == FROM_FILE[0]["created_at"]
            assert shown["unstated"] == as_shown(FROM_FILE[1])

            # What was kept ranks as registered: the file may state it now, and may stop to.
            write_config(tmp_path, "unstated", "marker")
            await eventually(lambda: "added marker, unstated" in server.log)
            assert await peer.get("unstated") == shown["unstated"]
            assert set(await peer.names()) == {"unstated", "marker"}
            write_config(tmp_path, "marker-2")
            await eventually(lambda: "added marker-2" in server.log)
            assert await peer.get("unstated") == shown["unstated"]
            await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert (await shown_by(server.url))["unstated"] == shown["unstated"]


async def test_it_is_adopted_once(tmp_path: Path) -> None:
    write_original(tmp_path, [*ROWS[:3], *FROM_FILE])
    write_config(tmp_path, "stated")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            first = await shown_by(server.url)
            assert await server.stop() == 0
        copied = (tmp_path / "registry.db.original").read_bytes()
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert await shown_by(server.url) == first
            assert server.log.count("written by the original registry") == 1
    assert copies(tmp_path) == ["registry.db.original"]
    assert (tmp_path / "registry.db.original").read_bytes() == copied


async def test_a_copy_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    write_original(tmp_path, ROWS[:2])
    (tmp_path / "registry.db.original").write_text("precious")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert (await shown_by(server.url)).keys() == {"alpha", "seen"}
    first, second = copies(tmp_path)
    assert (tmp_path / first).read_text() == "precious"
    assert original_rows(tmp_path / second) == ROWS[:2]


async def test_a_row_that_the_file_states_as_it_is_goes_with_its_entry(tmp_path: Path) -> None:
    original = row("stated", source="file", host="from.file", port=7000)
    write_original(tmp_path, [original])
    write_config(tmp_path, "stated")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.get("stated") == as_shown(original)
            write_config(tmp_path, "marker")
            await eventually(lambda: "added marker" in server.log)
            assert await peer.names() == ["marker"]
            await server.kill()
        assert [each["name"] for each in stored_rows(tmp_path)] == ["marker"]
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert (await shown_by(server.url)).keys() == {"marker"}
