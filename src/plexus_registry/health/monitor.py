"""The health of all backends: shown at once, saved if it lasts, and used to schedule probes.

The outcome of a probe is shown at once and stays in memory. Only a lasting change (another state, a
new version, a new schema) is committed and reported to those who watch.

Source: manual/health.md, "What is shown".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import trio

from plexus_registry.concurrency import Wakeup
from plexus_registry.rules import operations
from plexus_registry.rules.backend import State
from plexus_registry.rules.events import Cause, Origin
from plexus_registry.rules.operations import effective
from plexus_registry.rules.reconciliation import (
    LOCAL_HUB,
    Names,
    as_built_in,
    is_built_in,
    other_names,
    state_others,
    stated_names,
)
from plexus_registry.rules.states import Answered, differs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plexus_registry.health.tracker import HealthTracker
    from plexus_registry.rules.backend import Backend
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import Transaction
    from plexus_registry.rules.states import Outcome
    from plexus_registry.storage.group_commit import GroupCommit

log = logging.getLogger(__name__)

PROBED = Cause(origin=Origin.PROBE)


class HealthMonitor:
    """The health of the backends of one registry.

    Attributes:
        probes: Whether backends are probed at all.
        unprobed: The names of backends that must be probed at once.
        probe_wakeup: Set when there is such a name.
    """

    def __init__(
        self,
        catalog: Catalog,
        commits: GroupCommit,
        tracker: HealthTracker,
        now: Callable[[], int],
    ) -> None:
        """Start with the backends of the catalog, each with the full time until its next ping."""
        self._catalog = catalog
        self._commits = commits
        self._now = now
        self._tracker = tracker
        self.probes = tracker.probes
        self.unprobed: set[str] = set()
        self.probe_wakeup = Wakeup()
        self._has_logged_suspicion = False
        # The other names under which the auto layer lists the local hub, or did at the start.
        self._local_names = stated_names(catalog)
        self.note_changes([(each.name, None, each) for each in catalog.list(active_only=False)])

    @property
    def suspects_network(self) -> bool:
        """Whether so many backends fail at once that the registry suspects its own network."""
        return self._tracker.suspects_network

    # Changes and pings.

    def note_changes(
        self,
        changes: Iterable[tuple[str, Backend | None, Backend | None]],
        registered: Iterable[str] = (),
        signs_of_life: Iterable[str] = (),
    ) -> None:
        """Record a commit; new, moved and registered backends are probed at once.

        Args:
            changes: The names that changed, each with its backend before and after.
            registered: The names that were registered, changed or not.
            signs_of_life: The names that showed to be alive.
        """
        moment = trio.current_time()
        for name, before, after in changes:
            if self._tracker.note_change(name, before, after, moment=moment):
                self.unprobed.add(name)
        for name in registered:
            self._tracker.note_registration(name, moment=moment)
            if self.probes:
                self.unprobed.add(name)
        for name in signs_of_life:
            self._tracker.note_ping(name, moment=moment)
        if self.unprobed:
            self.probe_wakeup.set()

    def note_ping(self, name: str) -> None:
        """Record a ping."""
        self._tracker.note_ping(name, moment=trio.current_time())

    def note_pause(self, pause: float) -> None:
        """Record that this process did not run for some seconds; they count against no backend."""
        self._tracker.note_pause(pause, moment=trio.current_time())

    # Silence and probes.

    async def mark_silent(self) -> None:
        """Make backends inactive that were silent too long.

        Raises:
            StorageFailed: The change could not be saved, and no backend was changed.
        """
        moment = trio.current_time()
        silent = tuple(self._tracker.silent_names(moment=moment))
        if not silent:
            return

        def change(transaction: Transaction) -> None:
            for name in silent:
                records = transaction.records(name)
                backend = effective(records)
                if backend is None:
                    continue
                after = self._tracker.after_silence(backend, now=self._now(), moment=moment)
                if after is not backend:
                    transaction.write(name, operations.with_health(records, after))

        await self._commits.commit(change, Cause(origin=Origin.SILENCE))

    async def note_probe(
        self, probed: Backend, outcome: Outcome, *, began: float, by: Cause = PROBED
    ) -> None:
        """Record the outcome of a probe, and save the change if it lasts.

        Args:
            probed: The backend as it was when the probe began.
            outcome: The outcome.
            began: When the probe began.
            by: What made the probe, for the history.

        Raises:
            StorageFailed: A lasting change could not be saved.
        """
        await self._commits.settled(probed.name)
        backend = self._catalog.get(probed.name)
        # Usually it is the same object, and comparing addresses takes longer.
        if backend is None or (backend is not probed and backend.address != probed.address):
            return
        moment = trio.current_time()
        answer = outcome
        if self.is_built_in(backend.name):
            outcome = as_built_in(answer)
        wanted_credential = self.refusals(backend.name) > 0
        if not self._tracker.note_probe(backend, outcome, began=began, moment=moment):
            return
        if wanted_credential and isinstance(outcome, Answered):
            # A check may have found this long before the next probe is due.
            self.unprobed.add(backend.name)
            self.probe_wakeup.set()
        self._log_suspicion()

        def after_probe(backend: Backend) -> Backend:
            return self._tracker.after_probe(backend, outcome, now=self._now(), moment=moment)

        after = after_probe(backend)
        local_names = self._local_names_after(answer, after)
        if differs(backend, after) or local_names != self._local_names:
            await self._save(backend, after_probe, local_names, by)
        else:
            records = self._catalog.records(after.name)
            self._catalog.publish({after.name: operations.with_health(records, after)})

    def is_built_in(self, name: str) -> bool:
        """Whether a name means the built-in entry, for which a hub of any name is right."""
        return is_built_in(name, self._catalog.records(name))

    def _local_names_after(self, outcome: Outcome, after: Backend) -> Names:
        if after.name != LOCAL_HUB.name:
            return self._local_names
        if not self.is_built_in(after.name):
            return frozenset()
        return other_names(self._local_names, outcome, after)

    async def _save(
        self,
        before: Backend,
        after_probe: Callable[[Backend], Backend],
        local_names: Names,
        by: Cause,
    ) -> None:
        name = before.name
        former_names = self._local_names

        def change(transaction: Transaction) -> Backend | None:
            records = transaction.records(name)
            backend = effective(records)
            # A call that changed the backend in the meantime is newer than the probe.
            if backend is None or name in transaction.registered or not _is_same(backend, before):
                return None
            if local_names != former_names:
                state_others(
                    transaction,
                    local_names,
                    former_names,
                    now=self._now(),
                    new_id=lambda: str(uuid4()),
                )
            after = after_probe(backend)
            if differs(backend, after):
                transaction.write(name, operations.with_health(records, after))
            return after

        after, _ = await self._commits.commit(change, by)
        if after is not None and local_names != former_names:
            self._local_names = local_names

    def _log_suspicion(self) -> None:
        if self.suspects_network is self._has_logged_suspicion:
            return
        self._has_logged_suspicion = self.suspects_network
        if self.suspects_network:
            log.warning(
                "most backends fail at once: the registry suspects its own network,"
                " and marks none as down for a while"
            )
        else:
            log.info("the registry does not suspect its own network any more")

    def refusals(self, name: str) -> int:
        """Return how many times in a row a backend wanted a credential."""
        return self._tracker.history(name).refusals

    def needs_second_probe(self, name: str) -> bool:
        """Whether a backend answered after a goodbye, and may be about to stop."""
        backend = self._catalog.get(name)
        is_up = backend is not None and backend.state is State.UP
        return is_up and self._tracker.history(name).is_leaving


def _is_same(backend: Backend, before: Backend) -> bool:
    """Whether a backend has the same address and state as before."""
    return (
        backend.address == before.address
        and backend.state is before.state
        and (backend.health is None) == (before.health is None)
    )
