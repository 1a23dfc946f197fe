"""The merge: which record of a name wins.

Every layer may state a name once. The record of the highest layer wins, whole: fields of two
records never mix. A tombstone wins like any record and then hides the name. The result
depends on what the layers contain, never on the order in which it came.

Source: manual/config.md, "Which source wins".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plexus_registry.rules.backend import RANK, Backend, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def holder(records: Sequence[Record]) -> Record | None:
    """Find the record that holds one name.

    Args:
        records: What the layers state about one name, each layer at most once.

    Returns:
        The record of the highest layer, a tombstone too; None if no layer states the name.
    """
    return min(records, key=lambda record: RANK[record.layer], default=None)


def effective(records: Sequence[Record]) -> Backend | None:
    """Find the backend of one name; None if no layer states it, or a tombstone holds it."""
    if len(records) == 1:  # as a rule
        return records[0].backend
    held = holder(records)
    return held.backend if held is not None else None


def merge(records: Iterable[Record]) -> dict[str, Backend]:
    """Merge everything that all layers state.

    Args:
        records: Records of any names, in any order; each name and layer at most once.

    Returns:
        The effective backend of every name that exists.
    """
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(record.name, []).append(record)
    merged = {name: effective(stated) for name, stated in by_name.items()}
    return {name: backend for name, backend in merged.items() if backend is not None}
