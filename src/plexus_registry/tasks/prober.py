"""The task that probes each backend once in an interval, and new backends at once.

Theory of operation. Probes are spread over the interval: a backend is due for the first time at
once, for the second time after a part of the interval that is its own, and from then on once in
every interval. Chance makes each probe a little earlier, so that the backends do not stay in step
and none waits longer than the interval.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from math import ceil, inf
from typing import TYPE_CHECKING

import trio

from plexus_registry.concurrency import FailureLog, LogThrottle
from plexus_registry.rules.errors import shown
from plexus_registry.rules.states import Untried

if TYPE_CHECKING:
    from collections.abc import Callable

    from plexus_registry.registry import Registry
    from plexus_registry.rules.backend import Backend

TICK = 0.5
"""Seconds: probes that are due in the same tick start together, because waking up costs as much as
several probes."""

TICKS = 30
"""A short interval is divided into this many ticks instead."""

SECOND_PROBE_SECONDS = 1.0
"""When a backend that answered after a goodbye is probed again: it may be about to stop."""

LONGEST_WAIT = 600.0
"""The longest time, in seconds, between two probes of a hub that wants a credential, because each
probe is a line in its log."""

MOST_DOUBLINGS = 16
"""Enough doublings to reach `LONGEST_WAIT` from the shortest interval."""

JITTER = 0.02
"""The largest part of the interval by which chance makes a probe earlier."""

_GOLDEN = 0.6180339887498949
"""The fractional parts of its multiples are spread evenly, however many there are."""


class Schedule:
    """The moment when each backend is due for its next probe, by name.

    Names are in a heap, ordered by the moment when each is due. When a name gets a new moment, its
    older entry in the heap becomes void and is skipped later.
    """

    def __init__(self, *, interval: float) -> None:
        self._interval = interval
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._first_parts: dict[str, float] = {}
        self._added = 0

    def add(self, name: str, due: float) -> None:
        """Add a name, or make it due earlier."""
        known = self._due.get(name)
        if known is not None and known <= due:
            return
        if known is None:
            self._spread(name)
        self._put(name, due)

    def next_due(self) -> float | None:
        """Return the moment when the next name is due; None if there are no names."""
        heap = self._heap
        while heap:
            due, name = heap[0]
            if self._due.get(name) == due:
                return due
            heappop(heap)
        return None

    def take(self, moment: float) -> tuple[str, float] | None:
        """Remove the name that is due next, until it is put back or added again.

        Returns:
            The name, and when it was due; None if no name is due yet.
        """
        due = self.next_due()
        if due is None or due > moment:
            return None
        _, name = heappop(self._heap)
        del self._due[name]
        return name, due

    def forget(self, name: str) -> None:
        """Forget a name that was taken and will not be put back."""
        self._first_parts.pop(name, None)

    def put_back(
        self, name: str, taken: float, *, due: float, chance: float, factor: float = 1.0
    ) -> None:
        """Make a name due again, some intervals after it was taken, unless it was added meanwhile.

        Args:
            name: The name.
            taken: When it was taken.
            due: When it was due.
            chance: A random number from 0 to 1.
            factor: How many intervals to wait.
        """
        # The process was stopped, and all names were taken at once: they are spread again.
        if taken - due > self._interval / 2:
            self._spread(name)
        part = self._first_parts.pop(name, 1.0)
        if name not in self._due:
            self._put(name, taken + self._interval * part * factor * (1 - JITTER * chance))

    def _spread(self, name: str) -> None:
        self._added += 1
        self._first_parts[name] = self._added * _GOLDEN % 1.0

    def _put(self, name: str, due: float) -> None:
        self._due[name] = due
        heappush(self._heap, (due, name))


async def probe_forever(
    registry: Registry,
    *,
    interval: float,
    chance: Callable[[], float] = random.random,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Probe every backend once in an interval, and new ones at once.

    Args:
        registry: The registry whose backends are probed.
        interval: Seconds between two probes of a backend.
        chance: Returns a random number from 0 to 1.
        task_status: Started when the first probes are scheduled.
    """
    async with trio.open_nursery() as nursery:
        prober = _Prober(registry, nursery, interval=interval, chance=chance)
        task_status.started()
        while True:
            await prober.wait_until_due()
            await prober.start_due_probes()


class _Prober:
    """Starts probes when they are due; each one holds a slot."""

    def __init__(
        self,
        registry: Registry,
        nursery: trio.Nursery,
        *,
        interval: float,
        chance: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._health = registry.health
        self._slots = registry.probe.slots
        self._nursery = nursery
        self._chance = chance
        self._interval = interval
        self._tick = min(TICK, interval / TICKS)
        # A probe may wait one tick for others. Even so, it must not be later than the interval.
        self._schedule = Schedule(interval=interval - self._tick)
        self._sleeps_until = inf
        self._log_throttle = LogThrottle()
        self._failure_log = FailureLog(
            "what probes found is not saved: %s", "what probes find is saved again"
        )
        for backend in registry.list(active_only=False):
            self._schedule.add(backend.name, trio.current_time())

    async def wait_until_due(self) -> None:
        """Wait until a probe is due, or a backend must be probed at once."""
        while (due := self._next_due()) is None or due > trio.current_time():
            self._sleeps_until = inf if due is None else ceil(due / self._tick) * self._tick
            with trio.move_on_at(self._sleeps_until):
                await self._health.probe_wakeup.wait()

    def _next_due(self) -> float | None:
        while self._health.unprobed:
            self._schedule.add(self._health.unprobed.pop(), trio.current_time())
        return self._schedule.next_due()

    async def start_due_probes(self) -> None:
        """Start all due probes for which there are slots; wait for the first slot."""
        await self._slots.acquire()
        moment = trio.current_time()
        while (taken := self._schedule.take(moment)) is not None:
            name, due = taken
            backend = self._registry.get(name)
            if backend is None:
                self._schedule.forget(name)
                continue
            self._nursery.start_soon(self._probe, backend, due, moment)
            try:
                self._slots.acquire_nowait()
            except trio.WouldBlock:
                return
        self._slots.release()

    async def _probe(self, backend: Backend, due: float, began: float) -> None:
        """Probe a backend, note the outcome, free the slot, and schedule the next probe."""
        name = backend.name
        try:
            outcome = (await self._registry.probe(backend)).outcome
            if isinstance(outcome, Untried):
                cause = f"{shown(name)}: {outcome.reason}"
                text = f"backends cannot be probed, and are not judged: {cause}"
                self._log_throttle.log("untried", text, lines=1)
            with self._failure_log:
                await self._health.note_probe(backend, outcome, began=began)
        finally:
            self._slots.release()
        if self._health.needs_second_probe(name):
            self._schedule.add(name, trio.current_time() + SECOND_PROBE_SECONDS)
        # A hub that wants a credential is probed half as often after each refusal.
        doublings = min(self._health.refusals(name), MOST_DOUBLINGS)
        factor = max(1.0, min(2.0**doublings, LONGEST_WAIT / self._interval))
        self._schedule.put_back(name, began, due=due, chance=self._chance(), factor=factor)
        next_due = self._schedule.next_due()
        if next_due is not None and next_due < self._sleeps_until:
            self._health.probe_wakeup.set()
