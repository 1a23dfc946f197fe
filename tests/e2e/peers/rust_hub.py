"""A hub on plexus-transport 0.4, which registers itself at boot and says goodbye at its end.

Every attempt is a connection of its own; ids go in pairs, one for a subscription and one for
its end, as jsonrpsee deals them out.

Source: manual/protocol.md, "What Plexus clients rely on".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tests.e2e.peers.backends import Backend, read_backend
from tests.e2e.peers.frames import Data, ViolationError, an_object, member
from tests.e2e.peers.websocket import (
    PATIENCE_SECONDS,
    RefusedError,
    UnreachableError,
    WebSocket,
    open_wire,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.peers.ledger import Call

ATTEMPTS = 3
CONNECT_SECONDS = 2.0
PAUSE_SECONDS = 1.0
GOODBYE_SECONDS = 3.0


class NotRegisteredError(Exception):
    """Every attempt failed; the hub would warn once and never try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RustHub:
    """One process of a hub.

    Attributes:
        name: Its hub namespace.
        port: Where it listens.
        registry_port: Where it looks for the registry, on its own host.
        patience: How long one item may take, in seconds.
    """

    name: str
    port: int
    registry_port: int
    pid: int = 4242
    host: str = "127.0.0.1"
    version: str = "1.0.0"
    schema_hash: str = "9c1d0e5b7a32f468"
    patience: float = PATIENCE_SECONDS
    pause_seconds: float = PAUSE_SECONDS


async def register(hub: RustHub) -> Backend:
    """Register at boot, and give the entry that the registry made.

    Raises:
        NotRegisteredError: No attempt of three brought a `backend_registered`.
    """
    params = {
        "name": hub.name,
        "host": hub.host,
        "port": hub.port,
        "protocol": "ws",
        "version": hub.version,
        "metadata": {"pid": hub.pid, "schema_hash": hub.schema_hash},
        "source": "auto",
    }
    reasons: list[str] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            await trio.sleep(hub.pause_seconds)
        try:
            event = await _attempt(hub, "registry.register", params, "backend_registered")
        except (UnreachableError, RefusedError, NotRegisteredError) as error:
            reasons.append(str(error))
        else:
            return _own_entry(hub, event)
    raise NotRegisteredError(f"{hub.name}: {reasons}")


def _own_entry(hub: RustHub, event: dict[str, object]) -> Backend:
    entry = read_backend(event.get("backend"))
    metadata: object = {"pid": hub.pid, "schema_hash": hub.schema_hash}
    kept = (entry.name, entry.host, entry.port, entry.version, entry.source, entry.metadata)
    if kept != (hub.name, hub.host, hub.port, hub.version, "auto", metadata):
        raise ViolationError(f"not what was registered: {entry}")
    if not entry.is_active:
        raise ViolationError(f"registered, and inactive: {entry}")
    return entry


async def say_goodbye(hub: RustHub) -> None:
    """Deregister at shutdown, within three seconds.

    Raises:
        NotRegisteredError: The registry does not confirm it.
    """
    with trio.fail_after(GOODBYE_SECONDS):
        params = {"name": hub.name}
        event = await _attempt(hub, "registry.deregister", params, "backend_deregistered")
    if event.get("name") != hub.name:
        raise ViolationError(f"said goodbye for {hub.name}, got {event}")


async def _attempt(hub: RustHub, method: str, params: object, kind: str) -> dict[str, object]:
    """Open a connection, ask for the registry's name, make one call, and close."""
    async with open_wire(
        hub.host,
        hub.registry_port,
        connect_seconds=CONNECT_SECONDS,
        patience=hub.patience,
        first_id=0,
        bye=(1000, ""),
    ) as wire:
        info = await _subscribe(wire, "_info", {}, "_info_unsub", _is_info)
        registry = member(info, "backend", str, "content of _info")
        event = await _subscribe(
            wire,
            f"{registry}.call",
            {"method": method, "params": params},
            f"{registry}.call_unsub",
            lambda content: content.get("type") == kind,
        )
        await wire.settle()
        return event


def _is_info(content: dict[str, object]) -> bool:
    return "backend" in content


async def _subscribe(
    wire: WebSocket,
    method: str,
    params: object,
    unsubscribe: str,
    is_wanted: Callable[[dict[str, object]], bool],
) -> dict[str, object]:
    """Subscribe, wait for the content that is wanted, and unsubscribe, ended or not."""
    request_id, end_id = wire.next_id(), wire.next_id()
    stream = await wire.send(method, params, request_id=request_id)
    await wire.acknowledged(stream)
    outcome = await _read_until(wire, stream, is_wanted)
    end = await wire.send(
        unsubscribe,
        [stream.subscription],
        subscribes=False,
        unsubscribes=stream,
        request_id=end_id,
    )
    await wire.result(end)
    if isinstance(outcome, str):
        raise NotRegisteredError(f"{method}: {outcome}")
    return outcome


async def _read_until(
    wire: WebSocket, stream: Call, is_wanted: Callable[[dict[str, object]], bool]
) -> dict[str, object] | str:
    """Read a stream up to the content that is wanted, or give the reason why it never comes."""
    while isinstance(item := await wire.next_item(stream), Data):
        content = an_object(item.content, "content")
        if is_wanted(content):
            return content
        if content.get("type") == "error":
            return f"failed: {content}"
    return f"ended with {item}"
