"""From a command to the verb of the registry that carries it out, and to the event it reports."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.events import encode_event
from plexus_registry.rules.methods import BY_COMMAND, Get, List

if TYPE_CHECKING:
    from plexus_registry.registry import Registry
    from plexus_registry.rpc.routes import Route
    from plexus_registry.rules.events import Event
    from plexus_registry.rules.parameters import Command


def look_up(registry: Registry, route: Route) -> str | None:
    """Answer what the catalog knows, as JSON text; None where there is more to do."""
    if isinstance(route, Get):
        return registry.catalog.found(route.name)
    if isinstance(route, List):
        return registry.catalog.listed(active_only=route.active_only)
    return None


async def perform(registry: Registry, command: Command) -> str:
    """Carry out a command with the verb of its method.

    Returns:
        The event that reports it, as JSON text.

    Raises:
        MethodError: The registry refuses.
    """
    known = look_up(registry, command)
    if known is not None:
        return known
    verb = getattr(registry, BY_COMMAND[type(command)].name)
    if isinstance(command, (Register, Update)):
        outcome = verb(command)
    else:
        outcome = verb(**msgspec.structs.asdict(command))
    event: Event = await outcome if isawaitable(outcome) else outcome
    return encode_event(event)
