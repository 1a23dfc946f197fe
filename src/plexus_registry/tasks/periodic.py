"""Periodic tasks: watch the config file, mark silent backends, write pings, repair the database.

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
from plexus_registry.rules.backend import Layer
from plexus_registry.rules.errors import ConfigError, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plexus_registry.registry import Registry

log = logging.getLogger(__name__)

LOGGED_NAMES = 20
"""The most names of each kind in the log line about a change of the config file."""

REPAIR_INTERVAL = 1.0
"""Seconds between two tries to repair the database."""

TICK = 0.25
"""Seconds: a shorter pause can go unnoticed, and shortens a backend's time by no more than that."""


async def watch_config_once(registry: Registry) -> None:
    """Check the config file once, and apply its content if it changed.

    An invalid file is logged once and changes nothing. If a change could not be saved, the next
    check tries again.
    """
    config = registry.config
    async with config.lock:
        logged_before = str(config.error)
        try:
            declared = await config.read_change()
        except ConfigError as error:
            if str(error) != logged_before:
                log.error("config file kept out, the last good entries stay: %s", error)  # noqa: TRY400
            return
        if declared is None:
            return
        for warning in declared.warnings:
            log.warning("%s", warning)
        try:
            report = await registry.declare(Layer.FILE, declared.backends)
        except StorageFailed as error:
            config.forget()
            log.warning("config file not applied yet: %s", error)
            return
    if report.added or report.updated or report.removed:
        log.info(
            "config file applied: %d backends; added %s; updated %s; removed %s",
            report.count,
            *map(_listed, (report.added, report.updated, report.removed)),
        )


def _listed(names: Sequence[str]) -> str:
    """List names for a log line: the first ones, and the number of the others."""
    more = len(names) - LOGGED_NAMES
    rest = f" and {more} more" if more > 0 else ""
    return f"{', '.join(names[:LOGGED_NAMES])}{rest}" if names else "none"


async def watch_config_forever(
    registry: Registry,
    *,
    every: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Check the config file every few seconds, for the first time after one interval."""
    task_status.started()
    while True:
        await trio.sleep(every)
        await watch_config_once(registry)


async def sweep_once(registry: Registry) -> None:
    """Mark the backends that were silent for too long.

    Raises:
        StorageFailed: The marks could not be saved.
    """
    await registry.health.mark_silent()


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
