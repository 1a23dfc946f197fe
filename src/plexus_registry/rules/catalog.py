"""The registry in memory: the records of every layer, the effective backends, their JSON.

Reads are answered from here and nowhere else; a name's JSON and the list's are encoded once
and kept until they change.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from plexus_registry.rules.backend import MANUAL_LAYERS, RANK, Backend, Layer, Record
from plexus_registry.rules.events import (
    encode_found,
    encode_listed,
    encode_snapshot,
    encode_value,
)
from plexus_registry.rules.operations import effective

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from plexus_registry.rules.operations import Records

NOTHING: Records = ()
SORTED_CHANGES = 100
"""With more changes at once than this, the order of the list is made anew."""
_DECLARED = frozenset(Layer) - MANUAL_LAYERS
"""The layers whose names are indexed: they state few names beside those that are registered."""


class Catalog:
    """All records by name, and the effective backends in the order of `list`.

    Attributes:
        revision: How many changes led here.
    """

    def __init__(self, records: Iterable[Record] = (), *, revision: int = 0) -> None:
        self.revision = revision
        self._records: dict[str, Records] = {}
        self._declared: dict[Layer, set[str]] = {layer: set() for layer in _DECLARED}
        self._effective: dict[str, Backend] = {}
        self._encoded: dict[str, str] = {}
        self._order: list[tuple[int, str]] = []
        # What moved since the order was last read, each before and after. None for many: to sort
        # once takes less time than to insert many, one at a time.
        self._moves: list[tuple[Backend | None, Backend | None]] | None = []
        self._listed: dict[bool, str] = {}
        self._snapshot: str | None = None
        stated: dict[str, list[Record]] = {}
        for record in sorted(records, key=lambda each: RANK[each.layer]):
            stated.setdefault(record.name, []).append(record)
        self.publish({name: tuple(each) for name, each in stated.items()}, revision)

    def __len__(self) -> int:
        return len(self._effective)

    def names(self, layer: Layer) -> AbstractSet[str]:
        """The names that a layer states which some origin declares, hidden ones too."""
        return self._declared[layer]

    def records(self, name: str) -> Records:
        """What the layers state about a name, highest first."""
        return self._records.get(name, NOTHING)

    def get(self, name: str) -> Backend | None:
        """The backend that a name means."""
        return self._effective.get(name)

    def list(self, *, active_only: bool) -> tuple[Backend, ...]:
        """The effective backends: newest first, then by name."""
        return tuple(self._in_order(active_only=active_only))

    def found(self, name: str) -> str:
        """The event that answers `get`, encoded."""
        # With many backends, each look at another part of the memory takes long: only one here.
        encoded = self._encoded.get(name)
        if encoded is None and (backend := self._effective.get(name)) is not None:
            encoded = self._encode(backend)
        return encode_found(encoded)

    def listed(self, *, active_only: bool) -> str:
        """The event that answers `list`, encoded."""
        encoded = self._listed.get(active_only)
        if encoded is None:
            backends = self._in_order(active_only=active_only)
            encoded = encode_listed([self._encode(each) for each in backends], self.revision)
            self._listed[active_only] = encoded
        return encoded

    def snapshot(self) -> str:
        """The event that begins a watch of all backends, encoded."""
        if self._snapshot is None:
            self._snapshot = self.snapshot_of(self._in_order(active_only=False))
        return self._snapshot

    def snapshot_of(self, backends: Iterable[Backend]) -> str:
        """The event that begins a watch of some of the backends, encoded."""
        return encode_snapshot([self._encode(each) for each in backends], self.revision)

    def encoded(self, backend: Backend) -> str:
        """The JSON of a backend, which need not be in the catalog any more."""
        if self._effective.get(backend.name) is backend:
            return self._encode(backend)
        return encode_value(backend)

    def _encode(self, backend: Backend) -> str:
        encoded = self._encoded.get(backend.name)
        if encoded is None:
            encoded = self._encoded[backend.name] = encode_value(backend)
        return encoded

    def publish(
        self,
        changes: Mapping[str, Records],
        revision: int | None = None,
        encoded: Mapping[str, str] | None = None,
    ) -> Sequence[tuple[str, Backend | None, Backend | None]]:
        """Apply committed changes.

        Args:
            changes: The names that changed, with all that the layers state about each now.
            revision: The revision of the last change; None if none of them counts.
            encoded: The JSON of the backends that are encoded already, by name.

        Returns:
            Each name with its backend before and after.
        """
        former, self.revision = self.revision, self.revision if revision is None else revision
        published = []
        for name, records in changes.items():
            # A name is never absent in between: a worker thread may be reading.
            for record in records:
                if record.layer in _DECLARED:
                    self._declared[record.layer].add(name)
            for record in self._records.get(name, NOTHING):
                if record.layer in _DECLARED and record.layer not in {r.layer for r in records}:
                    self._declared[record.layer].discard(name)
            if records:
                self._records[name] = records
            else:
                self._records.pop(name, None)
            before, after = self._effective.get(name), effective(records)
            if after is None:
                self._effective.pop(name, None)
            else:
                self._effective[name] = after
            moves = before is None or after is None or before.created_at != after.created_at
            if moves and self._moves is not None:
                self._moves.append((before, after))
            if encoded and name in encoded:
                self._encoded[name] = encoded[name]
            else:
                self._encoded.pop(name, None)
            published.append((name, before, after))
        if self._moves and len(self._moves) > max(SORTED_CHANGES, len(self._effective) // 8):
            self._moves = None
        if changes or former != self.revision:
            self._listed.clear()
            self._snapshot = None
        return published

    def _in_order(self, *, active_only: bool) -> Iterator[Backend]:
        if self._moves is None:
            self._order = sorted(map(_place, self._effective.values()))
        else:
            for before, after in self._moves:
                if before is not None:
                    del self._order[bisect_left(self._order, _place(before))]
                if after is not None:
                    insort(self._order, _place(after))
        self._moves = []
        for _, name in self._order:
            backend = self._effective[name]
            if backend.is_active or not active_only:
                yield backend


def _place(backend: Backend) -> tuple[int, str]:
    """Where a backend stands in the list: newest first, then by name."""
    return (-backend.created_at, backend.name)
