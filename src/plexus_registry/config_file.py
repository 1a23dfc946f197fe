"""The config file as it is on the disk: when it changed, and what it declares.

Editors replace a file or write it in place, so a look may fall between two of their steps. A
file that is missing or empty counts as gone only at the second look in a row, and one that
changes while it is read is read again at the next look.

Source: design, "Config file".
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from plexus_registry.blocking import RunSync, run_in_thread
from plexus_registry.core.declarations import Declared, parse_toml
from plexus_registry.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Signature = tuple[int, ...] | None
"""What `stat` says of the content; None where there is none."""


class ConfigFile:
    """One config file, watched by its stat signature.

    Attributes:
        path: Where it is, whether or not it exists.
        lock: Held from a look at the file until what it declares is applied, so that an older
            content never overtakes a newer one.
        error: Why the content that was last read is invalid; None where it is valid.
        invalid_since: When it was first found invalid, in Unix seconds; None where it is valid.
        is_there: Whether there was content at the last look.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_sync: RunSync = run_in_thread,
        now: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.path = path
        self.invalid_since: int | None = None
        self.is_there = False
        self._now = now
        self.lock = trio.Lock()
        self.error: ConfigError | None = None
        self._run_sync = run_sync
        self._seen: Signature = None
        self._has_been_read = False
        self._was_missing = False

    async def read_change(self) -> Declared | None:
        """Look at the file, and read it where it changed since it was last read.

        Returns:
            What it declares now; None where nothing changed, or the change is not complete yet.

        Raises:
            ConfigError: The new content is invalid. Raised once for each content.
        """
        signature = await self._run_sync(self._signature)
        if signature is None:
            if not self._was_missing:
                self._was_missing = True
                return None
        else:
            self._was_missing = False
        if self._has_been_read and signature == self._seen:
            return None
        return await self._read(signature)

    async def read_now(self) -> Declared:
        """Read the file, changed or not; a file that is not there declares nothing.

        Raises:
            ConfigError: It is invalid.
        """
        declared = None
        while declared is None:
            declared = await self._read(await self._run_sync(self._signature))
        return declared

    def forget(self) -> None:
        """Have the next look read the file again: what it declared was not applied."""
        self._has_been_read = False

    async def _read(self, signature: Signature) -> Declared | None:
        text, error, reason = "", None, None
        self.is_there = signature is not None
        if signature is not None:
            try:
                text = await self._run_sync(partial(self.path.read_text, encoding="utf-8"))
            except FileNotFoundError:
                return None
            except OSError as os_error:
                reason = os_error
                error = ConfigError(str(self.path), None, f"cannot be read: {os_error.strerror}")
            except UnicodeDecodeError:
                error = ConfigError(str(self.path), None, "is not UTF-8 text")
            if await self._run_sync(self._signature) != signature:
                return None
        # A file that could not be read is looked at again though it did not change.
        self._seen, self._has_been_read = signature, not isinstance(reason, OSError)
        try:
            if error is not None:
                raise error
            declared = parse_toml(text, path=str(self.path))
        except ConfigError as invalid:
            self.error = invalid
            if self.invalid_since is None:
                self.invalid_since = self._now()
            raise
        self.error = self.invalid_since = None
        return declared

    def _signature(self) -> Signature:
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return (error.errno or 0,)
        if status.st_size == 0:
            return None
        return (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_mode,
        )
