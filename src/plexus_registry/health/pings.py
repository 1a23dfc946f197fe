"""Pings: they show at once, whatever the disk does, and are written to it together, a little later.

Theory of operation. A ping that changes no state is published to the catalog without a commit; the
ping writer saves such names together, at most `PING_DELAY` later. If a commit that changes the name
is being saved, its records would replace the ping, so the ping is repeated when that commit ends. A
ping that changes the state of its backend (a revival) needs a commit of its own. A caller that
cannot wait for it leaves it to the ping writer.

Source: manual/operations.md, "Promises".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from plexus_registry.rules import operations
from plexus_registry.rules.errors import MethodError
from plexus_registry.rules.events import Pinged, pinged
from plexus_registry.rules.merge import effective
from plexus_registry.rules.states import ping_changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from plexus_registry.rules.backend import State
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import Transaction
    from plexus_registry.rules.operations import Records
    from plexus_registry.storage.group_commit import GroupCommit

    StartSoon: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]

PING_DELAY = 1.0
"""Seconds that a ping may wait for the disk. Source: manual/operations.md, "Promises"."""
PATIENCE = 0.25
"""Seconds that a connection waits for the commit of a revival before it reads its next frame."""


class Pings:
    """The pings of one registry, on their way to the disk."""

    def __init__(
        self,
        catalog: Catalog,
        commits: GroupCommit,
        note_ping: Callable[[str], None],
        now: Callable[[], int],
    ) -> None:
        """Start with no ping.

        Args:
            catalog: Shows the pings.
            commits: Commits them.
            note_ping: Renews the deadline of a backend.
            now: The clock whose times are stored.
        """
        self._catalog = catalog
        self._commits = commits
        self._note_ping = note_ping
        self._now = now
        self._unwritten: set[str] = set()
        # When names were pinged that the commit being saved changes.
        self._during_commit: dict[str, int] = {}
        # When backends were pinged that are to be revived, and the state that they were in then.
        self._revivals: dict[str, tuple[int, State]] = {}
        self._are_waiting = trio.Event()

    async def ping(self, name: str) -> Pinged:
        """Count a sign of life; a revival is committed when this returns.

        Raises:
            StorageFailed: The backend could not be revived.
        """
        backend = self._catalog.get(name)
        if backend is None:
            return pinged(name, success=False)
        if backend.is_active:
            self._note_ping(name)
        if ping_changes(backend):
            revived, revision = await self._commits.commit(partial(self._revive, name, self._now()))
            return pinged(name, success=revived, revision=revision if revived else None)
        self._show(name, now=self._now())
        if not self._commits.is_settled(name):
            self._during_commit[name] = self._now()
        return pinged(name, success=True)

    async def ping_in_time(self, name: str, start_soon: StartSoon) -> Pinged:
        """Count a sign of life; return within `PATIENCE`, even if the disk hangs.

        A revival that is not committed by then counts all the same: the ping writer commits it.

        Args:
            name: The backend.
            start_soon: Starts a task that may go on after this returns.

        Raises:
            StorageFailed: The backend could not be revived.
        """
        backend = self._catalog.get(name)
        if backend is None or not ping_changes(backend):
            return await self.ping(name)
        if self._revivals:  # the disk is slow: this one joins the others
            self._revive_later(name, now=self._now())
            return pinged(name, success=True)
        outcome: list[Pinged | Exception] = []
        is_over = trio.Event()

        async def revive() -> None:
            try:
                outcome.append(await self.ping(name))
            except Exception as error:  # noqa: BLE001 - it is raised below, or when it is repeated
                outcome.append(error)
            is_over.set()

        start_soon(revive)
        with trio.move_on_after(PATIENCE):
            await is_over.wait()
        if not outcome:
            self._revive_later(name, now=self._now())
            return pinged(name, success=True)
        result = outcome.pop()
        if isinstance(result, Exception):
            raise result
        return result

    def _show(self, name: str, *, now: int) -> None:
        """Publish a ping that changes no state, and leave it to be written."""
        decision = operations.ping(self._catalog.records(name), name, now=now)
        if isinstance(decision, MethodError):  # the name was deleted
            return
        self._catalog.publish({name: decision.records})
        if decision.backend.is_active:
            self._note_ping(name)
        self._unwritten.add(name)
        self._are_waiting.set()

    def _revive(self, name: str, now: int, transaction: Transaction) -> bool:
        """Revive a backend in a transaction; return False if the name was deleted meanwhile."""
        decision = operations.ping(transaction.records(name), name, now=now)
        if isinstance(decision, MethodError):
            return False
        transaction.write(name, decision.records)
        transaction.signs_of_life.add(name)
        return True

    def _revive_later(self, name: str, *, now: int) -> None:
        backend = self._catalog.get(name)
        if backend is not None and ping_changes(backend):
            self._revivals[name] = (now, backend.state)
            self._are_waiting.set()

    # What the ping writer does.

    async def wait(self) -> None:
        """Wait until a ping has to be written."""
        await self._are_waiting.wait()

    async def write(self) -> None:
        """Save the pings that have to be written, if there are any.

        Raises:
            StorageFailed: They still have to be written.
        """
        if self._unwritten or self._revivals:
            await self._commits.commit(self._write)

    def _write(self, transaction: Transaction) -> None:
        for name in self._unwritten:
            transaction.save_again(name)
        for name, (now, state) in self._revivals.items():
            backend = effective(transaction.records(name))
            # A call that changed the state since then is newer than the ping.
            if backend is not None and backend.state is state:
                self._revive(name, now, transaction)

    # What commits mean for pings.

    def forget_written(
        self, changes: Mapping[str, Records], saved_again: Mapping[str, Records]
    ) -> None:
        """Forget the pings that a commit wrote or made obsolete."""
        self._unwritten -= changes.keys()
        for name, records in saved_again.items():
            if self._catalog.records(name) is records:  # no newer ping came meanwhile
                self._unwritten.discard(name)
        for name, (_, state) in [*self._revivals.items()]:
            backend = self._catalog.get(name)
            if backend is None or backend.state is not state:
                del self._revivals[name]
        # A task that waits holds an event that is not set yet.
        if self._are_waiting.is_set() and not self._unwritten and not self._revivals:
            self._are_waiting = trio.Event()

    def repeat(self) -> None:
        """Repeat the pings that came while a commit that changes their names was being saved."""
        pings, self._during_commit = self._during_commit, {}
        for name, now in pings.items():
            backend = self._catalog.get(name)
            if backend is not None and ping_changes(backend):
                self._revive_later(name, now=now)
            else:
                self._show(name, now=now)
