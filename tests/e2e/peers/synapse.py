"""Synapse, the command line of Plexus, as a strict script.

A run is one execution of the command: it asks the hub that it was pointed at who it is, tells
the main hub of it, does its work with typed flags, and exits without a word of goodbye.

Source: manual/protocol.md, "What Plexus clients rely on".
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from tests.e2e.peers.backends import Backend, read_backends, read_found
from tests.e2e.peers.frames import Data, ViolationError, an_object, member
from tests.e2e.peers.schemas import (
    MethodSchema,
    PluginSchema,
    arguments,
    insist_on,
    read_method,
    read_plugin,
    variants,
)
from tests.e2e.peers.websocket import (
    OMITTED,
    PATIENCE_SECONDS,
    UnreachableError,
    WebSocket,
    lone_error,
    open_wire,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

INFO_SECONDS = 2.0
PROBE_SECONDS = 0.3
_SUFFIX = ".schema"


@dataclass(frozen=True, slots=True, kw_only=True)
class Synapse:
    """How the command is called.

    Attributes:
        port: The hub that it is pointed at (`-P`).
        main_port: Where the main hub would be; 4444 in real life.
        headers: From `--token`, `--cookie` and `--header`.
        patience: How long one frame may take in seconds; in real life there is no limit.
    """

    port: int
    main_port: int
    host: str = "127.0.0.1"
    headers: Mapping[str, str] = field(default_factory=dict)
    info_seconds: float = INFO_SECONDS
    patience: float = PATIENCE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution.

    Attributes:
        hub: The name that `_info` gave.
        main_hub: The name of the main hub that was told of it; None where nobody was.
    """

    synapse: Synapse
    wire: WebSocket
    hub: str
    main_hub: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An entry of the list, and who answered at its address in time."""

    backend: Backend
    answered: str | None


@asynccontextmanager
async def running(synapse: Synapse) -> AsyncIterator[Run]:
    """Start a run; it leaves without closing handshake, whatever is still under way."""
    async with AsyncExitStack() as pool:
        wire = await pool.enter_async_context(_connection(synapse, synapse.port))
        hub = await ask_info(wire, seconds=synapse.info_seconds)
        main_hub = None
        if synapse.port != synapse.main_port:
            main_hub = await _tell_main_hub(synapse, hub, pool)
        yield Run(synapse=synapse, wire=wire, hub=hub, main_hub=main_hub)


def _connection(synapse: Synapse, port: int) -> AbstractAsyncContextManager[WebSocket]:
    return open_wire(synapse.host, port, headers=synapse.headers, patience=synapse.patience)


async def _tell_main_hub(synapse: Synapse, hub: str, pool: AsyncExitStack) -> str | None:
    """Register at the main hub if there is one, and do not look at the reply."""
    try:
        wire = await pool.enter_async_context(_connection(synapse, synapse.main_port))
    except UnreachableError:
        return None
    main_hub = await ask_info(wire, seconds=synapse.info_seconds)
    address = {"name": hub, "host": synapse.host, "port": synapse.port, "protocol": "ws"}
    await wire.send(f"{main_hub}.call", {"method": "registry.register", "params": address})
    return main_hub


async def ask_info(wire: WebSocket, *, seconds: float) -> str:
    """Ask a hub for its name; the limit holds for the whole stream up to `done`."""
    try:
        with trio.fail_after(seconds):
            call = await wire.send("_info", None)
            data = _only_one(await wire.all_data(call), "_info")
    except trio.TooSlowError:
        raise ViolationError(f"no done of _info within {seconds} s") from None
    if data.content_type != "_info":
        raise ViolationError(f"content type of _info is {data.content_type}")
    return member(an_object(data.content, "content of _info"), "backend", str, "content of _info")


def _only_one(data: list[Data], method: str) -> Data:
    if len(data) != 1:
        raise ViolationError(f"{method} gave {len(data)} data items, not one: {data}")
    return data[0]


async def call(run: Run, method: str, params: object = OMITTED) -> Data:
    """Call a method through the hub, to the end of its stream.

    Raises:
        StreamFailedError: It ends with an error.
    """
    inner = {"method": method} if params is OMITTED else {"method": method, "params": params}
    stream = await run.wire.send(f"{run.hub}.call", inner)
    return _only_one(await run.wire.all_data(stream), method)


async def list_backends(run: Run) -> list[Listed]:
    """`synapse` without a backend: the list, each entry probed."""
    backends = read_backends((await call(run, "registry.list", {})).content)
    answers: dict[str, str | None] = {}

    async def look(backend: Backend) -> None:
        answers[backend.name] = await probe(backend.host, backend.port)

    with lone_error():
        async with trio.open_nursery() as nursery:
            for backend in backends:
                nursery.start_soon(look, backend)
    await run.wire.settle()
    return [Listed(backend=backend, answered=answers[backend.name]) for backend in backends]


async def probe(host: str, port: int) -> str | None:
    """Ask who is there; None where nobody is, or not within the limit, connect included."""
    with trio.move_on_after(PROBE_SECONDS):
        try:
            async with open_wire(host, port) as wire:
                return await ask_info(wire, seconds=INFO_SECONDS)
        except UnreachableError:
            return None
    return None


async def resolve(run: Run, name: str) -> Backend | None:
    """`synapse NAME`: find where it is, and see that it is there.

    Raises:
        ViolationError: The entry's name is not the namespace of the hub at its address.
    """
    backend = read_found((await call(run, "registry.get", {"name": name})).content)
    await run.wire.settle()
    if backend is None:
        return None
    async with open_wire(backend.host, backend.port, patience=run.synapse.patience) as wire:
        answered = await ask_info(wire, seconds=run.synapse.info_seconds)
    if answered != name:
        raise ViolationError(f"Backend mismatch: {backend} answers as {answered}")
    return backend


async def browse(run: Run, *path: str, **flags: str) -> dict[str, object] | None:
    """`synapse HUB PATH... --FLAG VALUE...`: walk to a method and call it.

    Args:
        run: The run.
        path: Namespaces below the hub, and the method.
        flags: Values by flag, with `_` for `-`.

    Returns:
        The event; None where Synapse prints help instead of calling.
    """
    *namespaces, name = [segment.replace("-", "_") for segment in path]
    namespace, schema = await _walk(run, namespaces)
    method = schema.methods[name]
    # Once more for the types of the flags, and for the check of deprecations.
    for _ in range(2):
        if (await _fetch_plugin(run, namespace)).methods[name] != method:
            raise ViolationError(f"the schema of {namespace} changed from one call to the next")
    params = arguments(method, flags)
    if params is None:
        return None
    event = an_object((await call(run, f"{namespace}.{name}", params)).content, "event")
    _insist_on_event(event, method)
    await run.wire.settle()
    return event


async def _walk(run: Run, namespaces: list[str]) -> tuple[str, PluginSchema]:
    """Follow a path of children, each schema fetched on the way."""
    schema = await _fetch_plugin(run, run.hub)
    if schema.namespace != run.hub:
        raise ViolationError(f"{run.hub} calls itself {schema.namespace} in its schema")
    namespace, on_the_way = run.hub, [schema.hash]
    for segment in namespaces:
        child = (schema.children or {}).get(segment)
        if child is None:
            raise ViolationError(f"{namespace} has no child {segment}: {schema.children}")
        if child.hash in on_the_way:
            raise ViolationError(f"Cycle detected: {segment} has the hash {child.hash}")
        namespace, schema = segment, await _fetch_plugin(run, segment)
        if (schema.hash, schema.namespace) != (child.hash, segment):
            raise ViolationError(f"summary and schema of a child differ: {child}, {schema}")
        on_the_way.append(child.hash)
    return namespace, schema


async def _fetch_plugin(run: Run, namespace: str) -> PluginSchema:
    data = await call(run, f"{namespace}.schema")
    schema = read_plugin(_schema_content(data))
    if namespace == run.hub and schema.hash != data.metadata.plexus_hash:
        raise ViolationError(f"root hash {schema.hash} is not {data.metadata.plexus_hash}")
    return schema


def _schema_content(data: Data) -> object:
    if not data.content_type.endswith(_SUFFIX):
        raise ViolationError(f"content type {data.content_type} does not end in {_SUFFIX}")
    return data.content


def _insist_on_event(event: Mapping[str, object], method: MethodSchema) -> None:
    """Insist that the event is one of those that the schema states."""
    returns = method.returns or {}
    known = variants(returns)
    tag = member(event, "type", str, "event")
    if tag not in known:
        raise ViolationError(f"{method.name} returned {tag}, stated are {list(known)}")
    described = an_object(known[tag].get("properties"), "variant.properties")
    # A failure carries, beside its code, whatever helps the caller; the others say all they have.
    said = {name: event[name] for name in event if tag != "error" or name in described}
    insist_on(said, known[tag], returns)


async def show_schema(run: Run, namespace: str, method: str) -> MethodSchema:
    """`synapse ... METHOD --schema`, as version 3 asks for it."""
    data = await call(run, f"{namespace}.schema", {"method": method})
    return read_method(_schema_content(data))


async def show_schema_4(run: Run, namespace: str, method: str) -> PluginSchema:
    """The same as version 4 asks for it: every `.schema` is a PluginSchema."""
    return read_plugin(_schema_content(await call(run, f"{namespace}.{method}.schema")))
