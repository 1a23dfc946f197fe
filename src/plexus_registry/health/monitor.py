"""Keeps the health of all backends: what shows at once, what is committed, who is to be probed.

What a probe brings shows at once and stays in memory; only a change that lasts (another state, a
new version, a new schema) is committed, and told to whoever watches.

Source: manual/health.md, "What is shown".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import trio

from plexus_registry.concurrency import Wakeup
from plexus_registry.health.tracker import HealthTracker, Policy
from plexus_registry.rules import local_hub, operations
from plexus_registry.rules.backend import State
from plexus_registry.rules.errors import shown
from plexus_registry.rules.local_hub import LOCAL_HUB
from plexus_registry.rules.merge import effective
from plexus_registry.rules.probe_results import Answered
from plexus_registry.rules.states import differs

if TYPE_CHECKING:
    from collections.abc import Callable

    from plexus_registry.rules.backend import Backend
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.probe_results import Outcome
    from plexus_registry.rules.transaction import Transaction
    from plexus_registry.storage.group_commit import GroupCommit

log = logging.getLogger(__name__)


class HealthMonitor:
    """The health of the backends of one registry."""

    def __init__(
        self,
        catalog: Catalog,
        commits: GroupCommit,
        policy: Policy,
        now: Callable[[], int],
    ) -> None:
        """Start with what the catalog holds; everyone has a full term to give a sign of life.

        Args:
            catalog: What is committed.
            commits: How changes are committed.
            policy: When evidence lapses.
            now: The clock whose times are stored.
        """
        self._catalog = catalog
        self._commits = commits
        self._now = now
        self._tracker = HealthTracker(policy)
        self._unprobed: set[str] = set()
        self._wakeup = Wakeup()
        self._is_told = False
        # The other names by which the auto layer states the local hub, or did at the start.
        self._local_names = local_hub.stated_names(catalog)
        for backend in catalog.list(active_only=False):
            self.follow(backend.name, None, backend)

    @property
    def is_suspect(self) -> bool:
        """Whether so many backends fail at once that the registry suspects its own network."""
        return self._tracker.is_suspicious

    @property
    def probes(self) -> bool:
        """Whether backends are probed at all."""
        return self._tracker.policy.probes

    # What happens to names.

    def follow(self, name: str, before: Backend | None, after: Backend | None) -> None:
        """Take note of what a name means now, after a commit."""
        if self._tracker.follow(name, before, after, moment=trio.current_time()):
            self._probe_at_once(name)

    def register(self, name: str) -> None:
        """Take note that somebody registered a backend, which is to be probed at once."""
        self._tracker.register(name, moment=trio.current_time())
        if self.probes:
            self._probe_at_once(name)

    def renew(self, name: str) -> None:
        """Take note of a ping."""
        self._tracker.renew(name, moment=trio.current_time())

    def _probe_at_once(self, name: str) -> None:
        self._unprobed.add(name)
        self._wakeup.set()

    async def wait_for_unprobed(self) -> set[str]:
        """Wait until backends should be probed at once, and return their names once."""
        await self._wakeup.wait()
        unprobed, self._unprobed = self._unprobed, set()
        return unprobed

    # Evidence.

    async def mark_silent(self, *, moment: float) -> tuple[str, ...]:
        """Make the backends inactive that were silent too long, and that no probe speaks for.

        Args:
            moment: Up to when silence counts, in seconds of Trio's clock.

        Returns:
            Their names.

        Raises:
            StorageFailed: The change could not be saved; nobody was marked.
        """
        silent = tuple(self._tracker.silent(moment=moment))
        if not silent:
            return ()

        def change(transaction: Transaction) -> tuple[str, ...]:
            marked = []
            for name in silent:
                records = transaction.records(name)
                backend = effective(records)
                if backend is None:
                    continue
                after = self._tracker.after_silence(backend, now=self._now(), moment=moment)
                if after is not backend:
                    transaction.write(name, operations.with_health(records, after))
                    marked.append(name)
            return tuple(marked)

        marked, _ = await self._commits.commit(change)
        return marked

    async def note_probe(self, probed: Backend, outcome: Outcome, *, began: float) -> None:
        """Take note of what a probe found.

        Args:
            probed: The backend as it was when the probe began.
            outcome: What was found.
            began: When that was, in seconds of Trio's clock.

        Raises:
            StorageFailed: It makes a lasting difference, which could not be saved.
        """
        await self._commits.settled(probed.name)
        backend = self._catalog.get(probed.name)
        # Most often it is the very same backend; to compare addresses takes longer.
        if backend is None or (backend is not probed and backend.address != probed.address):
            return
        moment = trio.current_time()
        answer = outcome
        if self.is_built_in(backend.name):
            outcome = local_hub.as_built_in(answer)
        wanted_credential = self._tracker.refusals(backend.name) > 0
        if not self._tracker.note_probe(backend, outcome, began=began, moment=moment):
            return
        if wanted_credential and isinstance(outcome, Answered):
            # A check may have found this long before the next probe is due.
            self._probe_at_once(backend.name)
        self._log_suspicion()

        def weighed(backend: Backend) -> Backend:
            return self._tracker.after_probe(backend, outcome, now=self._now(), moment=moment)

        after = weighed(backend)
        local_names = self._local_names_after(answer, after)
        if differs(backend, after) or local_names != self._local_names:
            await self._save(backend, weighed, local_names)
        else:
            records = self._catalog.records(after.name)
            self._catalog.publish({after.name: operations.with_health(records, after)})

    def is_built_in(self, name: str) -> bool:
        """Whether a name means the built-in entry, where any hub is right."""
        return local_hub.is_built_in(name, self._catalog.records(name))

    def _local_names_after(self, outcome: Outcome, after: Backend) -> local_hub.Names:
        if after.name != LOCAL_HUB.name:
            return self._local_names
        if not self.is_built_in(after.name):
            return frozenset()
        return local_hub.other_names(self._local_names, outcome, after)

    async def _save(
        self,
        before: Backend,
        weighed: Callable[[Backend], Backend],
        local_names: local_hub.Names,
    ) -> None:
        name = before.name
        former_names = self._local_names

        def change(transaction: Transaction) -> Backend | None:
            records = transaction.records(name)
            backend = effective(records)
            # What a call said of it in the meantime counts for more than a probe of before.
            if backend is None or name in transaction.registered or not _is_same(backend, before):
                return None
            if local_names != former_names:
                local_hub.state_others(
                    transaction,
                    local_names,
                    former_names,
                    now=self._now(),
                    new_id=lambda: str(uuid4()),
                )
            weighed_anew = weighed(backend)
            if differs(backend, weighed_anew):
                transaction.write(name, operations.with_health(records, weighed_anew))
            return weighed_anew

        after, _ = await self._commits.commit(change)
        if after is not None and local_names != former_names:
            self._local_names = local_names
        if after is not None and after.state is not before.state:
            reason = after.health and after.health.reason
            log.info("backend %s is %s: %s", shown(name), after.state, reason or "it answers")

    def _log_suspicion(self) -> None:
        if self.is_suspect is self._is_told:
            return
        self._is_told = self.is_suspect
        if self._is_told:
            log.warning(
                "most backends fail at once: the registry suspects its own network,"
                " and marks nobody as down for a while"
            )
        else:
            log.info("the registry does not suspect its own network any more")

    def refusals(self, name: str) -> int:
        """Count how many times in a row a backend wanted a credential."""
        return self._tracker.refusals(name)

    def needs_second_probe(self, name: str) -> bool:
        """Whether a backend answered after a goodbye, and may be about to stop."""
        if not self._tracker.is_doubted(name):
            return False
        backend = self._catalog.get(name)
        return backend is not None and backend.state is State.UP

    def excuse(self, began: float) -> None:
        """Give those whose term ended while the disk held up their requests time to be heard.

        Args:
            began: When the commit that ends now began, in seconds of Trio's clock.
        """
        self._tracker.excuse(began, moment=trio.current_time())

    def forgive(self, pause: float) -> None:
        """Give every backend back the seconds in which this process heard nobody."""
        self._tracker.forgive(pause, moment=trio.current_time())


def _is_same(backend: Backend, before: Backend) -> bool:
    """Tell whether a backend is where it was, and how it was."""
    return (
        backend.address == before.address
        and backend.state is before.state
        and (backend.health is None) == (before.health is None)
    )
