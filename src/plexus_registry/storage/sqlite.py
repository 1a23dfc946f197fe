"""The records on disk: an SQLite file behind one lock, written in worker threads.

Whoever writes holds `Store.lock` and saves all that is waiting in one transaction. When `save`
returns, the change is on the disk (write-ahead log, synchronous=FULL).

When `save` raises before COMMIT, the file holds what it held before. When COMMIT itself fails, the
outcome is unknown: the commit record may stand in the log already, where SQLite ignores it until
the next transaction overwrites it, but where the next start of the process would find it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio
from sqlite_utils import Database
from sqlite_utils.db import NoTable

from plexus_registry.concurrency import RunSync, run_in_thread
from plexus_registry.rules.change_log import KEPT_CHANGES, Entry
from plexus_registry.rules.errors import StartError, StorageFailed
from plexus_registry.rules.events import Compacted, encode_event
from plexus_registry.storage.database_file import (
    OpenFiles,
    copy_database,
    refuse_damaged,
    refuse_missing,
    refuse_unsafe_file,
    refuse_without_tables,
)
from plexus_registry.storage.lock_file import LockFile, hold_lock_file, lock_path
from plexus_registry.storage.migrations import (
    CHANGES_TABLE,
    LAYOUT,
    TABLE,
    is_foreign,
    is_original_layout,
    migrations,
)
from plexus_registry.storage.rows import (
    DELETE,
    FORGET,
    INSERT,
    INSERT_CHANGE,
    TAKE_BACK,
    change_of,
    record_of,
    row_of,
    row_of_change,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from plexus_registry.rules.backend import Record
    from plexus_registry.rules.operations import Records

log = logging.getLogger(__name__)


BUSY_TIMEOUT = 5.0
"""Seconds that a write waits for a reader of the file who is in the way."""


class Store:
    """The open database.

    Attributes:
        lock: Held by whoever judges and saves changes.
        records: What the file held when it was opened.
        entries: The last changes, as the file held them when it was opened.
        kept_changes: How many changes the file keeps.
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
        self._db = db
        self._lock_file = lock_file
        self.run_sync = run_sync
        # Without the lock file, another registry could be on the same database.
        self._files = OpenFiles(path, [lock_path(path)])

    async def save(
        self,
        changes: Mapping[str, Records],
        entries: Sequence[Entry],
        *,
        after: int | None = None,
    ) -> None:
        """Make changes durable, all or none.

        Args:
            changes: The names that changed, with all that the layers state about each now.
            entries: What is told of the changes.
            after: After a save that failed, the revision above which the file may hold entries
                that count for nothing: they are deleted. The transaction then writes at least one
                page, to overwrite what the failed one may have left in the log.

        Raises:
            StorageFailed: Nothing was saved, or the outcome is unknown; the message says why.
        """
        try:
            await self.run_sync(partial(self._save, changes, entries, after))
        except (sqlite3.Error, OSError) as error:  # from `run_sync` itself
            raise self._failed(error, is_unknown=True) from error

    def _failed(self, error: Exception, *, is_unknown: bool = False) -> StorageFailed:
        return StorageFailed(f"{self.path.name}: {error}", is_unknown=is_unknown)

    def _save(
        self, changes: Mapping[str, Records], entries: Sequence[Entry], after: int | None
    ) -> None:
        connection = self._db.conn
        try:
            self._check_files()
            # A rollback that failed left the old transaction open.
            connection.rollback()
            connection.execute("BEGIN IMMEDIATE")
            self._write(connection, changes, entries, after)
        except (sqlite3.Error, OSError) as error:
            _roll_back(connection)
            raise self._failed(error) from error
        except BaseException:
            _roll_back(connection)
            raise
        try:
            connection.execute("COMMIT")
            # What went to files that are gone is not what the next start reads.
            self._files.accept(connection, revision=self._lock_file.revision)
        except (sqlite3.Error, OSError) as error:
            _roll_back(connection)
            raise self._failed(error, is_unknown=True) from error
        if entries:
            self._lock_file.note(entries[-1].revision)

    def _write(
        self,
        connection: sqlite3.Connection,
        changes: Mapping[str, Records],
        entries: Sequence[Entry],
        after: int | None,
    ) -> None:
        """Write into the open transaction."""
        connection.executemany(DELETE, [(name,) for name in changes])
        rows = [row_of(record) for records in changes.values() for record in records]
        connection.executemany(INSERT, rows)
        if after is not None:
            connection.execute(TAKE_BACK, [after])
            # A transaction that changes no row writes nothing; this one always writes a page.
            connection.execute(f"PRAGMA user_version = {LAYOUT}")
        if entries:
            connection.executemany(INSERT_CHANGE, map(row_of_change, entries))
            connection.execute(FORGET, [entries[-1].revision - self.kept_changes])

    def _check_files(self) -> None:
        """Raise what `OpenFiles.check` raises."""
        self._files.check(self._db.conn, revision=self._lock_file.revision)


