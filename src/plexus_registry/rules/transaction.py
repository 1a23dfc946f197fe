"""Changes that are about to be committed together, and the catalog as they will leave it.

Several changes are made in one transaction, one after the other, and each sees what the ones before
it did. A change reads and writes the records of names; then it is either ended, which turns it into
entries of the change log, or abandoned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules.change_log import Entry, change_between
from plexus_registry.rules.events import encode_event
from plexus_registry.rules.merge import effective

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from plexus_registry.rules.backend import Backend, Layer
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.events import Change
    from plexus_registry.rules.operations import Records


class Transaction:
    """Changes that are not committed yet.

    Attributes:
        entries: The entries for the change log, in order.
        revision: The revision after the last change that has ended.
        signs_of_life: The names that a change shows to be alive.
        registered: The names that a change registers.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.entries: list[Entry] = []
        self.revision = catalog.revision
        self.signs_of_life: set[str] = set()
        self.registered: set[str] = set()
        self._catalog = catalog
        self._written: dict[str, Records] = {}  # by the changes that have ended
        self._current: dict[str, Records] = {}  # by the change that has not
        self._reports: list[Change] = []
        self._to_save: set[str] = set()

    def records(self, name: str) -> Records:
        """Return what the layers state about a name, after the changes so far."""
        if name in self._current:
            return self._current[name]
        if name in self._written:
            return self._written[name]
        return self._catalog.records(name)

    def names(self, layer: Layer) -> AbstractSet[str]:
        """Return the names that a declared layer states, and those that were written so far."""
        return self._catalog.names(layer) | self._written.keys() | self._current.keys()

    def write(self, name: str, records: Records) -> None:
        """Replace what the layers state about a name."""
        self._current[name] = records

    def report(self, event: Change) -> None:
        """Add an event to those that follow from what was written; its revision is set later."""
        self._reports.append(event)

    def save_again(self, name: str) -> None:
        """Save a name that no change writes: memory is ahead of the disk."""
        self._to_save.add(name)

    def end_change(self) -> int:
        """End the current change, and return the revision after it."""
        for name, records in self._current.items():
            written = self._written.get(name)
            before = self._catalog.get(name) if written is None else effective(written)
            after = effective(records)
            event = change_between(before, after, self.revision + 1)
            if event is not None:
                self._add_entry(event, name, before, after)
        for report in self._reports:
            self._add_entry(msgspec.structs.replace(report, revision=self.revision + 1))
        self._written.update(self._current)
        self.abandon_change()
        return self.revision

    def abandon_change(self) -> None:
        """Drop what the current change wrote and reported."""
        self._current.clear()
        self._reports.clear()

    def changes(self) -> dict[str, Records]:
        """Return the names whose records change, each with its records afterwards."""
        return {
            name: records
            for name, records in self._written.items()
            if records != self._catalog.records(name)
        }

    def saved_again(self) -> dict[str, Records]:
        """Return the names to save again, with their records in the catalog."""
        if not self._to_save:
            return {}
        return {name: self._catalog.records(name) for name in self._to_save - self.changes().keys()}

    def _add_entry(
        self,
        event: Change,
        name: str | None = None,
        before: Backend | None = None,
        after: Backend | None = None,
    ) -> None:
        self.revision += 1
        namespaces = tuple([each.namespace for each in (before, after) if each is not None])
        self.entries.append(Entry(self.revision, name, namespaces, encode_event(event)))
