"""The registry itself: its verbs, and what it knows of the health of backends.

Reads are answered from the catalog, which holds what is committed; changes go through the
group commit. Pings are the exception: they show at once and reach the disk within `PING_DELAY`,
together. A ping for a name that is just being committed waits, so that neither loses the other.

Source: design, "Behaviour of the methods" and "Data flow".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import trio

from plexus_registry.core import claims
from plexus_registry.core.catalog import Catalog, Draft
from plexus_registry.core.claims import Decision, Records
from plexus_registry.core.declarations import Declaration, declared_record, reconcile
from plexus_registry.core.errors import ConfigError, ConfigInvalid, MethodError
from plexus_registry.core.events import Reloaded
from plexus_registry.core.health import Deadlines
from plexus_registry.core.model import Backend, Layer, Source
from plexus_registry.group_commit import GroupCommit

if TYPE_CHECKING:
    from plexus_registry.config_file import ConfigFile
    from plexus_registry.core.commands import Register, Update
    from plexus_registry.store import Store

Rule = Callable[[Records], Decision | MethodError]
WallClock = Callable[[], int]

PING_DELAY = 1.0
"""Seconds that a ping may wait for the disk. Source: design, `ping`."""

SOURCES = {Layer.ENV: Source.ENV, Layer.FILE: Source.FILE, Layer.AUTO: Source.AUTO}
"""What the backends of the declared layers say of themselves."""


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
        stale_after: float = 60.0,
        now: WallClock = wall_clock,
    ) -> None:
        self.catalog = Catalog(store.records)
        self.config = config
        self.now = now
        self._commits = GroupCommit(store, self.catalog, self._publish)
        self._deadlines = Deadlines(stale_after=stale_after)
        self._unwritten_pings: set[str] = set()
        self._pings_wait = trio.Event()
        moment = trio.current_time()
        for backend in self.catalog.list(active_only=True):
            self._deadlines.follow(backend.name, None, backend, moment=moment)

    # Reads: from memory, at once.

    def get(self, name: str) -> Backend | None:
        """Find the effective backend of a name."""
        return self.catalog.get(name)

    def list(self, *, active_only: bool = True) -> tuple[Backend, ...]:
        """List the effective backends: newest first, then by name."""
        return self.catalog.list(active_only=active_only)

    # Writes: durable when they return.

    async def register(self, claim: Register) -> Backend:
        """Register a backend.

        Raises:
            NameTaken: A live backend at another address holds the name.
            StorageFailed: The change could not be saved.
        """
        new_id = str(uuid4())
        return await self._decide(
            claim.name,
            lambda records: claims.register(records, claim, now=self.now(), new_id=new_id),
        )

    async def update(self, change: Update) -> Backend:
        """Change the given fields of a backend.

        Raises:
            NotFound: No backend has the name.
            StorageFailed: The change could not be saved.
        """
        return await self._decide(
            change.name, lambda records: claims.update(records, change, now=self.now())
        )

    async def delete(self, name: str) -> Backend:
        """Make a name not exist, and give the backend that it meant.

        Raises:
            NotFound: No backend has the name.
            StorageFailed: The change could not be saved.
        """
        return await self._decide(name, lambda records: claims.delete(records, name))

    async def deregister(self, name: str) -> Backend:
        """Make a backend inactive until it registers or pings again.

        Raises:
            NotFound: No backend has the name.
            StorageFailed: The change could not be saved.
        """
        return await self._decide(name, lambda records: claims.deregister(records, name))

    async def ping(self, name: str) -> bool:
        """Note a sign of life.

        Returns:
            Whether a backend has the name. The ping reaches the disk within `PING_DELAY`.
        """
        await self._commits.settled(name)
        decision = claims.ping(self.catalog.records(name), name, now=self.now())
        if isinstance(decision, MethodError):
            return False
        self.catalog.publish({name: decision.records})
        self._deadlines.renew(name, moment=trio.current_time())
        self._unwritten_pings.add(name)
        self._pings_wait.set()
        return True

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
        return await self._commits.commit(partial(self._reconcile, layer, declared))

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

            def change(draft: Draft) -> Reloaded:
                for name in declared:
                    draft.write(name, claims.lift_tombstone(draft.records(name)))
                return self._reconcile(Layer.FILE, declared, draft)

            try:
                return await self._commits.commit(change)
            except BaseException:
                self.config.forget()
                raise

    def _reconcile(
        self, layer: Layer, declared: Mapping[str, Declaration], draft: Draft
    ) -> Reloaded:
        added: list[str] = []
        updated: list[str] = []
        removed: list[str] = []
        for name in draft.names() | declared.keys():
            records = draft.records(name)
            former = claims.stated(records, layer)
            adopted = claims.stated(records, Layer.ADOPTED) if layer is Layer.FILE else None
            known = former or adopted
            declaration = declared.get(name)
            if declaration is None:
                if former is not None:
                    records = claims.without(records, layer)
                    removed.append(name)
                if adopted is not None and adopted.backend is not None:
                    # To the original, such a row was as good as registered.
                    records = claims.as_registered(records, adopted.backend)
                draft.write(name, records)
                continue
            known_backend = known.backend if known is not None else None
            backend = reconcile(
                declaration,
                known_backend,
                source=SOURCES[layer],
                now=self.now(),
                new_id=str(uuid4()),
            )
            if backend is not known_backend or adopted is not None:
                others = claims.without(records, Layer.ADOPTED) if adopted else records
                draft.write(name, claims.with_record(others, declared_record(backend, layer)))
            if backend is not known_backend:
                (added if known is None else updated).append(name)
        return Reloaded(
            count=len(declared),
            added=tuple(sorted(added)),
            updated=tuple(sorted(updated)),
            removed=tuple(sorted(removed)),
        )

    # Health.

    async def mark_silent(self, *, moment: float) -> tuple[str, ...]:
        """Make the backends inactive that were silent too long.

        Args:
            moment: Up to when silence counts, in seconds of Trio's clock.

        Returns:
            Their names.

        Raises:
            StorageFailed: The change could not be saved; nobody was marked.
        """
        silent = tuple(self._deadlines.over(moment=moment))
        if not silent:
            return ()

        def change(draft: Draft) -> tuple[str, ...]:
            still_silent = [n for n in silent if self._deadlines.is_over(n, moment=moment)]
            for name in still_silent:
                draft.write(name, claims.go_stale(draft.records(name)))
            return tuple(still_silent)

        return await self._commits.commit(change)

    def forgive(self, pause: float) -> None:
        """Give every backend back the seconds in which this process heard nobody."""
        self._deadlines.postpone(pause, moment=trio.current_time())

    async def wait_for_pings(self) -> None:
        """Wait until a ping waits for the disk."""
        await self._pings_wait.wait()

    async def write_pings(self) -> None:
        """Save the pings that wait for the disk.

        Raises:
            StorageFailed: They still wait.
        """
        if not self._unwritten_pings:
            return
        await self._commits.commit(self._take_pings)

    def _take_pings(self, draft: Draft) -> None:
        for name in self._unwritten_pings:
            draft.save_again(name)

    # How it comes together.

    async def _decide(self, name: str, rule: Rule) -> Backend:
        def change(draft: Draft) -> Backend:
            decision = rule(draft.records(name))
            if isinstance(decision, MethodError):
                raise decision
            draft.write(name, decision.records)
            if decision.is_sign_of_life:
                draft.signs_of_life.add(name)
            return decision.backend

        return await self._commits.commit(change)

    def _publish(self, draft: Draft, changes: Mapping[str, Records]) -> None:
        before = {name: self.catalog.get(name) for name in changes}
        self.catalog.publish(changes)
        moment = trio.current_time()
        for name in changes:
            after = self.catalog.get(name)
            self._deadlines.follow(name, before[name], after, moment=moment)
        for name in draft.signs_of_life:
            self._deadlines.renew(name, moment=moment)
        self._unwritten_pings -= changes.keys()
        # Whoever waits holds on to an event that is not set yet.
        if not self._unwritten_pings and self._pings_wait.is_set():
            self._pings_wait = trio.Event()
