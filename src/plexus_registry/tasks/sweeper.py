"""Periodic tasks: mark silent backends as stale, write pings, repair the database.

A process that was stopped (SIGSTOP, a debugger, an overloaded machine) received no pings and must
not count that as silence. The sweeper therefore sleeps in short ticks. If a tick takes longer than
it should, the deadlines of all backends are postponed by that time before the next sweep.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from plexus_registry.concurrency import FailureLog
from plexus_registry.health.pings import PING_DELAY
from plexus_registry.rules.errors import StorageFailed, shown

if TYPE_CHECKING:
    from plexus_registry.registry import Registry

log = logging.getLogger(__name__)

REPAIR_INTERVAL = 1.0
"""Seconds between two tries to repair the database."""

TICK = 0.25
"""Seconds: a shorter pause can go unnoticed, and shortens a backend's time by no more than that."""


async def sweep_once(registry: Registry) -> None:
    """Mark the backends that were silent for too long.

    Raises:
        StorageFailed: The marks could not be saved.
    """
    for name in await registry.health.mark_silent(moment=trio.current_time()):
        log.info("backend %s is inactive: no ping in time", shown(name))


async def sweep_forever(
    registry: Registry,
    *,
    every: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Sweep on a fixed grid; `every` is in seconds."""
    task_status.started()
    failure_log = FailureLog("sweep failed, trying again: %s", "sweeps work again")
    wake = trio.current_time()
    while True:
        wake += every
        pause = await _sleep_until(wake)
        if pause > 0:
            registry.health.note_pause(pause)
            wake += pause
        with failure_log:
            await sweep_once(registry)


async def _sleep_until(wake: float) -> float:
    """Sleep, and measure for how many seconds this process did not run."""
    pause = 0.0
    while (now := trio.current_time()) < wake + pause:
        tick_end = min(now + TICK, wake + pause)
        await trio.sleep_until(tick_end)
        overslept = trio.current_time() - tick_end
        if overslept > TICK:
            log.warning(
                "this process did not run for %.1f s; no backend is judged for it", overslept
            )
            pause += overslept
    return pause


async def write_pings_forever(
    registry: Registry, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Write pings to the disk, each one at most `PING_DELAY` seconds after it arrived."""
    task_status.started()
    failure_log = FailureLog("pings not saved, trying again: %s", "pings are saved again")
    while True:
        await registry.pings.wait()
        await trio.sleep(PING_DELAY)
        with failure_log:
            await registry.pings.write()


async def repair_forever(
    registry: Registry, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Repair the database after a failed save: try every `REPAIR_INTERVAL` until it works."""
    task_status.started()
    while True:
        await registry.commits.wait_for_failure()
        await trio.sleep(REPAIR_INTERVAL)
        # The group commit logs when storage begins to fail and when it works again.
        with suppress(StorageFailed):
            await registry.commits.repair()
