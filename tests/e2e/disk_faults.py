"""A disk that fails on demand, below the SQLite of a real registry process."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).with_suffix(".c")
NUMBERS = struct.Struct("@3i")


class Fault(IntEnum):
    """What fails; the numbers are those of the C source."""

    NONE = 0
    SYNC_EIO = 1
    WRITE_EIO = 2
    WRITE_ENOSPC = 3
    SHORT_WRITE = 4


class Faults:
    """The switch that the test and the registry process share.

    Attributes:
        env: What the registry process needs in its environment.
    """

    def __init__(self, library: Path, switch: Path) -> None:
        switch.write_bytes(NUMBERS.pack(Fault.NONE, 0, 0))
        self.env = {"LD_PRELOAD": str(library), "DISK_FAULTS": str(switch)}
        with switch.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), NUMBERS.size)

    def set(self, fault: Fault, *, after: int = 0) -> None:
        """Make every write (or sync) fail, once `after` more of them succeeded."""
        NUMBERS.pack_into(self._shared, 0, Fault.NONE, after, self.failed)
        NUMBERS.pack_into(self._shared, 0, fault, after, self.failed)

    def clear(self) -> None:
        """Let the disk work again."""
        self.set(Fault.NONE)

    @property
    def failed(self) -> int:
        """How many calls failed so far."""
        count: int = NUMBERS.unpack_from(self._shared)[2]
        return count

    def close(self) -> None:
        self._shared.close()


@contextmanager
def disk_faults(folder: Path) -> Iterator[Faults]:
    """Compile what makes the disk fail; where there is no C compiler, the test is skipped."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): disk faults below SQLite cannot be injected")
    library = folder / "disk_faults.so"
    subprocess.run((compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"), check=True)
    faults = Faults(library, folder / "disk_faults")
    try:
        yield faults
    finally:
        faults.close()
