"""The task that polls the config file and applies its changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from plexus_registry.rules.backend import Layer
from plexus_registry.rules.errors import ConfigError, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plexus_registry.config.file import ConfigFile
    from plexus_registry.registry import Registry

log = logging.getLogger(__name__)

LOGGED_NAMES = 20
"""The most names of each kind in the log line about a change."""


async def watch_config_once(registry: Registry, config: ConfigFile) -> None:
    """Check the file once, and apply its content if it changed.

    An invalid file is logged once and changes nothing. If a change could not be saved, the next
    check tries again.
    """
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
    config: ConfigFile,
    *,
    every: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Check the file again and again; `every` is in seconds.

    The file was checked for the first time when the registry was opened.
    """
    task_status.started()
    while True:
        await trio.sleep(every)
        await watch_config_once(registry, config)
