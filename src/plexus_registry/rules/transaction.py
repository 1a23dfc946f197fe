"""A catalog as it will be once the changes in hand are committed, and what they are.

Several changes are judged in one transaction, each against what the ones before it leave. Each is
ended, which tells what it did to the effective backends, or abandoned.
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
        entries: What the changes that have ended are, in order.
        revision: The revision after them.
        signs_of_life: The names that one of them shows to be alive.
        registered: The names that somebody registered.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.entries: list[Entry] = []
        self.revision = catalog.revision
        self.signs_of_life: set[str] = set()
        self.registered: set[str] = set()
        self._catalog = catalog
        self._changes: dict[str, Records] = {}
        self._unended: dict[str, Records] = {}
        self._reports: list[Change] = []
        self._to_save: set[str] = set()

    def records(self, name: str) -> Records:
        """What the layers state about a name, the changes so far included."""
        unended = self._unended.get(name)
        return self._ended_records(name) if unended is None else unended

    def write(self, name: str, records: Records) -> None:
        """Change what the layers state about a name."""
        self._unended[name] = records

    def report(self, event: Change) -> None:
        """Have more reported of the change in hand than what becomes of the backends."""
        self._reports.append(event)

    def save_again(self, name: str) -> None:
        """Save a name though no change is about it: the catalog is ahead of the disk."""
        self._to_save.add(name)

    def names(self, layer: Layer) -> AbstractSet[str]:
        """The names that a declared layer states, and those that the changes so far are about."""
        return self._catalog.names(layer) | self._changes.keys() | self._unended.keys()

    def end_change(self) -> int:
        """Take the change in hand to be whole, and give the revision after it."""
        for name, records in self._unended.items():
            before, after = self._ended_backend(name), effective(records)
            event = change_between(before, after, self.revision + 1)
            if event is not None:
                self._note(event, name, before, after)
        for report in self._reports:
            self._note(msgspec.structs.replace(report, revision=self.revision + 1))
        self._changes.update(self._unended)
        self.abandon_change()
        return self.revision

    def abandon_change(self) -> None:
        """Forget the change in hand."""
        self._unended.clear()
        self._reports.clear()

    def changes(self) -> dict[str, Records]:
        """The names that change, with all that is stated about each."""
        return {
            name: records
            for name, records in self._changes.items()
            if records != self._catalog.records(name)
        }

    def saved_again(self) -> dict[str, Records]:
        """The names to save that do not change, with what the catalog holds of each now."""
        unchanged = self._to_save - self.changes().keys() if self._to_save else ()
        return {name: self._catalog.records(name) for name in unchanged}

    def _note(
        self,
        event: Change,
        name: str | None = None,
        before: Backend | None = None,
        after: Backend | None = None,
    ) -> None:
        self.revision += 1
        namespaces = tuple(each.namespace for each in (before, after) if each is not None)
        self.entries.append(Entry(self.revision, name, namespaces, encode_event(event)))

    def _ended_records(self, name: str) -> Records:
        changed = self._changes.get(name)
        return self._catalog.records(name) if changed is None else changed

    def _ended_backend(self, name: str) -> Backend | None:
        changed = self._changes.get(name)
        return self._catalog.get(name) if changed is None else effective(changed)
