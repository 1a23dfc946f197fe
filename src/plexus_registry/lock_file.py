"""One registry a database: a lock file beside it, held for as long as the process lives.

It also remembers how far the database had come, which tells an older copy of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plexus_registry.core.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def lock_path(database: Path) -> Path:
    """Where the lock file of a database is."""
    return database.with_name(database.name + ".lock")


class LockFile:
    """A lock file that is held; its lines are the process and the last revision.

    Attributes:
        revision: The last revision that was noted, by this process or the one before.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _, _, revision = _read(descriptor).partition("\n")
        self.revision = int(revision) if revision.strip().isdecimal() else 0

    def note(self, revision: int) -> None:
        """Note how far the database has come; where that fails, it is merely not known later."""
        self.revision = revision
        with contextlib.suppress(OSError):
            self.write(str(os.getpid()))

    def write(self, process: str) -> None:
        """Write who holds it.

        Raises:
            OSError: It cannot be written.
        """
        text = f"{process}\n{self.revision}\n".encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


@contextmanager
def hold_lock_file(database: Path) -> Iterator[LockFile]:
    """Keep every other registry away from a database.

    The kernel drops the lock with the process, however it ends; the file itself stays, since
    removing it would let two processes hold two different files of one name.

    Args:
        database: The database's path, links resolved.

    Raises:
        StartError: Another process holds it; the message names that process.
    """
    path = lock_path(database)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StartError(f"cannot create the lock file {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            raise StartError(
                f"database {database} is held by another registry ({holder}):"
                " stop it, or choose another --db-path"
            ) from error
        lock_file = LockFile(descriptor)
        try:
            lock_file.write(str(os.getpid()))
        except OSError as error:
            raise StartError(f"cannot write the lock file {path}: {error.strerror}") from error
        yield lock_file
        with contextlib.suppress(OSError):
            lock_file.write("")
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 64, 0).decode(errors="replace")


def _holder(descriptor: int) -> str:
    process = _read(descriptor).partition("\n")[0].strip()
    return f"process {process}" if process.isdecimal() else "process unknown"
