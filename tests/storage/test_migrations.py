"""The history of the layout, and databases that stand somewhere in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlite_utils import Database

from plexus_registry.rules import events
from plexus_registry.rules.backend import Layer, Record
from plexus_registry.rules.change_log import ChangeLog
from plexus_registry.rules.events import encode_value
from plexus_registry.rules.history import encode_history
from plexus_registry.rules.methods import History
from plexus_registry.storage.migrations import LAYOUT, STEPS, TABLE, is_foreign, migrations
from plexus_registry.storage.opening import open_store, read_records
from plexus_registry.storage.sqlite import COLUMNS, REPLACE, row_of
from tests.rpc.message_shapes import FULL

if TYPE_CHECKING:
    from pathlib import Path

ORIGINAL = """
CREATE TABLE backends (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, host TEXT NOT NULL, port INTEGER NOT NULL,
    protocol TEXT NOT NULL, description TEXT, namespace TEXT, version TEXT, metadata TEXT,
    source TEXT NOT NULL, is_active INTEGER NOT NULL, registered_at INTEGER NOT NULL,
    last_seen INTEGER, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
)
"""
RECORD = Record(name="a", layer=Layer.DATABASE, backend=FULL)
ROW = dict(zip(COLUMNS, row_of(RECORD), strict=True))


def write_layout(path: Path, layout: int) -> Record:
    """Write a database of an older version with one row, and return its record."""
    later = [*STEPS][layout:]
    with closing(sqlite3.connect(path)) as connection:
        db = Database(connection, execute_plugins=False)
        migrations.apply(db, stop_before=later[:1])
        connection.execute(f"PRAGMA user_version = {layout}")
        known = db.table(TABLE).columns_dict
        db.table(TABLE).insert({column: ROW[column] for column in COLUMNS if column in known})
        connection.commit()
    return RECORD


@pytest.mark.parametrize("layout", range(1, LAYOUT + 1))
def test_a_database_of_an_older_layout_can_be_read(tmp_path: Path, layout: int) -> None:
    record = write_layout(tmp_path / "registry.db", layout)
    (read,) = read_records(tmp_path / "registry.db")
    assert (read.name, read.layer) == (record.name, record.layer)
    assert read.backend is not None
    assert read.backend.address == FULL.address


@pytest.mark.parametrize("layout", range(1, LAYOUT + 1))
async def test_a_database_of_an_older_layout_is_brought_up_to_date(
    tmp_path: Path, layout: int
) -> None:
    write_layout(tmp_path / "registry.db", layout)
    async with open_store(tmp_path / "registry.db") as store:
        assert [record.name for record in store.records] == ["a"]
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (LAYOUT,)
        db = Database(connection, execute_plugins=False)
        assert db.table(TABLE).columns_dict.keys() == set(COLUMNS)


async def test_the_changes_of_an_older_version_have_nulls(tmp_path: Path) -> None:
    write_layout(tmp_path / "registry.db", 3)
    backend = encode_value(FULL)
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        for row in (
            (1, "a", '["n"]', f'{{"type":"backend_updated","revision":1,"backend":{backend}}}'),
            (2, "b", "[]", '{"type":"backend_deleted","revision":2,"name":"b"}'),
        ):
            connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", row)
        connection.commit()
    async with open_store(tmp_path / "registry.db") as store:
        assert [each.event for each in store.entries] == [
            f'{{"type":"backend_updated","revision":1,"backend":{backend}}}',
            '{"type":"backend_deleted","revision":2,"name":"b"}',
        ]
        log = ChangeLog(store.entries)
    answer = msgspec.json.decode(encode_history(log, History()), type=events.ChangeHistory)
    assert [(each.type, each.name, each.after) for each in answer.changes] == [
        ("backend_deleted", "b", None),
        ("backend_updated", "a", FULL),
    ]
    assert {(each.at, each.before, each.by) for each in answer.changes} == {(None, None, None)}


def test_an_original_database_is_taken_over_and_is_not_foreign() -> None:
    db = Database(memory=True, execute_plugins=False)
    db.conn.executescript(ORIGINAL)
    assert not is_foreign(db)
    migrations.apply(db)
    assert db.table(TABLE).columns_dict.keys() == set(COLUMNS)
    db.conn.execute(REPLACE, row_of(RECORD))
