"""Changes: a transaction makes them, the log keeps them in order, and a watch reads on in it.

Several changes are made in one transaction, one after the other, and each sees what the ones before
it did. A change reads and writes the records of names; then it is either ended, which turns it into
entries of the change log, or abandoned.

Each entry says what changed, when and through whom; `rules/history.py` reads them. It is saved with
the records that it changed, in one transaction, so the history neither misses nor invents a change.

Revisions count the changes of one database one by one. If the database turns out to be an older
copy, the count jumps to two above the last known revision, and the log begins anew there: the
changes in the log never have a gap. Only the last changes are kept. A watch holds no more than the
revision that it has seen (`WatchCursor`), so a slow one costs nothing, and is cut off once the
change that it needs next is no longer kept.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from plexus_registry.rules.errors import MethodError, WatchEnded
from plexus_registry.rules.events import (
    BackendDeleted,
    Compacted,
    LoggedChange,
    encode_value,
    kind_of_change,
)
from plexus_registry.rules.operations import effective

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from plexus_registry.rules.backend import Backend, Layer
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.events import Cause, Dated, Reloaded
    from plexus_registry.rules.methods import Watch as WatchCommand
    from plexus_registry.rules.operations import Records, Rule


class Entry(NamedTuple):
    """One change, as it is kept.

    Attributes:
        revision: Its revision.
        name: The backend's name; None where the change is not about one.
        namespaces: The backend's namespace before and after, for each time that it existed.
        head: The event as JSON text, up to the backend if it has one.
        after: The backend after the change, as JSON text.
        before: The backend before it, too. The catalog holds the same texts.
        at: When it was made, in Unix milliseconds.
        by: What made it: a `Cause` as JSON text. Older versions noted no `before`, `at` and `by`.
    """

    revision: int
    name: str | None
    namespaces: tuple[str | None, ...]
    head: str
    after: str | None = None
    before: str | None = None
    at: int | None = None
    by: str | None = None

    @property
    def event(self) -> str:
        """The event, as JSON text."""
        return self.head if self.after is None else f"{self.head}{self.after}}}"


class ChangeLog:
    """The last changes.

    Attributes:
        revision: The revision of the last one.
    """

    def __init__(self, entries: Iterable[Entry] = (), *, kept: int = 10_000) -> None:
        self._entries = deque(entries, maxlen=kept)
        self.revision = self._entries[-1].revision if self._entries else 0

    def append(self, entries: Iterable[Entry]) -> None:
        """Add committed changes."""
        self._entries.extend(entries)
        if self._entries:
            self.revision = self._entries[-1].revision

    def can_resume(self, revision: int) -> bool:
        """Whether all that happened after a revision is kept."""
        return self.revision - len(self._entries) <= revision <= self.revision

    def __reversed__(self) -> Iterator[Entry]:
        return reversed(self._entries)

    def after(self, revision: int) -> Iterator[Entry]:
        """Return the changes after a revision, for which `can_resume` must hold."""
        first = len(self._entries) - (self.revision - revision)
        return (self._entries[index] for index in range(first, len(self._entries)))


class Due(NamedTuple):
    """The next events of a watch.

    Attributes:
        events: As JSON texts.
        looks: How many changes or backends were examined for them.
    """

    events: list[str]
    looks: int


class WatchCursor:
    """How far one watcher has come.

    Attributes:
        revision: The last revision that was told or passed over.
        has_begun: Whether its first events were given.
        filters: The name and the namespace that it asks for, if any.
    """

    def __init__(self, command: WatchCommand) -> None:
        self.revision = 0
        self.has_begun = False
        self.filters = command.name, command.namespace
        self._command = command

    def is_behind(self, change_log: ChangeLog) -> bool:
        """Whether there may be more to tell."""
        return not self.has_begun or self.revision != change_log.revision

    def due(self, change_log: ChangeLog, catalog: Catalog, *, most: int) -> Due:
        """Return the next events; they count as sent.

        Args:
            change_log: The changes.
            catalog: The backends after them.
            most: How many changes to go through at most.

        Raises:
            WatchEnded: The next change is no longer kept.
        """
        if not self.has_begun:
            self.has_begun = True
            since = self._command.since
            if since is None or not change_log.can_resume(since):
                return self._begin_anew(change_log, catalog)
            self.revision = since
        if not change_log.can_resume(self.revision):
            raise WatchEnded(
                "The watch is cut off: too many changes were waiting to be read;"
                f" watch again with since={self.revision}",
                code="too_slow",
                revision=self.revision,
            )
        looked_at = [*islice(change_log.after(self.revision), most)]
        if looked_at:
            self.revision = looked_at[-1].revision
        events = [each.event for each in looked_at if self._wants(each.name, each.namespaces)]
        return Due(events, len(looked_at))

    def _begin_anew(self, change_log: ChangeLog, catalog: Catalog) -> Due:
        self.revision = change_log.revision
        name, namespace = self._command.name, self._command.namespace
        looks = len(catalog)
        if name is not None:
            backend = catalog.get(name)
            is_wanted = backend is not None and self._wants(name, (backend.namespace,))
            snapshot = catalog.snapshot_of([backend] if backend and is_wanted else [])
            looks = 1
        elif namespace is not None:
            backends = catalog.list(active_only=False)
            snapshot = catalog.snapshot_of([e for e in backends if e.namespace == namespace])
        else:
            snapshot = catalog.snapshot()
        compacted = encode_value(Compacted(revision=change_log.revision))
        return Due([snapshot] if self._command.since is None else [compacted, snapshot], looks)

    def _wants(self, name: str | None, namespaces: Iterable[str | None]) -> bool:
        """Whether a change passes the filters; one of its namespaces must match."""
        command = self._command
        return command.name in (None, name) and (
            command.namespace is None or command.namespace in namespaces
        )


class Transaction:
    """Changes that are not committed yet.

    Attributes:
        at: When they are made, in Unix milliseconds.
        entries: The entries for the change log, in order.
        logged: The same changes, for the process log.
        encoded: The JSON of backends in `changes`, as far as it is known.
        revision: The revision after the last change that has ended.
        signs_of_life: The names that a change shows to be alive.
        registered: The names that a change registers.
        changes: The names whose records differ from the catalog's, each with its records, after
            the changes that have ended.
    """

    def __init__(self, catalog: Catalog, *, at: int) -> None:
        self.at = at
        self.entries: list[Entry] = []
        self.logged: list[LoggedChange] = []
        self.encoded: dict[str, str] = {}
        self.revision = catalog.revision
        self.signs_of_life: set[str] = set()
        self.registered: set[str] = set()
        self.changes: dict[str, Records] = {}
        self._catalog = catalog
        self._written: dict[str, Records] = {}  # by the changes that have ended
        self._current: dict[str, Records] = {}  # by the change that has not
        self._reports: list[Reloaded] = []
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

    def apply(self, name: str, rule: Rule, *, registers: bool = False) -> Backend:
        """Write what a rule decides about a name, and return the backend to answer with.

        Raises:
            MethodError: The rule refuses the call.
        """
        decision = rule(self.records(name))
        if isinstance(decision, MethodError):
            raise decision
        self._current[name] = decision.records
        if decision.is_sign_of_life:
            self.signs_of_life.add(name)
        if registers:
            self.registered.add(name)
        return decision.backend

    def write(self, name: str, records: Records) -> None:
        """Replace what the layers state about a name."""
        self._current[name] = records

    def report(self, event: Reloaded) -> None:
        """Add an event beside those that follow from the records; its revision is set later."""
        self._reports.append(event)

    def save_again(self, name: str) -> None:
        """Save a name that no change writes: memory is ahead of the disk."""
        self._to_save.add(name)

    def end_change(self, by: Cause | None) -> int:
        """End the current change, and return the revision after it.

        `by` is what made the change; None if it cannot change anything.
        """
        for name, records in self._current.items():
            if records != self._catalog.records(name):
                self.changes[name] = records
            else:
                self.changes.pop(name, None)
            written = self._written.get(name)
            before = self._catalog.get(name) if written is None else effective(written)
            after = effective(records)
            kind = kind_of_change(before, after)
            if kind is not None:
                self._add_entry(kind, name, before, after, by)
            else:
                self.encoded.pop(name, None)  # it may have been seen alive
        for report in self._reports:
            event = msgspec.structs.replace(report, revision=self.revision + 1)
            self._add_entry(type(event), None, None, None, by, head=encode_value(event))
        self._written |= self._current
        self._current.clear()
        self._reports.clear()
        return self.revision

    def _add_entry(
        self,
        kind: type[Dated],
        name: str | None,
        before: Backend | None,
        after: Backend | None,
        by: Cause | None,
        *,
        head: str = "",
    ) -> None:
        revision, at = self.revision + 1, self.at
        tag = str(kind.__struct_config__.tag)
        before_text = after_text = None
        if name is not None:
            if before is not None:
                before_text = self.encoded.get(name) or self._catalog.encoded(before)
            if after is not None:
                after_text = self.encoded[name] = encode_value(after)
                head = f'{{"type":"{tag}","revision":{revision},"at":{at},"backend":'
            else:
                self.encoded.pop(name, None)
                head = encode_value(BackendDeleted(name=name, revision=revision, at=at))
        self.entries.append(
            Entry(
                revision,
                name,
                tuple([each.namespace for each in (before, after) if each]),
                head,
                after_text,
                before_text,
                at,
                None if by is None else encode_value(by),
            )
        )
        self.logged.append(
            LoggedChange(
                revision=revision, at=at, type=tag, name=name, before=before, after=after, by=by
            )
        )
        self.revision = revision

    def abandon_change(self) -> None:
        """Drop what the current change wrote and reported."""
        self._current.clear()
        self._reports.clear()

    def saved_again(self) -> dict[str, Records]:
        """Return the names to save again, with their records in the catalog."""
        if not self._to_save:
            return {}
        return {name: self._catalog.records(name) for name in self._to_save - self.changes.keys()}
