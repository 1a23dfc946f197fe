"""One registry a database: a lock file beside it, held for as long as the process lives."""

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


@contextmanager
def hold_lock_file(database: Path) -> Iterator[None]:
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
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise StartError(f"cannot write the lock file {path}: {error.strerror}") from error
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return f"process {text}" if text.isdecimal() else "process unknown"
