"""Pings: they show at once, whatever the disk does, and are written to it together, a little later.

Theory of operation. A ping that changes no state is published to the catalog without a commit; the
ping writer saves such names together, at most `PING_DELAY` later. A ping that changes the state of
its backend is a commit of its own, and so is a ping for a name that is being committed. Both have
their place in the queue of commits, so that a later call counts for more. A connection waits
for such a commit only for `PATIENCE`; the commit goes on, even if the connection ends.

Source: manual/operations.md, "Promises".
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from plexus_registry.concurrency import Wakeup
from plexus_registry.rules import operations
from plexus_registry.rules.errors import MethodError, StorageFailed, shown
from plexus_registry.rules.events import Pinged, pinged
from plexus_registry.rules.operations import effective
from plexus_registry.rules.states import ping_changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from plexus_registry.rules.backend import Backend
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import Transaction
    from plexus_registry.rules.events import Cause
    from plexus_registry.rules.operations import Records
    from plexus_registry.storage.group_commit import GroupCommit

    StartSoon: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]

log = logging.getLogger(__name__)

PING_DELAY = 1.0
"""Seconds that a ping may wait for the disk. Source: manual/operations.md, "Promises"."""
PATIENCE = 0.25
"""Seconds that a connection waits for the commit of a ping before it reads its next frame."""


class Pings:
    """The pings of one registry, on their way to the disk."""

    def __init__(
        self,
        catalog: Catalog,
        commits: GroupCommit,
        note_ping: Callable[[str], None],
        now: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._commits = commits
        self._note_ping = note_ping
        self._now = now
        self._unwritten: set[str] = set()
        # The tasks whose pings were answered before they were committed.
        self._late: dict[str, trio.CancelScope] = {}
        self._wakeup = Wakeup()

    async def ping(self, name: str, by: Cause) -> Pinged:
        """Count a sign of life; if it changes the state of the backend, that is committed.

        Raises:
            StorageFailed: The state could not be changed.
        """
        backend = self._catalog.get(name)
        if backend is None:
            return pinged(name, success=False)
        if backend.is_active:
            self._note_ping(name)
        if self._needs_commit(backend):
            try:
                change = partial(self._commit, name, self._now())
                (is_known, is_revived), revision = await self._commits.commit(change, by)
            except StorageFailed:
                backend = self._catalog.get(name)
                if backend is None or ping_changes(backend):
                    raise
            else:
                return pinged(name, success=is_known, revision=revision if is_revived else None)
        self._show(name)
        return pinged(name, success=True)

    async def ping_in_time(self, name: str, by: Cause, start_soon: StartSoon) -> Pinged:
        """Count a sign of life; return within `PATIENCE` seconds, even if the disk hangs.

        A ping that is not committed by then takes effect when the disk works again. If storage
        fails instead, it is lost.

        Args:
            name: The backend.
            by: Whose call it is, for the history.
            start_soon: Starts a task that may go on after this returns.

        Raises:
            StorageFailed: The state could not be changed.
        """
        backend = self._catalog.get(name)
        if backend is None or not self._needs_commit(backend):
            return await self.ping(name, by)
        outcome: list[Pinged | Exception] = []
        is_over = trio.Event()
        # Shielded: the connection may end meanwhile, and the ping was answered.
        scope = trio.CancelScope(shield=True)

        async def ping() -> None:
            with scope:
                try:
                    outcome.append(await self.ping(name, by))
                except Exception as error:  # noqa: BLE001 - it is raised or logged below
                    outcome.append(error)
            is_over.set()
            if self._late.get(name) is scope:
                del self._late[name]
                for result in outcome:
                    # The storage logs its own failures.
                    if isinstance(result, Exception) and not isinstance(result, StorageFailed):
                        log.error("a ping of %s failed", shown(name), exc_info=result)

        start_soon(ping)
        # While the disk hangs, only the first ping waits for it.
        with trio.move_on_after(0 if self._late else PATIENCE):
            await is_over.wait()
        if not outcome:
            if (earlier := self._late.get(name)) is not None:
                earlier.cancel()  # this ping has a later place in the queue
            self._late[name] = scope
            return pinged(name, success=True)
        result = outcome.pop()
        if isinstance(result, Exception):
            raise result
        return result

    def _needs_commit(self, backend: Backend) -> bool:
        return ping_changes(backend) or not self._commits.is_settled(backend.name)

    def _show(self, name: str) -> None:
        """Publish a ping that changes no state, and leave it to be written."""
        decision = operations.ping(self._catalog.records(name), name, now=self._now())
        if isinstance(decision, MethodError):  # the name was deleted
            return
        self._catalog.publish({name: decision.records})
        if decision.backend.is_active:
            self._note_ping(name)
        self._unwritten.add(name)
        self._wakeup.set()

    def _commit(self, name: str, now: int, transaction: Transaction) -> tuple[bool, bool]:
        """Ping in a transaction; return whether the name exists, and whether its state changes."""
        records = transaction.records(name)
        backend, decision = effective(records), operations.ping(records, name, now=now)
        if backend is None or isinstance(decision, MethodError):
            return False, False
        transaction.write(name, decision.records)
        transaction.signs_of_life.add(name)
        return True, ping_changes(backend)

    # What the ping writer does.

    async def wait(self) -> None:
        """Wait until a ping has to be written."""
        while not self._unwritten:
            await self._wakeup.wait()

    async def write(self) -> None:
        """Save the pings that have to be written, if there are any.

        Raises:
            StorageFailed: They still have to be written.
        """
        if self._unwritten:
            await self._commits.commit(self._write, None)

    def _write(self, transaction: Transaction) -> None:
        for name in self._unwritten:
            transaction.save_again(name)

    def forget_written(
        self, changes: Mapping[str, Records], saved_again: Mapping[str, Records]
    ) -> None:
        """Forget the pings that a commit wrote."""
        self._unwritten -= changes.keys()
        for name, records in saved_again.items():
            if self._catalog.records(name) is records:  # no newer ping came meanwhile
                self._unwritten.discard(name)
