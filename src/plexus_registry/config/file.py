"""The config file on the disk: whether it changed, and its declarations.

Editors replace a file or write it in place, so a look may fall between two of their steps. A change
counts only once two looks in a row find the same content, or none.

Each look is one step in a worker thread, from `stat` to the validated declarations.

Source: manual/config.md, "When the file changes".
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from plexus_registry.concurrency import RunSync, run_in_thread
from plexus_registry.config.declarations import Declared, parse_toml
from plexus_registry.rules.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Signature = tuple[int, ...] | None
"""The identity of the content by `stat`; None if there is no content."""
_NEVER: Signature = ()
"""Equal to no signature: the file was not looked at yet, or has to be read again."""

MAX_BYTES = 8 * 1024 * 1024
"""The largest file that is read. Source: manual/config.md, "When the file changes"."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file.

    Attributes:
        signature: Its signature, before and after reading.
        outcome: Its declarations, or why it is invalid.
        is_final: Whether the outcome holds until the signature changes.
    """

    signature: Signature
    outcome: Declared | ConfigError
    is_final: bool = True


class ConfigFile:
    """One config file, watched by its stat signature.

    Attributes:
        path: Its path; it need not exist.
        lock: Held from a look at the file until its declarations are applied, so that older content
            never overtakes newer content.
        error: Why the content that was last read is invalid; None if it is valid.
        invalid_since: When it was first found invalid, in Unix seconds; None if it is valid.
        is_there: Whether there was content at the last look.
        loaded_at: When valid content was last read, in Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_sync: RunSync = run_in_thread,
        now: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.path = path
        self.lock = trio.Lock()
        self.error: ConfigError | None = None
        self.invalid_since: int | None = None
        self.is_there = False
        self.loaded_at: int | None = None
        self._run_sync = run_sync
        self._now = now
        self._looked_at = self._read = _NEVER

    async def read_change(self) -> Declared | None:
        """Look at the file, and read it if two looks in a row found the same change.

        The very first look reads an existing file at once: a registry that starts has no former
        content to keep.

        Returns:
            Its declarations; None if nothing changed, or the change is not complete yet.

        Raises:
            ConfigError: The new content is invalid. Raised once for each content.
        """
        content = await self._run_sync(self._look)
        return None if content is None else self._take(content)

    async def read_now(self) -> Declared:
        """Read the file, changed or not; a file that is not there declares nothing.

        Raises:
            ConfigError: It is invalid.
        """
        return self._take(await self._run_sync(partial(read_content, self.path)))

    def forget(self) -> None:
        """Make the next look read the file again, because its declarations were not applied."""
        self._read = _NEVER

    def _look(self) -> Content | None:
        """Read the file if that is due. Runs in a worker thread, one at a time."""
        signature = _signature(self.path)
        self.is_there = signature is not None
        is_first = self._looked_at == _NEVER
        is_settled = self.is_there if is_first else signature == self._looked_at
        self._looked_at = signature
        if not is_settled or signature == self._read:
            return None
        content = read_content(self.path, tries=1)
        # If it changed while it was read, the looks begin anew.
        self._looked_at = content.signature
        return content if content.signature == signature else None

    def _take(self, content: Content) -> Declared:
        self.is_there = content.signature is not None
        self._read = content.signature if content.is_final else _NEVER
        if isinstance(content.outcome, ConfigError):
            self.error = content.outcome
            if self.invalid_since is None:
                self.invalid_since = self._now()
            raise self.error
        self.error = self.invalid_since = None
        self.loaded_at = self._now()
        return content.outcome


def read_content(path: Path, *, tries: int = 100) -> Content:
    """Read and parse a config file; this never waits, not even for a FIFO.

    A file that does not exist declares nothing. `tries` is how often to read a file that changes
    meanwhile.
    """
    for _ in range(tries):
        signature = _signature(path)
        if signature is None:
            return Content(None, Declared())
        try:
            data = _read_bytes(path)
            if _signature(path) != signature:
                continue
            return Content(signature, parse_toml(_decoded(data, path), path=str(path)))
        except FileNotFoundError:
            continue
        except OSError as error:
            # It may be readable at the next look though it does not change.
            reason = f"cannot be read: {error.strerror}"
            return Content(signature, ConfigError(str(path), None, reason), is_final=False)
        except ConfigError as error:
            return Content(signature, error)
    reason = "changes while it is read; try again once it is saved"
    return Content(_signature(path), ConfigError(str(path), None, reason), is_final=False)


def _read_bytes(path: Path) -> bytes:
    # A FIFO or a device might let the reader wait for ever, or act on being opened.
    _check_regular(path, path.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        _check_regular(path, os.fstat(descriptor))
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        reason = f"is larger than {MAX_BYTES} bytes; remove what is no backend"
        raise ConfigError(str(path), None, reason)
    return data


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        reason = "is not a regular file; name a file, or a link to one, in --config"
        raise ConfigError(str(path), None, reason)


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.removeprefix(_BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), line, "is not UTF-8 text; save it as UTF-8") from error


def _signature(path: Path) -> Signature:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return (error.errno or 0,)
    if status.st_size == 0 and stat.S_ISREG(status.st_mode):
        return None
    content = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_mode, *content)
