"""Opens the database: checks the file, takes over its contents, and closes it at the end."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio
from sqlite_utils import Database
from sqlite_utils.db import NoTable

from plexus_registry.concurrency import RunSync, run_in_thread
from plexus_registry.rules.change_log import Entry
from plexus_registry.rules.errors import StartError
from plexus_registry.rules.events import Cause, Compacted, Origin, encode_value
from plexus_registry.storage.database_file import (
    connect_read_only,
    copy_database,
    hold_lock_file,
    missing,
    refuse_damaged,
    refuse_missing,
    refuse_unsafe_file,
)
from plexus_registry.storage.migrations import (
    CHANGES_TABLE,
    LAYOUT,
    TABLE,
    is_foreign,
    is_original_layout,
    migrations,
)
from plexus_registry.storage.sqlite import INSERT_CHANGE, Store, change_of, record_of, row_of_change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from plexus_registry.rules.backend import Record

log = logging.getLogger(__name__)

BUSY_TIMEOUT = 5.0
"""Seconds that a write waits while another program reads the file."""


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    run_sync: RunSync = run_in_thread,
    kept_changes: int = 10_000,
    start_empty: bool = False,
) -> AsyncIterator[Store]:
    """Open the database, and close it at the end.

    A new file gets its tables. A database of the original registry is copied to a file beside it,
    and then taken over.

    Args:
        path: The SQLite file; missing folders are made.
        run_sync: Runs blocking work.
        kept_changes: How many entries of the change log are kept; at least 1.
        start_empty: Whether to begin with an empty database if the former one is missing.

    Raises:
        StartError: The file cannot be read or written, is not a database, is damaged, is missing
            although there was one, has a second name, is held by another registry, or was written
            by a newer version.
    """
    path = _prepared(path)
    with hold_lock_file(path) as lock_file:
        with _as_start_error(path):
            opening = partial(_open, path, lock_file.revision, start_empty=start_empty)
            db, records, entries = await run_sync(opening)
            store = Store(
                db,
                path=path,
                records=records,
                entries=entries,
                kept_changes=kept_changes,
                lock_file=lock_file,
                run_sync=run_sync,
            )
        try:
            yield store
        finally:
            with trio.CancelScope(shield=True):
                await run_sync(db.close)


def _prepared(path: Path) -> Path:
    """Make the folder of a database, and resolve links."""
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
    path: Path, known_revision: int, *, start_empty: bool
) -> tuple[Database, tuple[Record, ...], tuple[Entry, ...]]:
    """Open a database that may be used, and read its records and the entries of its log."""
    refuse_unsafe_file(path)
    if not start_empty:
        # Opening would create the file, and delete a log that has no database.
        refuse_missing(path, known_revision=known_revision)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=BUSY_TIMEOUT)
    try:
        db = Database(connection, execute_plugins=False)
        refuse_damaged(connection, path)
        was_empty = not db.table(TABLE).exists()
        _refuse(db, path, 0 if start_empty or not was_empty else known_revision)
        if is_original_layout(db):
            copy = path.with_name(f"{path.name}.original")
            if copy.exists():
                copy = path.with_name(f"{path.name}.original-{time.time_ns()}")
            copy_database(connection, copy)
            log.info("%s was written by the original registry; a copy is kept at %s", path, copy)
        db.enable_wal()
        connection.execute("PRAGMA synchronous = FULL")
        migrations.apply(db)
        connection.execute(f"PRAGMA user_version = {LAYOUT}")
        records = tuple(map(record_of, db.table(TABLE).rows))
        entries = tuple(map(change_of, db.table(CHANGES_TABLE).rows_where(order_by="revision")))
        revision = entries[-1].revision if entries else 0
        if revision < known_revision:
            log.warning(
                "database %s %s: it was at revision %d, and is at %d; every watch begins anew",
                path,
                "starts empty, as --start-empty asks" if was_empty else "is an older copy",
                known_revision,
                revision,
            )
            entries = (_begin_anew(db, known_revision),)
    except BaseException:
        connection.close()
        raise
    return db, records, entries


def _refuse(db: Database, path: Path, lost_revision: int) -> None:
    """Refuse a database that is not ours, has lost its tables, or is newer than this program."""
    if is_foreign(db):
        raise StartError(
            f"database {path} belongs to another program, and was left alone:"
            " choose another --db-path"
        )
    if lost_revision:
        raise missing(path, "has no tables", lost_revision)
    if db.conn.execute("PRAGMA user_version").fetchone()[0] > LAYOUT:
        raise StartError(
            f"database {path} was written by a newer version: upgrade, or choose another --db-path"
        )


def _begin_anew(db: Database, known_revision: int) -> Entry:
    """Begin a new change log in an older copy of the database.

    The next changes would get revisions that watchers have already seen, for other changes. So the
    revisions go on above them, and every watch begins with a new snapshot.
    """
    # Two above: no watch can resume from the revision between without a snapshot.
    revision = known_revision + 2
    first = Entry(
        revision,
        None,
        (),
        encode_value(Compacted(revision=revision)),
        at=time.time_ns() // 1_000_000,
        by=encode_value(Cause(origin=Origin.START)),
    )
    with db.atomic():
        db.execute(f"DELETE FROM {CHANGES_TABLE}")  # noqa: S608 - a constant
        db.execute(INSERT_CHANGE, row_of_change(first))
    return first


def read_records(path: Path) -> tuple[Record, ...]:
    """Read the records of a database without changing it; a registry may be running on it.

    Raises:
        StartError: There is no such database, or no registry has used it yet.
    """
    with _as_start_error(path):
        with closing(connect_read_only(path)) as connection:
            db = Database(connection, execute_plugins=False)
            if is_original_layout(db) or not db.table(TABLE).exists():
                raise StartError(f"database {path} is not in use yet: start trio-registry once")
            return tuple(record_of(row) for row in db.table(TABLE).rows)
