"""Saves changes in the SQLite file, in worker threads; records and entries as rows.

A writer holds `Store.lock` and saves everything that waits in one transaction. When `save` returns,
the changes are on the disk (write-ahead log, synchronous=FULL).

If `save` fails before COMMIT, the file is unchanged. If COMMIT itself fails, the outcome is
unknown: the commit record may be in the log. SQLite ignores it until the next transaction
overwrites it, but the next start of the process would find it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec
import trio

from plexus_registry.rules.backend import MANUAL_LAYERS, Backend, Health, Layer, Record, Source
from plexus_registry.rules.change_log import Entry
from plexus_registry.rules.errors import StorageFailed
from plexus_registry.rules.events import encode_value
from plexus_registry.rules.states import durable
from plexus_registry.storage.database_file import LockFile, OpenFiles
from plexus_registry.storage.migrations import CHANGES_TABLE, LAYOUT, TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sqlite_utils import Database

    from plexus_registry.concurrency import RunSync
    from plexus_registry.rules.operations import Records

log = logging.getLogger(__name__)


class Store:
    """The open database.

    Attributes:
        lock: A writer holds it while it makes and saves changes.
        run_sync: Runs blocking work.
        records: The records in the file when it was opened.
        entries: The change log in the file when it was opened; `kept_changes` of it are kept.
    """

    def __init__(
        self,
        db: Database,
        *,
        path: Path,
        records: tuple[Record, ...],
        entries: tuple[Entry, ...],
        kept_changes: int,
        lock_file: LockFile,
        run_sync: RunSync,
    ) -> None:
        self.lock = trio.Lock()
        self.path = path
        self.records = records
        self.entries = entries
        self.kept_changes = kept_changes
        self.run_sync = run_sync
        self._db = db
        self._lock_file = lock_file
        self._files = OpenFiles(path)

    async def save(
        self,
        changes: Mapping[str, Records],
        entries: Sequence[Entry],
        *,
        after: int | None = None,
    ) -> None:
        """Make changes durable, all or none.

        Args:
            changes: The names that changed, each with its records afterwards.
            entries: The entries to add to the change log.
            after: After a failed save: the last revision that counts. Entries above it are
                deleted, and the transaction writes at least one page, so that it overwrites what
                the failed one may have left in the log.

        Raises:
            StorageFailed: Nothing was saved, or the outcome is unknown; the message says why.
        """
        try:
            await self.run_sync(partial(self._save, changes, entries, after))
        except (sqlite3.Error, OSError) as error:  # from `run_sync` itself
            raise self._failed(error, is_unknown=True) from error

    def _failed(self, error: Exception, *, is_unknown: bool) -> StorageFailed:
        return StorageFailed(f"{self.path.name}: {error}", is_unknown=is_unknown)

    def _save(
        self, changes: Mapping[str, Records], entries: Sequence[Entry], after: int | None
    ) -> None:
        connection = self._db.conn
        is_committing = False
        try:
            self._files.check(connection, revision=self._lock_file.revision)
            # A rollback that failed left the old transaction open.
            connection.rollback()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(DELETE, map(_kept_rows, changes.items()))
            connection.executemany(REPLACE, map(row_of, chain.from_iterable(changes.values())))
            if after is not None:
                connection.execute(TAKE_BACK, [after])
                # A transaction that changes no row writes nothing; this one always writes a page.
                connection.execute(f"PRAGMA user_version = {LAYOUT}")
            if entries:
                connection.executemany(INSERT_CHANGE, map(row_of_change, entries))
                connection.execute(FORGET, [entries[-1].revision - self.kept_changes])
            is_committing = True
            connection.execute("COMMIT")
            # If the files were moved away meanwhile, the next start does not read this commit.
            self._files.check(connection, revision=self._lock_file.revision, may_grow=True)
        except BaseException as error:
            # If this fails, the next save tries again before it begins.
            with suppress(sqlite3.Error):
                connection.rollback()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise self._failed(error, is_unknown=is_committing) from error
            raise
        if entries:
            with suppress(OSError):  # only the check of the next start is lost
                self._lock_file.write(entries[-1].revision, str(os.getpid()))


_PLAIN = tuple(name for name in Backend.__struct_fields__ if name not in ("name", "health"))
"""The members of a backend that are columns as they are, beside the key; `health` is JSON text."""
_plain_values = attrgetter(*_PLAIN)
COLUMNS = ("name", "layer", *_PLAIN, "health")

_LAYER_ON_DISK = {layer: Layer.DATABASE if layer in MANUAL_LAYERS else layer for layer in Layer}
"""A record of a call is in the layer `database` on the disk."""

# Per row a third of what `insert_all` takes, and it is the same every time.
# The name of no layer is part of another one's.
DELETE = f"DELETE FROM {TABLE} WHERE name = ? AND NOT instr(?, layer)"  # noqa: S608 - constants
# To replace a row in its place takes less time than to delete and insert it.
REPLACE = (
    f"INSERT INTO {TABLE} ({', '.join(COLUMNS)})"  # noqa: S608 - as above
    f" VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (name, layer) DO UPDATE"
    f" SET {', '.join(f'{column} = excluded.{column}' for column in COLUMNS[2:])}"
)
INSERT_CHANGE = (
    f"INSERT INTO {CHANGES_TABLE}"  # noqa: S608 - as above
    " (revision, name, namespaces, event, before, at, cause) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
TAKE_BACK = f"DELETE FROM {CHANGES_TABLE} WHERE revision > ?"  # noqa: S608 - as above
FORGET = f"DELETE FROM {CHANGES_TABLE} WHERE revision <= ?"  # noqa: S608 - as above


def _kept_rows(change: tuple[str, Records]) -> tuple[str, str]:
    """Return a name, and the layers whose rows of it are not deleted."""
    name, records = change
    return (name, ",".join([_LAYER_ON_DISK[record.layer] for record in records]))


def row_of(record: Record) -> tuple[object, ...]:
    """Turn a record into its row."""
    layer, backend = _LAYER_ON_DISK[record.layer], record.backend
    if backend is None:
        return (record.name, layer, *(None for _ in _PLAIN), None)
    health = backend.health and encode_value(durable(backend.health))
    return (record.name, layer, *_plain_values(backend), health)


def record_of(row: Mapping[str, object]) -> Record:
    """Turn a row into its record; columns that an older layout lacks are not known."""
    name, layer = str(row["name"]), Layer(str(row["layer"]))
    if row["id"] is None:
        return Record(name=name, layer=layer, backend=None)
    values = {"name": name, **{column: row[column] for column in _PLAIN if column in row}}
    values["source"] = Source(str(row["source"]))
    values["is_active"] = bool(row["is_active"])
    if row.get("health") is not None:
        values["health"] = msgspec.json.decode(str(row["health"]), type=Health)
    return Record(name=name, layer=layer, backend=msgspec.convert(values, Backend))


def row_of_change(entry: Entry) -> tuple[object, ...]:
    """Turn an entry into its row."""
    namespaces = msgspec.json.encode(entry.namespaces).decode()
    revision, name, _, _, _, before, at, by = entry
    return (revision, name, namespaces, entry.event, before, at, by)


def change_of(row: Mapping[str, object]) -> Entry:
    """Turn a row into its entry."""
    namespaces = msgspec.json.decode(str(row["namespaces"]))
    # Before its backend, no event has a text that others chose.
    head, backend, after = str(row["event"]).partition('"backend":')
    values = (
        row["revision"],
        row["name"],
        namespaces,
        head + backend,
        after[:-1] if backend else None,
        row["before"],
        row["at"],
        row["cause"],
    )
    return msgspec.convert(values, Entry)
