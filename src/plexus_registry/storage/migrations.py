"""The history of the database's layout; each step runs once, in one transaction.

The original registry, in Rust, has one row for each name in a table `backends`. Its database is
taken over: every row is kept, in the layer of its source. Rows from the config file go to a layer
of their own until that file was read. Then they belong to the file or, if the file does not state
them, count as registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from sqlite_utils.migrations import Migrations

from plexus_registry.rules.backend import Layer, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlite_utils import Database

TABLE = "backends"
# Columns of Backend that came later have their own steps below: this is history.
_FIRST_COLUMNS: dict[str, type[str | int]] = {
    "name": str,
    "layer": str,
    "id": str,
    "host": str,
    "port": int,
    "protocol": str,
    "description": str,
    "namespace": str,
    "version": str,
    "metadata": str,
    "source": str,
    "is_active": int,
    "registered_at": int,
    "last_seen": int,
    "created_at": int,
    "updated_at": int,
}
"""A row without an id is a tombstone; `last_seen` and the texts may be null."""

CHANGES_TABLE = "changes"
"""The last changes. `name` may be null; `namespaces` is a JSON array; `event` is JSON text, with
the backend after the change. Rows of older versions have no `before`, `at` and `cause`."""

_ORIGINAL_COLUMNS = _FIRST_COLUMNS.keys() - {"layer"}

migrations = Migrations("plexus_registry")


def is_original_layout(db: Database) -> bool:
    """Whether the original registry wrote this database, and it was not taken over yet."""
    table = db.table(TABLE)
    return (
        table.exists()
        and table.columns_dict.keys() >= _ORIGINAL_COLUMNS
        and "layer" not in table.columns_dict
    )


def is_foreign(db: Database) -> bool:
    """Whether another program wrote this database."""
    table = db.table(TABLE)
    if table.exists():
        return not table.columns_dict.keys() >= _ORIGINAL_COLUMNS
    # A start that was cut short may have left no more than the list of steps.
    return not set(db.table_names()) <= {migrations.migrations_table}


def _one_record_a_layer(db: Database) -> None:
    rows = [_adopted(row) for row in db.table(TABLE).rows] if is_original_layout(db) else []
    db.table(TABLE).drop(ignore=True)
    table = db.table(TABLE)
    table.create(_FIRST_COLUMNS, pk=("name", "layer"), not_null={"name", "layer"})
    table.insert_all(rows)


def _the_last_changes(db: Database) -> None:
    db.table(CHANGES_TABLE).create(
        {"revision": int, "name": str, "namespaces": str, "event": str},
        pk="revision",
        not_null={"namespaces", "event"},
        if_not_exists=True,
    )


def _health(db: Database) -> None:
    _add_column(db, "health", str)


def _history(db: Database) -> None:
    for name, kind in (("before", str), ("at", int), ("cause", str)):
        _add_column(db, name, kind, to=CHANGES_TABLE)


def _add_column(db: Database, name: str, kind: type[str | int], *, to: str = TABLE) -> None:
    """Add a column, unless an interrupted start has done so."""
    table = db.table(to)
    if name not in table.columns_dict:
        table.add_column(name, kind)


def _adopted(row: Mapping[str, object]) -> dict[str, str | int | None]:
    """Fit a row of the original into the new layout; its columns may hold values of any type."""
    source = _text(row.get("source"))
    source = source if source in tuple(Source) else Source.MANUAL
    created_at = _integer(row.get("created_at"))
    return {
        "name": _text(row.get("name")) or "",
        "layer": Layer.ADOPTED if source == Source.FILE else Layer.DATABASE,
        "id": _text(row.get("id")) or str(uuid4()),
        "host": _text(row.get("host")) or "",
        "port": _integer(row.get("port")),
        "protocol": _text(row.get("protocol")) or "ws",
        "description": _text(row.get("description")),
        "namespace": _text(row.get("namespace")),
        "version": _text(row.get("version")),
        "metadata": _text(row.get("metadata")),
        "source": source,
        "is_active": int(row.get("is_active") not in (0, "0", None)),
        "registered_at": _integer(row.get("registered_at")) or created_at,
        "last_seen": _integer(row.get("last_seen")) or None,
        "created_at": created_at,
        "updated_at": _integer(row.get("updated_at")) or created_at,
    }


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if value is None else str(value)


def _integer(value: object) -> int:
    try:
        return int(value) if isinstance(value, (int, float, str)) else 0
    except (ValueError, OverflowError):
        return 0


STEPS: dict[str, Callable[[Database], None]] = {
    "001_one_record_a_layer": _one_record_a_layer,
    "002_the_last_changes": _the_last_changes,
    "003_health": _health,
    "004_history": _history,
}
"""Every step, in order; a file keeps the names of those that it has taken."""

for _name, _step in STEPS.items():
    migrations(name=_name)(_step)

LAYOUT = len(STEPS)
"""Is noted in the file, so that an older version leaves it alone."""
