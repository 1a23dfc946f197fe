"""The lock file beside a database: a process holds it, so that no second registry can start.

It also holds the last revision of the database, so that an older copy is noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plexus_registry.rules.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def lock_path(database: Path) -> Path:
    """Return the path of the lock file of a database."""
    return database.with_name(database.name + ".lock")


_CONTENT = re.compile(r"\d*(?:\n|\Z)(?:(?P<revision>\d{1,18})(?:\n|\Z)|\Z)", re.ASCII)


class LockFile:
    """A locked lock file; its lines are the process id and the last revision.

    Attributes:
        revision: The last revision that was written, by this process or an earlier one.
    """

    def __init__(self, descriptor: int) -> None:
        """Read a lock file that was just locked.

        Raises:
            ValueError: Its content was not written by a registry.
        """
        self._descriptor = descriptor
        # A power cut may leave zeros; a killed process may leave the end of a longer text.
        found = _CONTENT.match(_read(descriptor).rstrip("\0"))
        if found is None:
            raise ValueError("no registry wrote what is in it")
        self.revision = int(found["revision"] or 0)

    def note(self, revision: int) -> None:
        """Write the last revision of the database; if that fails, only its check is lost."""
        self.revision = revision
        with contextlib.suppress(OSError):
            self.write(str(os.getpid()))

    def write(self, process: str) -> None:
        """Write which process holds the lock, and the revision.

        Raises:
            OSError: It cannot be written.
        """
        text = f"{process}\n{self.revision}\n".encode()
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
        StartError: Another process holds it, and the message names that process; or the lock file
            cannot be used.
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
            holder = _holder(descriptor)
            raise StartError(
                f"database {database} is held by another registry ({holder}):"
                " stop it, or choose another --db-path"
            ) from error
        try:
            lock_file = LockFile(descriptor)
        except ValueError as error:
            raise StartError(
                f"the lock file {path} is damaged: {error}; remove it, and restart whatever follows"
                " the changes of this registry, which may count its revisions anew"
            ) from error
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
