"""The registry itself: its verbs, and what it knows of the health of backends.

Reads are answered from the catalog, which holds what is committed; changes go through the
group commit. Pings are the exception: they count and show at once, whatever the disk does, and
reach it within `PING_DELAY`, together. A ping for a name that is just being committed is repeated
after the commit, so that neither loses the other.

Source: manual/architecture.md, "The way of a call".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import trio

from plexus_registry.health.monitor import HealthMonitor
from plexus_registry.health.tracker import Policy
from plexus_registry.rules import operations
from plexus_registry.rules.backend import Backend, Layer, State
from plexus_registry.rules.catalog import Catalog
from plexus_registry.rules.change_log import ChangeLog
from plexus_registry.rules.errors import ConfigError, ConfigInvalid, MethodError, NotFound
from plexus_registry.rules.events import (
    BackendDeleted,
    BackendDeregistered,
    BackendRegistered,
    BackendUpdated,
    Checked,
    Pinged,
    Reloaded,
    pinged,
)
from plexus_registry.rules.merge import effective
from plexus_registry.rules.operations import Decision, Records
from plexus_registry.rules.reconciliation import declare
from plexus_registry.rules.states import ping_changes
from plexus_registry.storage.group_commit import GroupCommit, StorageFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plexus_registry.concurrency import Wakeup
    from plexus_registry.config.file import ConfigFile
    from plexus_registry.health.probe import Probe
    from plexus_registry.rules.backend import Declaration, Register, Update
    from plexus_registry.rules.transaction import Transaction
    from plexus_registry.storage.sqlite import Store

Rule = Callable[[Records], Decision | MethodError]
WallClock = Callable[[], int]

PING_DELAY = 1.0
"""Seconds that a ping may wait for the disk. Source: manual/operations.md, "Promises"."""
LONG_DECLARATION = 100
"""So many names are reconciled on the loop; with more, in a worker thread."""

POLICY = Policy()
"""What holds where nothing else is said: nobody is probed."""


def wall_clock() -> int:
    """Read the time that is stored: whole Unix seconds."""
    return int(time.time())


class Registry:
    """The backends of one database, and all that can be done with them.

    Made by `open_registry`. What a method refuses is raised as a `MethodError`.
    """

    def __init__(
        self,
        store: Store,
        config: ConfigFile,
        *,
        probe: Probe,
        policy: Policy = POLICY,
        now: WallClock = wall_clock,
    ) -> None:
        self.change_log = ChangeLog(store.entries, kept=store.kept_changes)
        self.catalog = Catalog(store.records, revision=self.change_log.revision)
        self.config = config
        self.now = now
        self.probe = probe
        self._commits = GroupCommit(store, self.catalog, self._publish, self._commit_ended, now)
        self.health = HealthMonitor(self.catalog, self._commits, policy, now)
        self._unwritten_pings: set[str] = set()
        # When the names were pinged whose commit was in hand.
        self._pinged_meanwhile: dict[str, int] = {}
        # The same for those whose state such a ping changes, with that state.
        self._unmade_revivals: dict[str, tuple[int, State]] = {}
        self._pings_wait = trio.Event()
        self._wakeups: set[Wakeup] = set()

    # Reads: from memory, at once.

    def get(self, name: str) -> Backend | None:
        """Find the effective backend of a name."""
        return self.catalog.get(name)

    def list(self, *, active_only: bool = True) -> tuple[Backend, ...]:
        """List the effective backends: newest first, then by name."""
        return self.catalog.list(active_only=active_only)

    # Writes: durable when they return.

    async def register(self, claim: Register) -> BackendRegistered:
        """Register a backend.

        Raises:
            NameTaken: A live backend at another address holds the name.
            StorageFailed: The change could not be saved.
        """
        new_id = str(uuid4())
        backend, revision = await self._decide(
            claim.name,
            lambda records: operations.register(records, claim, now=self.now(), new_id=new_id),
            registers=True,
        )
        return BackendRegistered(backend=backend, revision=revision)

    async def update(self, change: Update) -> BackendUpdated:
        """Change the given fields of a backend.

        Raises:
            NotFound: No backend has the name.
            StorageFailed: The change could not be saved.
        """
        backend, revision = await self._decide(
            change.name, lambda records: operations.update(records, change, now=self.now())
        )
        return BackendUpdated(backend=backend, revision=revision)

    async def delete(self, name: str) -> BackendDeleted:
        """Make a name not exist.

        Raises:
            NotFound: No backend has the name.
            StorageFailed: The change could not be saved.
        """
        _, revision = await self._decide(name, lambda records: operations.delete(records, name))
        return BackendDeleted(name=name, revision=revision)

    async def deregister(self, name: str) -> BackendDeregistered:
        """Make a backend inactive until it registers or pings again.

        Raises:
            NotFound: No backend has the name.
            StorageFailed: The change could not be saved.
        """
        _, revision = await self._decide(
            name, lambda records: operations.deregister(records, name, now=self.now())
        )
        return BackendDeregistered(name=name, revision=revision)

    async def ping(self, name: str) -> Pinged:
        """Note a sign of life.

        It counts from now on, and waits for no other commit: where one that changes the name is in
        hand, the ping is repeated after it. It reaches the disk within `PING_DELAY`; where it
        changes the state that the backend is in now, it is there when this returns.

        Raises:
            StorageFailed: The backend could not be revived.
        """
        backend = self.catalog.get(name)
        if backend is None:
            return pinged(name, success=False)
        if backend.is_active:
            self.health.renew(name)
        if ping_changes(backend):
            return await self._revive(name)
        self._note_ping(name, now=self.now())
        if not self._commits.is_settled(name):
            self._pinged_meanwhile[name] = self.now()
        return pinged(name, success=True)

    def is_revived_by_ping(self, name: str) -> bool:
        """Whether a ping changes the state of a backend, and so waits for its commit."""
        backend = self.catalog.get(name)
        return backend is not None and ping_changes(backend)

    @property
    def revivals_wait(self) -> bool:
        """Whether pings that change the state of their backends wait for the disk."""
        return bool(self._unmade_revivals)

    def revive_later(self, name: str, *, now: int | None = None) -> None:
        """Have a ping that changes the state of a backend take effect with the next pings.

        Args:
            name: The backend.
            now: When the ping came, in Unix seconds; by default it came now.
        """
        backend = self.catalog.get(name)
        if backend is not None and ping_changes(backend):
            now = self.now() if now is None else now
            self._unmade_revivals[name] = (now, backend.state)
            self._pings_wait.set()

    def _note_ping(self, name: str, *, now: int) -> None:
        """Show a ping that changes no state, and have it written."""
        decision = operations.ping(self.catalog.records(name), name, now=now)
        if isinstance(decision, MethodError):  # the name is gone
            return
        self.catalog.publish({name: decision.records})
        if decision.backend.is_active:
            self.health.renew(name)
        self._unwritten_pings.add(name)
        self._pings_wait.set()

    async def _revive(self, name: str) -> Pinged:
        try:
            _, revision = await self._decide(
                name, lambda records: operations.ping(records, name, now=self.now())
            )
        except NotFound:  # it was deleted in the meantime
            return pinged(name, success=False)
        return pinged(name, success=True, revision=revision)

    async def check(self, name: str) -> Checked:
        """Probe a backend now, and tell step by step what came out.

        Raises:
            NotFound: No backend has the name.
            StorageFailed: What came out changes the backend's state, and could not be saved.
        """
        backend = self.catalog.get(name)
        if backend is None:
            raise NotFound(name)
        async with self.probe.check_turns, self.probe.slots:
            began = trio.current_time()
            report = await self.probe(backend, any_name=self.health.is_built_in(name))
            if self.health.probes:
                await self.health.note_probe(backend, report.outcome, began=began)
        return Checked(
            name=name,
            url=backend.url,
            ok=all(step.ok for step in report.steps),
            steps=report.steps,
            backend=self.catalog.get(name),
        )

    # What the origins declare.

    async def declare(self, layer: Layer, declared: Mapping[str, Declaration]) -> Reloaded:
        """Make a layer state just what its origin declares now.

        Args:
            layer: `env`, `file` or `auto`.
            declared: What the origin declares, by name.

        Returns:
            How many backends are declared, and the names that changed in the layer.

        Raises:
            StorageFailed: The change could not be saved.
        """
        reloaded, revision = await self._commits.commit(
            lambda transaction: self._declare(transaction, layer, declared),
            is_long=self._is_long(layer, declared),
        )
        return msgspec.structs.replace(reloaded, revision=revision)

    async def reload(self) -> Reloaded:
        """Read the config file now, and lift the tombstones of the names that it states.

        Raises:
            ConfigInvalid: The file is invalid; nothing changed.
            StorageFailed: The change could not be saved.
        """
        async with self.config.lock:
            try:
                declared = (await self.config.read_now()).backends
            except ConfigError as error:
                raise ConfigInvalid(error) from error

            def change(transaction: Transaction) -> Reloaded:
                for name in declared:
                    transaction.write(name, operations.lift_tombstone(transaction.records(name)))
                return self._declare(transaction, Layer.FILE, declared)

            try:
                reloaded, revision = await self._commits.commit(
                    change, is_long=self._is_long(Layer.FILE, declared)
                )
            except BaseException:
                self.config.forget()
                raise
            return msgspec.structs.replace(reloaded, revision=revision)

    def _declare(
        self, transaction: Transaction, layer: Layer, declared: Mapping[str, Declaration]
    ) -> Reloaded:
        return declare(transaction, layer, declared, now=self.now(), new_id=lambda: str(uuid4()))

    def _is_long(self, layer: Layer, declared: Mapping[str, Declaration]) -> bool:
        return max(len(declared), len(self.catalog.names(layer))) > LONG_DECLARATION

    # Changes as they come.

    @contextmanager
    def wake_on_change(self, wakeup: Wakeup) -> Iterator[None]:
        """Set a wakeup with each change, for as long as the block lasts."""
        self._wakeups.add(wakeup)
        try:
            yield
        finally:
            self._wakeups.discard(wakeup)

    # Pings on their way to the disk.

    async def wait_for_pings(self) -> None:
        """Wait until a ping waits for the disk."""
        await self._pings_wait.wait()

    async def write_pings(self) -> None:
        """Save the pings that wait for the disk.

        Raises:
            StorageFailed: They still wait.
        """
        if self._unwritten_pings or self._unmade_revivals:
            await self._commits.commit(self._take_pings)

    def _take_pings(self, transaction: Transaction) -> None:
        for name in self._unwritten_pings:
            transaction.save_again(name)
        for name, (now, state) in self._unmade_revivals.items():
            backend = effective(transaction.records(name))
            decision = operations.ping(transaction.records(name), name, now=now)
            # What a call said of it since then counts for more.
            is_newest = backend is not None and backend.state is state
            if is_newest and not isinstance(decision, MethodError):
                transaction.write(name, decision.records)
                transaction.signs_of_life.add(name)

    # A database that cannot be written.

    @property
    def storage_failure(self) -> StorageFailure | None:
        """Since when and why the database cannot be written; None where it can."""
        return self._commits.failure

    async def wait_for_storage_failure(self) -> None:
        """Wait until the database cannot be written."""
        await self._commits.wait_for_failure()

    async def repair_storage(self) -> None:
        """Write what memory holds back to the database, if the last save failed.

        Raises:
            StorageFailed: It still cannot be written.
        """
        await self._commits.repair()

    # How it comes together.

    async def _decide(
        self, name: str, rule: Rule, *, registers: bool = False
    ) -> tuple[Backend, int]:
        def change(transaction: Transaction) -> Backend:
            decision = rule(transaction.records(name))
            if isinstance(decision, MethodError):
                raise decision
            transaction.write(name, decision.records)
            if decision.is_sign_of_life:
                transaction.signs_of_life.add(name)
            if registers:
                transaction.registered.add(name)
            return decision.backend

        return await self._commits.commit(change)

    def _publish(
        self,
        transaction: Transaction,
        changes: Mapping[str, Records],
        saved_again: Mapping[str, Records],
    ) -> None:
        before = {name: self.catalog.get(name) for name in changes}
        self.catalog.publish(changes, transaction.revision)
        self.change_log.append(transaction.entries)
        for name in changes:
            self.health.follow(name, before[name], self.catalog.get(name))
        for name in transaction.registered:
            self.health.register(name)
        for name in transaction.signs_of_life:
            self.health.renew(name)
        self._unwritten_pings -= changes.keys()
        for name, records in saved_again.items():
            if self.catalog.records(name) is records:  # no newer ping came meanwhile
                self._unwritten_pings.discard(name)
        for name, (_, state) in [*self._unmade_revivals.items()]:
            backend = self.catalog.get(name)
            if backend is None or backend.state is not state:
                del self._unmade_revivals[name]
        if transaction.entries:
            for wakeup in self._wakeups:
                wakeup.set()
        # Whoever waits holds on to an event that is not set yet.
        is_written = not self._unwritten_pings and not self._unmade_revivals
        if is_written and self._pings_wait.is_set():
            self._pings_wait = trio.Event()

    def _commit_ended(self, began: float) -> None:
        """Repeat the pings that came during a commit, and excuse whom it may have held up."""
        self.health.excuse(began)
        pings, self._pinged_meanwhile = self._pinged_meanwhile, {}
        for name, now in pings.items():
            if self.is_revived_by_ping(name):
                self.revive_later(name, now=now)
            else:
                self._note_ping(name, now=now)
