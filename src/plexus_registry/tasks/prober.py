"""The task that probes every backend once in an interval, and whoever is new at once."""

from __future__ import annotations

import logging
import random
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING, Protocol

import trio

from plexus_registry.concurrency import FailureLog
from plexus_registry.health.batch_prober import open_batch_prober
from plexus_registry.health.schedule import Schedule
from plexus_registry.rules.errors import shown
from plexus_registry.rules.probe_results import Untried

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plexus_registry.health.batch_prober import BatchProber
    from plexus_registry.health.network import SocketAddress
    from plexus_registry.registry import Registry
    from plexus_registry.rules.backend import Backend
    from plexus_registry.rules.probe_results import Outcome, Report

TICK = 0.5
"""Whoever is due within so many seconds is probed together: to wake up costs as much as a dozen
probes."""

TICKS = 30
"""A short interval has so many, shorter ones."""

FIRST_SECONDS = 0.9 - TICK
"""Within so many seconds of its start everyone is due for the first time."""

SECOND_LOOK = 1.0
"""So soon it is probed again who answered after a goodbye: it may have been about to stop."""

LONGEST_WAIT = 600.0
"""Seconds: a hub that wants a credential is probed so seldom at last, for each probe is a line in
its log."""

MOST_DOUBLINGS = 16
"""Enough for the shortest interval, and no number that grows without end."""

SHORTAGE_LOG_SECONDS = 60.0
"""That this machine cannot probe is said so often at most."""

log = logging.getLogger(__name__)


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

    def direct_address(self, backend: Backend, /) -> SocketAddress | None:
        """Give the address of a backend that a bare socket reaches."""
        ...


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
    with open_batch_prober(timeout_seconds=ask.timeout_seconds) as batch_prober:
        async with trio.open_nursery() as nursery:
            rounds = _Rounds(registry, ask, batch_prober, nursery, interval=interval, chance=chance)
            nursery.start_soon(rounds.hear_news)
            if batch_prober is not None:
                nursery.start_soon(batch_prober.run)
            task_status.started()
            while True:
                await rounds.next_turns()


class _DueProbe:
    """One backend's turn to be probed; it holds a slot.

    Attributes:
        backend: The backend as it is when its turn begins.
        due: When that should have been.
        began: When it was.
    """

    __slots__ = ("backend", "began", "due")

    def __init__(self, backend: Backend, *, due: float, began: float) -> None:
        self.backend = backend
        self.due = due
        self.began = began


class _Rounds:
    """Who has a turn when."""

    def __init__(
        self,
        registry: Registry,
        ask: Ask,
        batch_prober: BatchProber | None,
        nursery: trio.Nursery,
        *,
        interval: float,
        chance: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._ask = ask
        self._batch_prober = batch_prober
        self._nursery = nursery
        self._chance = chance
        self._interval = interval
        self._tick = min(TICK, interval / TICKS)
        # Waiting for the others of a tick must not make a round longer than the interval.
        self._schedule = Schedule(interval=interval - self._tick)
        self._wake = trio.Event()
        self._sleeps_until = inf
        self._next_shortage_log = -inf
        self._failure_log = FailureLog(
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

    async def next_turns(self) -> None:
        """Wait for somebody who is due, and have all be probed who are, as slots get free."""
        while (due := self._schedule.next_due()) is None or due > trio.current_time():
            self._sleeps_until = inf if due is None else ceil(due / self._tick) * self._tick
            with trio.move_on_at(self._sleeps_until):
                await self._wake.wait()
            self._wake = trio.Event()
        await self._ask.slots.acquire()
        moment = trio.current_time()
        while (turn := self._schedule.take(moment)) is not None:
            self._begin(*turn, moment)
            try:
                self._ask.slots.acquire_nowait()
            except trio.WouldBlock:
                return
        self._ask.slots.release()

    def _begin(self, name: str, due: float, moment: float) -> None:
        """Have a backend be probed, which has a slot."""
        backend = self._registry.get(name)
        if backend is None:
            self._ask.slots.release()
            self._schedule.forget(name)
            return
        turn = _DueProbe(backend, due=due, began=moment)
        address = None if self._batch_prober is None else self._ask.direct_address(backend)
        if self._batch_prober is None or address is None:
            self._nursery.start_soon(self._probe, turn)
        else:
            self._batch_prober.probe(address, partial(self._note, turn))

    async def _probe(self, turn: _DueProbe) -> None:
        report = await self._ask(turn.backend)
        self._note(turn, report.outcome)

    def _note(self, turn: _DueProbe, outcome: Outcome) -> None:
        """Take note of what a probe found; where that has to be saved, the slot is held so long."""
        if isinstance(outcome, Untried):
            self._tell_shortage(turn, outcome)
        rest = self._registry.health.note_at_once(turn.backend, outcome, began=turn.began)
        if rest is None:
            self._end(turn)
        else:
            self._nursery.start_soon(self._save, turn, rest)

    def _tell_shortage(self, turn: _DueProbe, outcome: Untried) -> None:
        """Say that this machine could not probe, but not for every backend."""
        if turn.began < self._next_shortage_log:
            return
        self._next_shortage_log = turn.began + SHORTAGE_LOG_SECONDS
        log.warning(
            "backends cannot be probed, and are not judged: %s: %s",
            shown(turn.backend.name),
            outcome.reason,
        )

    async def _save(self, turn: _DueProbe, rest: Callable[[], Awaitable[None]]) -> None:
        with self._failure_log:
            await rest()
        self._end(turn)

    def _end(self, turn: _DueProbe) -> None:
        """Free the slot, and schedule the backend's next turn."""
        self._ask.slots.release()
        name = turn.backend.name
        if self._registry.health.is_doubted(name):
            self._add(name, trio.current_time() + SECOND_LOOK)
        self._schedule.put_back(
            name, turn.began, due=turn.due, chance=self._chance(), factor=self._factor(name)
        )
        self._look_again()

    def _factor(self, name: str) -> float:
        """Say how many intervals a backend waits: twice as many each time it wants a credential."""
        refusals = min(self._registry.health.refusals(name), MOST_DOUBLINGS)
        return max(1.0, min(2.0**refusals, LONGEST_WAIT / self._interval))

    def _add(self, name: str, due: float) -> None:
        self._schedule.add(name, due)
        self._look_again()

    def _look_again(self) -> None:
        """Wake the one who waits, where somebody is due earlier than it sleeps."""
        due = self._schedule.next_due()
        if due is not None and due < self._sleeps_until:
            self._wake.set()
