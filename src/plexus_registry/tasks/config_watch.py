"""The task that polls the config file and hands on what changed."""

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
"""So many names of each kind are in the line that says what was applied."""


async def watch_config_once(registry: Registry, config: ConfigFile) -> None:
    """Look at the file once, and apply its content where it changed.

    An invalid content is logged once and changes nothing. One that could not be saved is tried
    again at the next look.
    """
    async with config.lock:
        said_before = str(config.error)
        try:
            declared = await config.read_change()
        except ConfigError as error:
            if str(error) != said_before:
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
    """List names for a log line: the first ones, and how many more there are."""
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
    """Look at the file again and again; `every` is in seconds.

    The look before this was at the opening of the registry: that is the first of two.
    """
    task_status.started()
    while True:
        await trio.sleep(every)
        await watch_config_once(registry, config)
