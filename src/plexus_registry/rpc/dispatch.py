"""Carries out commands: the permission, the verb of the registry, the event as JSON text."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rpc.fairness import LONG_CHARACTERS
from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.errors import MethodError, Unauthorized
from plexus_registry.rules.events import encode_event
from plexus_registry.rules.methods import BY_COMMAND, Get, List

if TYPE_CHECKING:
    from plexus_registry.registry import Registry
    from plexus_registry.rpc.fairness import Share
    from plexus_registry.rpc.limits import Caller
    from plexus_registry.rpc.streams import Route
    from plexus_registry.rules.events import Event
    from plexus_registry.rules.parameters import Command


def from_catalog(registry: Registry, route: Route) -> str | None:
    """Return the event that answers `get` or `list`, which the catalog keeps as JSON text."""
    if isinstance(route, Get):
        return registry.catalog.found(route.name)
    if isinstance(route, List):
        return registry.catalog.listed(active_only=route.active_only)
    return None


async def carry_out(registry: Registry, command: Command, caller: Caller, share: Share) -> str:
    """Carry out a command with the verb of its method.

    Args:
        registry: Has the verbs.
        command: The command; not a watch, which is a stream.
        caller: The caller.
        share: The caller's share of the memory for answers; a long list waits for room in it.

    Returns:
        The event that reports it, as JSON text.

    Raises:
        MethodError: The registry refuses.
    """
    method = BY_COMMAND[type(command)]
    if method.writes and not caller.may_write:
        caller.refused[Unauthorized.word] += 1
        raise Unauthorized
    encoded = from_catalog(registry, command)
    if encoded is not None:
        if len(encoded) > LONG_CHARACTERS:
            await share.wait_for_room()
        return str(from_catalog(registry, command))
    verb = getattr(registry, method.name)
    try:
        if isinstance(command, (Register, Update)):
            outcome = verb(command)
        else:
            outcome = verb(**msgspec.structs.asdict(command))
        event: Event = await outcome if isawaitable(outcome) else outcome
    except MethodError as error:
        # Its traceback holds frames, and one of them holds the error: without this, only the
        # garbage collector would free them.
        raise error.with_traceback(None)  # noqa: B904 - the same error
    return encode_event(event)
