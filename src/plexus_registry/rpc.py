"""From a frame to its answer: JSON-RPC requests carried out by the registry.

Every frame gets its answer here, whatever is in it: errors of the caller as JSON-RPC errors,
refusals of a method with their own codes, and a bug of ours as -32603 with a trace in the log.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from plexus_registry.core import commands, events
from plexus_registry.core.errors import (
    InternalError,
    MethodError,
    MethodNotFoundError,
    ProtocolError,
    shown,
)
from plexus_registry.core.events import encode_event
from plexus_registry.core.jsonrpc import (
    Batch,
    Invalid,
    Request,
    error_response,
    read_frame,
    result_response,
)
from plexus_registry.core.methods import METHODS, NAMESPACE, Method, command_from, nearest

if TYPE_CHECKING:
    from plexus_registry.core.commands import Command
    from plexus_registry.service import Registry

log = logging.getLogger(__name__)

DIRECT: dict[str, Method] = {f"{NAMESPACE}.{method.name}": method for method in METHODS}

MAX_BATCH = 1000
"""Requests in one batch. Source: wire protocol, section 0, "Limits"."""


async def answer_frame(registry: Registry, frame: str | bytes) -> str | None:
    """Carry out what a frame asks for.

    Args:
        registry: Whom it asks.
        frame: The text or binary message as it came.

    Returns:
        The frame to send back; None where there is nothing to answer.
    """
    read = read_frame(frame, max_batch=MAX_BATCH)
    if not isinstance(read, Batch):
        return await _answer(registry, read)
    answers = [
        answer for item in read.items if (answer := await _answer(registry, item)) is not None
    ]
    return f"[{','.join(answers)}]" if answers else None


async def _answer(registry: Registry, request: Request | Invalid) -> str | None:
    if isinstance(request, Invalid):
        return error_response(request.id, request.error)
    try:
        result = await _carry_out(registry, request)
    except (ProtocolError, MethodError) as error:
        return None if request.id is None else error_response(request.id, error)
    except Exception:
        log.exception("request for %s failed", shown(request.method))
        bug = InternalError("Internal error")
        return None if request.id is None else error_response(request.id, bug)
    return None if request.id is None else result_response(request.id, result)


async def _carry_out(registry: Registry, request: Request) -> str:
    method = DIRECT.get(request.method)
    if method is None:
        raise _unknown_method(request.method)
    return await perform(registry, command_from(method, request.params))


def _unknown_method(name: str) -> MethodNotFoundError:
    guess = nearest(name, DIRECT)
    hint = f"did you mean {guess}?" if guess else f"known are {', '.join(DIRECT)}"
    return MethodNotFoundError("Method not found", method=name[:128], hint=hint)


async def perform(registry: Registry, command: Command) -> str:
    """Carry out a command.

    Returns:
        The event that reports it, as JSON text.

    Raises:
        MethodError: The registry refuses.
    """
    match command:
        case commands.Get(name=name):
            return registry.catalog.found(name)
        case commands.List(active_only=active_only):
            return registry.catalog.listed(active_only=active_only)
        case commands.Ping(name=name):
            return encode_event(events.pinged(name, success=await registry.ping(name)))
        case commands.Register():
            backend = await registry.register(command)
            return encode_event(events.BackendRegistered(backend=backend))
        case commands.Update():
            backend = await registry.update(command)
            return encode_event(events.BackendUpdated(backend=backend))
        case commands.Delete(name=name):
            await registry.delete(name)
            return encode_event(events.BackendDeleted(name=name))
        case commands.Deregister(name=name):
            await registry.deregister(name)
            return encode_event(events.BackendDeregistered(name=name))
        case commands.Reload():
            return encode_event(await registry.reload())
        case _:
            raise NotImplementedError(type(command).__name__)