def _roll_back(connection: sqlite3.Connection) -> None:
    """Abandon the transaction. If that fails, the next save tries again before it begins."""
    with suppress(sqlite3.Error):
        connection.rollback()


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    run_sync: RunSync = run_in_thread,
    kept_changes: int = KEPT_CHANGES,
    start_empty: bool = False,
) -> AsyncIterator[Store]:
    """Open the database, and close it at the end.

    A new file gets its tables; one of the original registry is copied beside itself first and
    then taken over.

    Args:
        path: The SQLite file; missing folders are made.
        run_sync: How blocking work is run.
        kept_changes: How many changes are kept, from 1 up.
        start_empty: Whether to begin with an empty database where the former one is missing.

    Raises:
        StartError: The file cannot be read or written, is no database, is damaged, is missing
            though there was one, has a second name, is held by another registry, or was written
            by a newer version.
    """
    path = _prepared(path)
    with hold_lock_file(path) as lock_file:
        with _as_start_error(path):
            opening = partial(
                _open,
                path,
                run_sync=run_sync,
                kept_changes=kept_changes,
                lock_file=lock_file,
                start_empty=start_empty,
            )
            store = await run_sync(opening)
        try:
            yield store
        finally:
            with trio.CancelScope(shield=True):
                await run_sync(store._db.close)  # noqa: SLF001 - its opener closes it


def _prepared(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError until 3.13
        raise StartError(f"cannot create the folder of database {path}: {error}") from error


@contextmanager
def _as_start_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, NoTable, msgspec.MsgspecError) as error:
        raise StartError(
            f"cannot open database {path}: {error}; check the file, or choose another --db-path"
        ) from error


def _open(
    path: Path, *, run_sync: RunSync, kept_changes: int, lock_file: LockFile, start_empty: bool
) -> Store:
    refuse_unsafe_file(path)
    if not start_empty:
        # Opening would create the file, and delete a log without a database.
        refuse_missing(path, known_revision=lock_file.revision)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=BUSY_TIMEOUT)
    try:
        db = Database(connection, execute_plugins=False)
        refuse_damaged(connection, path)
        _refuse_foreign(db, path)
        was_empty = not db.table(TABLE).exists()
        if was_empty and not start_empty:
            refuse_without_tables(path, known_revision=lock_file.revision)
        if is_original_layout(db):
            copy = _copy_aside(connection, path)
            log.info("%s was written by the original registry; a copy is kept at %s", path, copy)
        _refuse_newer_layout(connection, path)
        db.enable_wal()
        connection.execute("PRAGMA synchronous = FULL")
        migrations.apply(db)
        connection.execute(f"PRAGMA user_version = {LAYOUT}")
        records = tuple(record_of(row) for row in db.table(TABLE).rows)
        entries = _changes(db, lock_file.revision, path, was_empty=was_empty)
    except BaseException:
        connection.close()
        raise
    return Store(
        db,
        path=path,
        records=records,
        entries=entries,
        kept_changes=kept_changes,
        lock_file=lock_file,
        run_sync=run_sync,
    )


def _changes(
    db: Database, known_revision: int, path: Path, *, was_empty: bool
) -> tuple[Entry, ...]:
    """Read the last changes; those of an older copy of the database lead nowhere any more.

    Its next changes would get revisions that followers have seen already, of other changes: the
    count goes on above them, and so everyone begins anew.
    """
    table = db.table(CHANGES_TABLE)
    entries = tuple(change_of(row) for row in table.rows_where(order_by="revision"))
    revision = entries[-1].revision if entries else 0
    if revision >= known_revision:
        return entries
    if was_empty:
        log.warning(
            "database %s starts empty, as --start-empty asks; it was at revision %d, and whoever"
            " follows changes begins anew",
            path,
            known_revision,
        )
    else:
        log.warning(
            "database %s is an older copy: it was at revision %d, and is at %d;"
            " whoever follows changes begins anew",
            path,
            known_revision,
            revision,
        )
    # Two above: nobody can name the revision between, and resume without a snapshot.
    first = Entry(
        known_revision + 2, None, (), encode_event(Compacted(revision=known_revision + 2))
    )
    with db.atomic():
        db.execute(f"DELETE FROM {CHANGES_TABLE}")  # noqa: S608 - a constant
        db.execute(INSERT_CHANGE, row_of_change(first))
    return (first,)


def _refuse_foreign(db: Database, path: Path) -> None:
    if is_foreign(db):
        raise StartError(
            f"database {path} belongs to another program, and was left alone:"
            " choose another --db-path"
        )


def _refuse_newer_layout(connection: sqlite3.Connection, path: Path) -> None:
    layout: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if layout > LAYOUT:
        raise StartError(
            f"database {path} was written by a newer version: upgrade, or choose another --db-path"
        )


def read_records(path: Path) -> tuple[Record, ...]:
    """Read a database's records without holding or changing it, beside a running registry.

    Raises:
        StartError: There is no such database, or it is not one of ours.
    """
    with _as_start_error(path):
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            db = Database(connection, execute_plugins=False)
            if is_original_layout(db) or not db.table(TABLE).exists():
                raise StartError(f"database {path} is not in use yet: start trio-registry once")
            return tuple(record_of(row) for row in db.table(TABLE).rows)
        finally:
            connection.close()


def _copy_aside(connection: sqlite3.Connection, path: Path) -> Path:
    copy = path.with_name(f"{path.name}.original")
    if copy.exists():
        copy = path.with_name(f"{path.name}.original-{time.time_ns()}")
    copy_database(connection, copy)
    return copy
