"""The database of a registry, as another program sees and disturbs it."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def stored_rows(folder: Path) -> list[dict[str, object]]:
    """The rows on the disk, by name and layer, read beside whoever holds the database."""
    with closing(sqlite3.connect(f"file:{folder / 'registry.db'}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM backends ORDER BY name, layer")
        return [dict(row) for row in rows]


@contextmanager
def locked_database(folder: Path) -> Iterator[None]:
    """Keep every write to the database waiting, as a careless administrator would."""
    path = folder / "registry.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
