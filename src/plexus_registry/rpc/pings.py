"""Pings over a connection: the next frame does not wait for a disk that hangs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from plexus_registry.rules.events import Pinged, encode_event, pinged

if TYPE_CHECKING:
    from plexus_registry.registry import Registry

StartSoon = Callable[[Callable[[], Awaitable[None]]], None]

PATIENCE = 0.25
"""Seconds that the next frame waits at most for a ping that changes the state of its backend."""


async def ping(registry: Registry, name: str, start_soon: StartSoon) -> str:
    """Ping a backend; if that changes its state, wait for the commit no longer than `PATIENCE`.

    A ping that is not committed by then counts all the same: it is committed with the next pings.

    Args:
        registry: Carries it out.
        name: The backend.
        start_soon: Starts a task that may go on after this returns.

    Returns:
        The event that reports it, as JSON text.

    Raises:
        StorageFailed: The backend could not be revived.
    """
    if not registry.is_revived_by_ping(name):
        return encode_event(await registry.ping(name))
    if registry.revivals_wait:  # the disk is slow: this one joins them
        registry.revive_later(name)
        return encode_event(pinged(name, success=True))
    outcome: list[Pinged | Exception] = []
    is_over = trio.Event()

    async def revive() -> None:
        try:
            outcome.append(await registry.ping(name))
        except Exception as error:  # noqa: BLE001 - it is raised below, or shows once repeated
            outcome.append(error)
        is_over.set()

    start_soon(revive)
    with trio.move_on_after(PATIENCE):
        await is_over.wait()
    if not outcome:
        registry.revive_later(name)
        return encode_event(pinged(name, success=True))
    result = outcome.pop()
    if isinstance(result, Exception):
        raise result
    return encode_event(result)
