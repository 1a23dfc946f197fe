"""From a command to the verb of the registry that carries it out, and to the event it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plexus_registry.rules import commands
from plexus_registry.rules.events import encode_event

if TYPE_CHECKING:
    from plexus_registry.registry import Registry
    from plexus_registry.rpc.routes import Route
    from plexus_registry.rules.commands import Command


def look_up(registry: Registry, route: Route) -> str | None:
    """Answer what the catalog knows, as JSON text; None where there is more to do."""
    if isinstance(route, commands.Get):
        return registry.catalog.found(route.name)
    if isinstance(route, commands.List):
        return registry.catalog.listed(active_only=route.active_only)
    return None


async def perform(registry: Registry, command: Command) -> str:
    """Carry out a command.

    Returns:
        The event that reports it, as JSON text.

    Raises:
        MethodError: The registry refuses.
    """
    match command:
        case commands.Get() | commands.List():
            return str(look_up(registry, command))
        case commands.Ping(name=name):
            return encode_event(await registry.ping(name))
        case commands.Register():
            return encode_event(await registry.register(command))
        case commands.Update():
            return encode_event(await registry.update(command))
        case commands.Delete(name=name):
            return encode_event(await registry.delete(name))
        case commands.Deregister(name=name):
            return encode_event(await registry.deregister(name))
        case commands.Check(name=name):
            return encode_event(await registry.check(name))
        case commands.Reload():
            return encode_event(await registry.reload())
        case _:
            raise NotImplementedError(type(command).__name__)
