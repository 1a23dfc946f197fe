"""The registry: its verbs over the catalog, the group commit, the pings and the health monitor.

Reads are answered from the catalog of all committed changes. Changes go through the group
commit, and are durable when their verb returns. Pings are the exception: see `health/pings.py`.

Source: manual/architecture.md, "The way of a call".
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import trio

from plexus_registry.health.monitor import HealthMonitor
from plexus_registry.health.pings import Pings
from plexus_registry.health.tracker import HealthTracker, Policy
from plexus_registry.rules import events, operations
from plexus_registry.rules.backend import Layer
from plexus_registry.rules.catalog import Catalog
from plexus_registry.rules.change_log import ChangeLog, Transaction
from plexus_registry.rules.errors import ConfigError, ConfigInvalid, NotFound
from plexus_registry.rules.events import (
    BackendDeleted,
    BackendDeregistered,
    BackendRegistered,
    BackendUpdated,
    Cause,
    Checked,
    LoggedChange,
    Origin,
    Pinged,
    Reloaded,
    called,
)
from plexus_registry.rules.history import encode_history, in_words
from plexus_registry.rules.methods import History
from plexus_registry.rules.reconciliation import declare
from plexus_registry.storage.group_commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plexus_registry.concurrency import Wakeup
    from plexus_registry.config.file import ConfigFile
    from plexus_registry.health.probe import Probe
    from plexus_registry.rules.backend import Backend, Declaration, Register, Update
    from plexus_registry.rules.operations import Records
    from plexus_registry.storage.sqlite import Store

log = logging.getLogger(__name__)

WallClock = Callable[[], int]

LONG_DECLARATION = 100
"""So many names are reconciled on the loop; with more, in a worker thread."""

LOGGED_CHANGES = 1000
"""The most changes of one transaction that the process log names."""

POLICY = Policy()
"""The policy without settings: no backend is probed."""


def wall_clock_ms() -> int:
    """Read the time for the history: Unix milliseconds."""
    return time.time_ns() // 1_000_000


def wall_clock() -> int:
    """Read the time that is stored: whole Unix seconds."""
    return int(time.time())


class Registry:
    """The backends of one database, and all that can be done with them.

    Made by `open_registry`. What a method refuses is raised as a `MethodError`; `StorageFailed` is
    raised by any that writes, if its change could not be saved.

    Attributes:
        changes: How many changes were made since the start, by type and origin.
    """

    def __init__(
        self,
        store: Store,
        config: ConfigFile,
        *,
        probe: Probe,
        policy: Policy = POLICY,
        now: WallClock = wall_clock,
        now_ms: WallClock = wall_clock_ms,
    ) -> None:
        self.change_log = ChangeLog(store.entries, kept=store.kept_changes)
        self.catalog = Catalog(store.records, revision=self.change_log.revision)
        self.config = config
        self.now = now
        self.probe = probe
        tracker = HealthTracker(policy)
        self.changes: Counter[tuple[str, str]] = Counter()
        self.commits = GroupCommit(
            store, self.catalog, self._publish, tracker.deadlines.extend, now, now_ms
        )
        self.health = HealthMonitor(self.catalog, self.commits, tracker, now)
        self.pings = Pings(self.catalog, self.commits, self.health.note_ping, now)
        self._wakeups: set[Wakeup] = set()

    # Reads: from memory, at once.

    def get(self, name: str) -> Backend | None:
        """Find the effective backend of a name."""
        return self.catalog.get(name)

    def list(self, *, active_only: bool = True) -> tuple[Backend, ...]:
        """List the effective backends: newest first, then by name."""
        return self.catalog.list(active_only=active_only)

    def history(
        self,
        *,
        name: str | None = None,
        namespace: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> tuple[LoggedChange, ...]:
        """Return the last changes, newest first, at most 100 without a limit.

        Args:
            name: Only changes of this backend.
            namespace: Only changes of backends that were or are in this namespace.
            before: Only changes before this revision.
            limit: How many, at most 1,000.

        Raises:
            InvalidParamsError: An argument breaks its rule.
        """
        command = History(name=name, namespace=namespace, before=before, limit=limit)
        text = encode_history(self.change_log, command)
        return msgspec.json.decode(text, type=events.ChangeHistory).changes

    # Writes: durable when they return. `by` is for the history: whose call it is.

    async def register(self, claim: Register, *, by: Cause | None = None) -> BackendRegistered:
        """Register a backend.

        Raises:
            NameTaken: A live backend at another address holds the name.
        """
        rule = partial(operations.register, claim=claim, now=self.now(), new_id=str(uuid4()))
        change = partial(Transaction.apply, name=claim.name, rule=rule, registers=True)
        backend, revision = await self.commits.commit(change, by or called("register"))
        return BackendRegistered(backend=backend, revision=revision)

    async def update(self, change: Update, *, by: Cause | None = None) -> BackendUpdated:
        """Change the given fields of a backend.

        Raises:
            NotFound: No backend has the name.
        """
        rule = partial(operations.update, change=change, now=self.now())
        backend, revision = await self.commits.commit(
            partial(Transaction.apply, name=change.name, rule=rule), by or called("update")
        )
        return BackendUpdated(backend=backend, revision=revision)

    async def delete(self, name: str, *, by: Cause | None = None) -> BackendDeleted:
        """Make a name not exist.

        Raises:
            NotFound: No backend has the name.
        """
        rule = partial(operations.delete, name=name)
        change = partial(Transaction.apply, name=name, rule=rule)
        _, revision = await self.commits.commit(change, by or called("delete"))
        return BackendDeleted(name=name, revision=revision)

    async def deregister(self, name: str, *, by: Cause | None = None) -> BackendDeregistered:
        """Make a backend inactive until it registers or pings again.

        Raises:
            NotFound: No backend has the name.
        """
        rule = partial(operations.deregister, name=name, now=self.now())
        change = partial(Transaction.apply, name=name, rule=rule)
        _, revision = await self.commits.commit(change, by or called("deregister"))
        return BackendDeregistered(name=name, revision=revision)

    async def ping(self, name: str, *, by: Cause | None = None) -> Pinged:
        """Count a sign of life.

        It counts at once and reaches the disk within `PING_DELAY`. If it changes the state of the
        backend, it is on the disk when this returns.
        """
        return await self.pings.ping(name, by or called("ping"))

    async def check(self, name: str, *, by: Cause | None = None) -> Checked:
        """Probe a backend now, and tell step by step what came out.

        Raises:
            NotFound: No backend has the name.
        """
        backend = self.catalog.get(name)
        if backend is None:
            raise NotFound(name)
        async with self.probe.check_turns, self.probe.slots:
            began = trio.current_time()
            report = await self.probe(backend, any_name=self.health.is_built_in(name))
            if self.health.probes:
                by = by or called("check")
                await self.health.note_probe(backend, report.outcome, began=began, by=by)
        return Checked(
            name=name,
            url=backend.url,
            ok=all(step.ok for step in report.steps),
            steps=report.steps,
            backend=self.catalog.get(name),
        )

    # What the origins declare.

    async def declare(
        self,
        layer: Layer,
        declared: Mapping[str, Declaration],
        *,
        lifts_tombstones: bool = False,
        by: Cause | None = None,
    ) -> Reloaded:
        """Make a layer state just what its origin declares now.

        Args:
            layer: `env`, `file` or `auto`.
            declared: What the origin declares, by name.
            lifts_tombstones: Whether names that calls deleted exist again if they are declared.
            by: What makes the change, if not the origin itself.

        Returns:
            How many backends are declared, and the names that changed in the layer.
        """

        def change(transaction: Transaction) -> Reloaded:
            if lifts_tombstones:
                for name in declared:
                    transaction.write(name, operations.lift_tombstone(transaction.records(name)))
            return declare(
                transaction, layer, declared, now=self.now(), new_id=lambda: str(uuid4())
            )

        names = max(len(declared), len(self.catalog.names(layer)))
        by = by or Cause(origin=Origin(layer))
        reloaded, revision = await self.commits.commit(change, by, is_long=names > LONG_DECLARATION)
        return msgspec.structs.replace(reloaded, revision=revision)

    async def reload(self, *, by: Cause | None = None) -> Reloaded:
        """Read the config file now, and lift the tombstones of the names that it states.

        Raises:
            ConfigInvalid: The file is invalid; nothing changed.
        """
        async with self.config.lock:
            try:
                declared = (await self.config.read_now()).backends
            except ConfigError as error:
                raise ConfigInvalid(error) from error
            try:
                by = by or called("reload")
                return await self.declare(Layer.FILE, declared, lifts_tombstones=True, by=by)
            except BaseException:
                self.config.forget()
                raise

    # Changes as they come.

    @contextmanager
    def wake_on_change(self, wakeup: Wakeup) -> Iterator[None]:
        """Set a wakeup with each change, for as long as the block lasts."""
        self._wakeups.add(wakeup)
        try:
            yield
        finally:
            self._wakeups.discard(wakeup)

    # How it comes together.

    def _publish(
        self,
        transaction: Transaction,
        changes: Mapping[str, Records],
        saved_again: Mapping[str, Records],
    ) -> None:
        published = self.catalog.publish(changes, transaction.revision, transaction.encoded)
        self.change_log.append(transaction.entries)
        for change in transaction.logged:
            origin = "" if change.by is None else change.by.origin
            self.changes[change.type, origin] += 1
        self.health.note_changes(published, transaction.registered, transaction.signs_of_life)
        self.pings.forget_written(changes, saved_again)
        if transaction.entries:
            for wakeup in self._wakeups:
                wakeup.set()
            if log.isEnabledFor(logging.INFO):
                _log_changes(transaction.logged)


def _log_changes(changes: Sequence[LoggedChange]) -> None:
    for change in changes[:LOGGED_CHANGES]:
        log.info("%s", in_words(change))
    if len(changes) > LOGGED_CHANGES:
        log.info("and %d more changes", len(changes) - LOGGED_CHANGES)
