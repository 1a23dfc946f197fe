"""plexus-gamma, the web UI of Plexus, as a strict script.

It scans ports for hubs, keeps one connection to each, polls its hash, loads its tree, and finds
more hubs in a child called `registry`. It reads the first data item of a call and no further:
the `done` that follows is parked.

Source: manual/protocol.md, "What Plexus clients rely on".
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tests.e2e.peers.backends import read_backends
from tests.e2e.peers.frames import Data, ViolationError, an_object, member, read_hash
from tests.e2e.peers.schemas import PluginSchema, read_plugin
from tests.e2e.peers.websocket import (
    PATIENCE_SECONDS,
    UnreachableError,
    WebSocket,
    lone_error,
    open_wire,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

SCAN_SECONDS = 1.2
SCANS_AT_ONCE = 20
ORIGIN = {"Origin": "http://localhost:5173"}
_INFO_NAMES = ("result", "subscription")
_CLOSED_BY_PAGE = (1000, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A hub and its children, as loaded."""

    hub: PluginSchema
    children: dict[str, PluginSchema]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The shared connection to one hub."""

    wire: WebSocket
    hub: str


async def scan(host: str, ports: Iterable[int]) -> dict[int, str]:
    """Look at ports, 20 at a time, 1.2 s each, and give the names of the hubs that answer."""
    found: dict[int, str] = {}
    limiter = trio.CapacityLimiter(SCANS_AT_ONCE)

    async def look(port: int) -> None:
        async with limiter:
            with trio.move_on_after(SCAN_SECONDS):
                name = await _look_at(host, port)
                if name is not None:
                    found[port] = name

    with lone_error():
        async with trio.open_nursery() as nursery:
            for port in ports:
                nursery.start_soon(look, port)
    return found


async def _look_at(host: str, port: int) -> str | None:
    """Ask who is there; close at the first data item, while `done` may be in flight."""
    try:
        async with open_wire(host, port, headers=ORIGIN, bye=_CLOSED_BY_PAGE) as wire:
            call = await wire.send("_info", [])
            item = await wire.next_item(call)
            if call.names[0] not in _INFO_NAMES:
                raise ViolationError(f"the notification is called {call.names[0]}: not noticed")
            if not isinstance(item, Data) or not isinstance(item.content, dict):
                return None
            backend = item.content.get("backend")
            return backend if isinstance(backend, str) else None
    except UnreachableError:
        return None


@asynccontextmanager
async def open_session(
    host: str, port: int, hub: str, *, patience: float = PATIENCE_SECONDS
) -> AsyncIterator[Session]:
    """Open the shared connection; at the end every parked stream must have come to its own."""
    async with open_wire(
        host, port, headers=ORIGIN, bye=_CLOSED_BY_PAGE, patience=patience
    ) as wire:
        yield Session(wire=wire, hub=hub)
        await wire.settle()


async def call_all(session: Session, calls: Iterable[tuple[str, object]]) -> list[object]:
    """Make calls at the same time, and give the content of the first data item of each.

    Raises:
        RefusedError: One is answered with a JSON-RPC error, which rejects it.
        StreamFailedError: One ends with an error.
    """
    wire = session.wire
    streams = [
        await wire.send(f"{session.hub}.call", {"method": method, "params": params})
        for method, params in calls
    ]
    contents = []
    for stream in streams:
        data = await wire.first_data(stream)
        if data is None:
            raise ViolationError(f"done before any data: {stream}")
        insist_on_camel_case(data.content, is_schema=data.content_type.endswith(".schema"))
        contents.append(data.content)
    return contents


async def call(session: Session, method: str, params: object) -> object:
    """Make one call, and give the content of its first data item."""
    return (await call_all(session, [(method, params)]))[0]


async def poll_hash(session: Session) -> str:
    """Ask for the root hash; the tree is loaded again when it is another one."""
    content = an_object(await call(session, f"{session.hub}.hash", {}), "hash")
    if member(content, "event", str, "hash") != "hash":
        raise ViolationError(f"no hash event: {content}")
    return read_hash(content, "value")


async def load_tree(session: Session) -> Tree:
    """Load the hub's schema, and then those of its children in parallel."""
    hub = read_plugin(await call(session, f"{session.hub}.schema", {}))
    children = hub.children or {}
    loaded = await call_all(session, [(f"{namespace}.schema", {}) for namespace in children])
    schemas = {
        namespace: read_plugin(content) for namespace, content in zip(children, loaded, strict=True)
    }
    for namespace, schema in schemas.items():
        if schema.hash != children[namespace].hash:
            raise ViolationError(f"summary and schema of {namespace} differ in their hash")
    return Tree(hub=hub, children=schemas)


async def discover(session: Session, tree: Tree) -> dict[str, str]:
    """Find more hubs in a child called `registry`: their addresses by name."""
    if "registry" not in {schema.namespace for schema in tree.children.values()}:
        return {}
    backends = read_backends(await call(session, "registry.list", {"active_only": True}))
    if inactive := [backend.name for backend in backends if not backend.is_active]:
        raise ViolationError(f"active_only, and {inactive} are not active")
    return {
        backend.name: f"{backend.protocol}://{backend.host}:{backend.port}" for backend in backends
    }


def camel_case(name: str) -> str:
    """What the web UI makes of a key that it receives."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def snake_case(name: str) -> str:
    """What it makes of a key that it sends."""
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name)


def insist_on_camel_case(value: object, *, is_schema: bool) -> None:
    """Insist that the keys of a content survive the way to camelCase and back.

    The keywords of JSON Schema (`oneOf`, `$defs`) are never sent back, and must only be left
    alone; the names of properties are.

    Raises:
        ViolationError: A name comes back as another one.
    """
    for holder, are_keywords in _objects(value, are_keywords=is_schema):
        for name in holder:
            survives = snake_case(camel_case(name)) == name
            if not survives and not (are_keywords and camel_case(name) == name):
                raise ViolationError(f"{name} comes back as {snake_case(camel_case(name))}")


def _objects(value: object, *, are_keywords: bool) -> Iterable[tuple[dict[str, object], bool]]:
    """All objects in a value, and whether their names are schema keywords."""
    if isinstance(value, list):
        for inner in value:
            yield from _objects(inner, are_keywords=are_keywords)
    if not isinstance(value, dict):
        return
    yield value, are_keywords
    for name, inner in value.items():
        if are_keywords and name == "properties" and isinstance(inner, dict):
            yield inner, False
            for schema in inner.values():
                yield from _objects(schema, are_keywords=True)
        else:
            yield from _objects(inner, are_keywords=are_keywords)
