"""The task that probes every backend once in an interval, and whoever is new at once."""

from __future__ import annotations

import random
from math import ceil, inf
from typing import TYPE_CHECKING, Protocol

import trio

from plexus_registry.core.schedule import Schedule
from plexus_registry.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plexus_registry.core.model import Backend
    from plexus_registry.core.reports import Report
    from plexus_registry.service import Registry

FIRST_SECONDS = 0.9
"""Within so many seconds of its start everyone is due for the first time."""

TICK = 0.1
"""Whoever is due within so many seconds is probed together: thousands of probes that come one by
one cost three times as much."""

SECOND_LOOK = 1.0
"""So soon it is probed again who answered after a goodbye: it may have been about to stop."""


class Ask(Protocol):
    """How a backend is probed.

    Attributes:
        slots: Whoever probes holds one of them.
        timeout_seconds: How long a probe may take.
    """

    slots: trio.Semaphore
    timeout_seconds: float

    def __call__(self, backend: Backend, /) -> Awaitable[Report]:
        """Probe a backend."""
        ...


async def probe_once(registry: Registry, ask: Ask, name: str) -> bool:
    """Probe the backend of a name, and take note of what came out.

    Returns:
        Whether there is such a backend.

    Raises:
        StorageFailed: What came out could not be saved.
    """
    backend = registry.get(name)
    if backend is None:
        return False
    began = trio.current_time()
    report = await ask(backend)
    await registry.health.note_probe(backend, report.outcome, began=began)
    return True


async def probe_forever(
    registry: Registry,
    ask: Ask,
    *,
    interval: float,
    chance: Callable[[], float] = random.random,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Probe all backends, each once in an interval, and those that are new at once.

    Args:
        registry: Whose backends are probed.
        ask: How.
        interval: In seconds.
        chance: Gives a number from 0 to 1.
        task_status: Told that it is running.
    """
    rounds = _Rounds(registry, ask, interval=interval, chance=chance)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.hear_news)
        task_status.started()
        while True:
            name, due = await rounds.next_turn()
            nursery.start_soon(rounds.take_turn, name, due)


class _Rounds:
    """Who has a turn when."""

    def __init__(
        self, registry: Registry, ask: Ask, *, interval: float, chance: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._ask = ask
        self._chance = chance
        # Waiting for the others of a tick must not make a round longer than the interval.
        self._schedule = Schedule(interval=max(interval - TICK, interval / 2))
        self._wake = trio.Event()
        self._sleeps_until = inf
        self._trouble = Trouble(
            "what probes found is not saved: %s", "what probes find is saved again"
        )
        moment = trio.current_time()
        for backend in registry.list(active_only=False):
            self._schedule.add(backend.name, moment + min(FIRST_SECONDS, interval) * chance())

    async def hear_news(self) -> None:
        """Have everyone probed at once who is new, elsewhere, revived, or said goodbye."""
        while True:
            await self._registry.health.wait_for_unprobed()
            for name in self._registry.health.take_unprobed():
                self._add(name, trio.current_time())

    async def next_turn(self) -> tuple[str, float]:
        """Wait for a free slot and somebody who is due; give the name, and when it was due."""
        while True:
            due = self._schedule.next_due()
            if due is not None and due <= trio.current_time():
                await self._ask.slots.acquire()
                due = self._schedule.next_due()
                assert due is not None  # noqa: S101 - only this task takes any
                return self._schedule.take(), due
            self._sleeps_until = inf if due is None else ceil(due / TICK) * TICK
            with trio.move_on_at(self._sleeps_until):
                await self._wake.wait()
            self._wake = trio.Event()

    async def take_turn(self, name: str, due: float) -> None:
        """Probe one backend, which has a slot, and schedule its next turn."""
        turn = trio.current_time()
        is_there = True
        try:
            with self._trouble:
                is_there = await probe_once(self._registry, self._ask, name)
        finally:
            self._ask.slots.release()
        if not is_there:
            return
        if self._registry.health.is_doubted(name):
            self._add(name, trio.current_time() + SECOND_LOOK)
        self._schedule.put_back(name, turn, due=due, chance=self._chance())
        self._look_again()

    def _add(self, name: str, due: float) -> None:
        self._schedule.add(name, due)
        self._look_again()

    def _look_again(self) -> None:
        """Wake the one who waits, where somebody is due earlier than it sleeps."""
        due = self._schedule.next_due()
        if due is not None and due < self._sleeps_until:
            self._wake.set()
