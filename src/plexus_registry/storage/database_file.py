"""The files of a database: checks before they are opened and while they are open, and their lock.

A process locks the lock file beside the database, so that no second registry can start. The lock
file also holds the last revision of the database, so that an older copy is noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import stat
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from plexus_registry.rules.errors import StartError
from plexus_registry.storage.migrations import CHANGES_TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RESCUE = (
    "memory still holds everything: save it with `trio-registry export -o FILE`,"
    " and then restart the registry on a sound database"
)
_PUT_BACK = (
    "put the database or a backup of it back, check --db-path, or give --start-empty to begin"
    " with an empty database"
)


class OpenFiles:
    """Notices what other programs do to an open database, its log and its lock file.

    SQLite goes on writing to files that were moved away, and does not notice when its file or its
    log is cut short. The next start would not find acknowledged changes. And without the lock
    file, another registry could be on the same database.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._paths = (database, log_path(database), lock_path(database))
        self._identities, self._sizes = self._look()

    def check(
        self, connection: sqlite3.Connection, *, revision: int, may_grow: bool = False
    ) -> None:
        """Check that no other program has changed the files, and remember how they are.

        Args:
            connection: The open connection.
            revision: The last revision that the database must hold.
            may_grow: Whether a transaction was committed since the last check.

        Raises:
            OSError, sqlite3.Error: The next start would not find what this transaction writes.
        """
        identities, sizes = self._look()
        if identities != self._identities:
            # This saves what is committed so far in the database file, if that still exists.
            connection.execute("PRAGMA wal_checkpoint(FULL)")
            raise OSError(
                "the file, its log or its lock was moved, removed or replaced; restart the registry"
            )
        if may_grow:
            is_suspicious = sizes[0][0] < self._sizes[0][0] or sizes[1][0] < self._sizes[1][0]
        else:
            is_suspicious = sizes != self._sizes
        if is_suspicious:
            self._verify(revision)
            _, sizes = self._look()
        self._sizes = sizes

    def _verify(self, revision: int) -> None:
        """Read the changed files as the next start would: changes through SQLite are sound."""
        if not _size(self._database):
            # Opening an empty database would remove its log.
            raise OSError(f"the file was emptied by another program; {_RESCUE}")
        try:
            with closing(connect_read_only(self._database)) as fresh:
                damage = first_damage(fresh)
                pages = fresh.execute("PRAGMA page_count").fetchone()[0]
                query = f"SELECT max(revision) FROM {CHANGES_TABLE}"  # noqa: S608 - a constant
                found = fresh.execute(query).fetchone()[0] or 0
        except sqlite3.Error as error:
            damage, pages, found = str(error), 0, 0
        if damage or not pages or found < revision:
            reason = damage or f"it is at revision {found}, and was at {revision}"
            raise OSError(
                f"the file or its log was cut short or overwritten by another program ({reason});"
                f" {_RESCUE}"
            )

    def _look(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return device and inode of all files, and size and time of the database and its log."""
        identities, sizes = [], []
        for path in self._paths:
            try:
                status = os.stat(path)  # noqa: PTH116 - several times a commit
            except FileNotFoundError:
                identities.append((0, 0))
                sizes.append((0, 0))
            else:
                identities.append((status.st_dev, status.st_ino))
                sizes.append((status.st_size, status.st_mtime_ns))
        return identities, sizes[:2]


def log_path(database: Path) -> Path:
    """Return the path of a database's write-ahead log."""
    return database.with_name(database.name + "-wal")


def lock_path(database: Path) -> Path:
    """Return the path of the lock file of a database."""
    return database.with_name(database.name + ".lock")


def refuse_unsafe_file(path: Path) -> None:
    """Refuse a database that is not a regular file, or that has a second name.

    The log and the lock file belong to one name. Under the other name, SQLite does not see what is
    in the log, and a second registry could start.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise StartError(f"database {path} is not a regular file: choose another --db-path")
    if status.st_nlink > 1:
        raise StartError(
            f"database {path} has {status.st_nlink} names (hard links), and what is in its log"
            " belongs to only one of them: remove the other name (find it with"
            f" `find DIRECTORY -samefile {path}`), or make a copy instead of a link"
        )


def refuse_missing(path: Path, *, known_revision: int) -> None:
    """Refuse a missing database if its log or its lock file shows that there was one."""
    if _size(path):
        return
    what = "is empty" if path.exists() else "is missing"
    if known_revision:
        raise missing(path, what, known_revision)
    if _size(log_path(path)):
        raise StartError(f"database {path} {what}, but its log still exists: {_PUT_BACK}")


def missing(path: Path, what: str, known_revision: int) -> StartError:
    """Make the error that the database is not there that the lock file knows."""
    return StartError(
        f"database {path} {what}, but its lock file says that it was at revision"
        f" {known_revision}: {_PUT_BACK}"
    )


def refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    """Read the whole database once, and refuse it if SQLite finds damage."""
    damage = first_damage(connection)
    if damage:
        raise StartError(
            f"database {path} is damaged, and was left as it is ({damage}): put a backup in its"
            f" place; or save what can be read with `sqlite3 {path} .recover | sqlite3 NEW.db`; or"
            " move it away and give --start-empty"
        )


def first_damage(connection: sqlite3.Connection) -> str:
    """Return the first damage that SQLite finds in a database, or an empty text."""
    # Unlike quick_check, this compares each table with its index. A table whose root page was
    # overwritten by an empty one has fewer rows than its index.
    found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    return "" if found == "ok" else " ".join(found.split())


def copy_database(connection: sqlite3.Connection, copy: Path) -> None:
    """Copy a database to a new file, which gets its name once the whole copy is on the disk."""
    unfinished = copy.with_name(f"{copy.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(unfinished)) as target:
        connection.backup(target)
    _sync(unfinished)
    unfinished.rename(copy)
    _sync(copy.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect to a database without changing it; a registry may be running on it."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


_CONTENT = re.compile(r"\d*(?:\n|\Z)(?:(?P<revision>\d{1,18})(?:\n|\Z)|\Z)", re.ASCII)


class LockFile:
    """A locked lock file; its lines are the process id and the last revision.

    Attributes:
        revision: The last revision of the database, as far as this process knows.
    """

    def __init__(self, descriptor: int, revision: int) -> None:
        self._descriptor = descriptor
        self.revision = revision

    def write(self, revision: int, process: str) -> None:
        """Write the last revision of the database, and which process holds the lock, if any."""
        self.revision = revision
        text = f"{process}\n{revision}\n".encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


@contextmanager
def hold_lock_file(database: Path) -> Iterator[LockFile]:
    """Lock a database against every other registry.

    The kernel releases the lock when the process ends, however it ends. The file stays: if it were
    removed, two processes could lock two different files of the same name.

    Args:
        database: The database's path, links resolved.

    Raises:
        StartError: Another process holds the lock, or the lock file cannot be used.
    """
    path = lock_path(database)
    try:
        # Opening a named pipe could wait for its other end.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise StartError(f"cannot create the lock file {path}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StartError(
                f"the lock file {path} is not a regular file:"
                " remove it, or choose another --db-path"
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            process = _read(descriptor).partition("\n")[0].strip()
            holder = process if process.isdecimal() else "unknown"
            raise StartError(
                f"database {database} is held by another registry (process {holder}):"
                " stop it, or choose another --db-path"
            ) from error
        # A power cut may leave zeros; a killed process may leave the end of a longer text.
        found = _CONTENT.match(_read(descriptor).rstrip("\0"))
        if found is None:
            raise StartError(
                f"the lock file {path} is damaged: no registry wrote what is in it; remove it, and"
                " restart whatever follows the changes of this registry, which may count its"
                " revisions anew"
            )
        lock_file = LockFile(descriptor, int(found["revision"] or 0))
        try:
            lock_file.write(lock_file.revision, str(os.getpid()))
        except OSError as error:
            raise StartError(f"cannot write the lock file {path}: {error.strerror}") from error
        yield lock_file
        with contextlib.suppress(OSError):
            lock_file.write(lock_file.revision, "")
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 64, 0).decode(errors="replace")
