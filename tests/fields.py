"""The fields that can be stated of a backend, and the layers: the only lists of the tests.

They are written without the product's tables, which are compared with them.
"""

from __future__ import annotations

from typing import NamedTuple

from plexus_registry.rules.backend import Layer


class Stated(NamedTuple):
    """A field, which values it may hold, and where it may be stated beside `register`."""

    name: str
    values: str
    where: str


# In the order of the parameters by position; `replace` stands behind `source`.
STATED = (
    Stated("name", "name", "file"),
    Stated("host", "host", "file update"),
    Stated("port", "port", "file update"),
    Stated("protocol", "protocol", "file update"),
    Stated("description", "text", "file update optional"),
    Stated("namespace", "text", "file update optional"),
    Stated("version", "text", "optional"),
    Stated("metadata", "metadata", "optional"),
    Stated("source", "source", ""),
)


def fields(*words: str) -> tuple[str, ...]:
    """The names of the fields to which some words apply."""
    return tuple(row.name for row in STATED if set(words) <= set(row.where.split()))


NAMES = fields()
AT_SOURCE = NAMES.index("source") + 1
POSITIONS = (*NAMES[:AT_SOURCE], "replace", *NAMES[AT_SOURCE:])
UPDATED = ("name", *fields("update"))
IN_FILE = fields("file")
OPTIONAL = fields("optional")
CLEARED = fields("update", "optional")
"""An empty text clears these."""
UNSTATED = ("is_active", "registered_at", "last_seen", "created_at", "updated_at")
MEMBERS = ("id", *NAMES, *UNSTATED)
"""The members on the wire, in order, of a backend without health."""

# Source: manual/config.md, "Which source wins". `adopted` stands in for the file until that was
# first read.
HIGHEST_FIRST = tuple(map(Layer, ("runtime", "database", "env", "file", "adopted", "auto")))
LOWER = HIGHEST_FIRST[2:]
"""The layers that some origin declares."""
