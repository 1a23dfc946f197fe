"""Conversion between rows and records or changes, and the statements that write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules.backend import MANUAL_LAYERS, Backend, Health, Layer, Record, Source
from plexus_registry.rules.change_log import Entry
from plexus_registry.rules.events import encode_value
from plexus_registry.rules.states import durable
from plexus_registry.storage.migrations import CHANGES_TABLE, TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN = tuple(name for name in Backend.__struct_fields__ if name not in ("name", "health"))
"""The members of a backend that are columns as they are, beside the key; `health` is JSON text."""
COLUMNS = ("name", "layer", *_PLAIN, "health")

# Per row a third of what `insert_all` takes, and it is the same every time.
DELETE = f"DELETE FROM {TABLE} WHERE name = ?"  # noqa: S608 - all parts are constants
INSERT = (
    f"INSERT INTO {TABLE} ({', '.join(COLUMNS)})"  # noqa: S608 - as above
    f" VALUES ({', '.join('?' * len(COLUMNS))})"
)
INSERT_CHANGE = (
    f"INSERT INTO {CHANGES_TABLE} (revision, name, namespaces, event)"  # noqa: S608 - as above
    " VALUES (?, ?, ?, ?)"
)
TAKE_BACK = f"DELETE FROM {CHANGES_TABLE} WHERE revision > ?"  # noqa: S608 - as above
FORGET = f"DELETE FROM {CHANGES_TABLE} WHERE revision <= ?"  # noqa: S608 - as above


def row_of(record: Record) -> tuple[object, ...]:
    """Turn a record into its row; a record of a call is in the layer `database` on the disk."""
    layer = Layer.DATABASE if record.layer in MANUAL_LAYERS else record.layer
    backend = record.backend
    if backend is None:
        return (record.name, layer, *(None for _ in _PLAIN), None)
    health = durable(backend.health)
    return (
        record.name,
        layer,
        *(getattr(backend, column) for column in _PLAIN),
        None if health is None else encode_value(health),
    )


def record_of(row: Mapping[str, object]) -> Record:
    """Turn a row into its record; columns that an older layout lacks are not known."""
    name, layer = str(row["name"]), Layer(str(row["layer"]))
    if row["id"] is None:
        return Record(name=name, layer=layer, backend=None)
    values = {"name": name, **{column: row[column] for column in _PLAIN if column in row}}
    values["source"] = Source(str(row["source"]))
    values["is_active"] = bool(row["is_active"])
    if row.get("health") is not None:
        values["health"] = msgspec.json.decode(str(row["health"]), type=Health)
    return Record(name=name, layer=layer, backend=msgspec.convert(values, Backend))


def row_of_change(entry: Entry) -> tuple[object, ...]:
    """Turn an entry into its row."""
    return (entry.revision, entry.name, encode_value(entry.namespaces), entry.event)


def change_of(row: Mapping[str, object]) -> Entry:
    """Turn a row into its entry."""
    namespaces = msgspec.json.decode(str(row["namespaces"]), type=tuple[str | None, ...])
    name = row["name"]
    return Entry(
        int(str(row["revision"])),
        None if name is None else str(name),
        namespaces,
        str(row["event"]),
    )
