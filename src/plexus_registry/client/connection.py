"""The client library: one connection to a registry, for any number of calls and watches.

It needs Trio, and nothing else runs it: a program on asyncio has to speak JSON-RPC itself.
Nothing here takes a timeout; the caller writes `with trio.fail_after(5):`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from plexus_registry.client import DEFAULT_URL
from plexus_registry.client.exchange import Exchange, decode
from plexus_registry.client.socket import CLOSE_SECONDS, open_socket
from plexus_registry.concurrency import lone_error
from plexus_registry.rules.backend import AllDetails, Backend, Details
from plexus_registry.rules.events import (
    BackendDeleted,
    BackendDeregistered,
    BackendRegistered,
    BackendUpdated,
    Change,
    Checked,
    Event,
    Found,
    Listed,
    Pinged,
    Reloaded,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from collections.abc import Set as AbstractSet
    from typing import Self, Unpack

    from plexus_registry.client.socket import ClientSocket
    from plexus_registry.client.watch import WatchEvent

E = TypeVar("E", bound=Event)


class Backends(tuple[Backend, ...]):
    """Backends, newest first.

    Attributes:
        revision: The revision of the state that they show; `watch(since=...)` with it brings every
            change after it.
    """

    revision: int

    def __new__(cls, backends: tuple[Backend, ...], revision: int) -> Self:
        """Join the backends and their revision."""
        self = super().__new__(cls, backends)
        self.revision = revision
        return self


@asynccontextmanager
async def connect(
    url: str = DEFAULT_URL, *, token: str | None = None
) -> AsyncIterator[RegistryClient]:
    """Connect to a registry.

    A connection that is lost later does not end the block: what is asked then fails. A registry
    that gives no sign of life for 40 seconds is lost, too.

    Args:
        url: Where it is, `ws://` or `wss://`.
        token: What proves who is asking, where the registry wants that.

    Raises:
        UrlError: The URL is none.
        ValueError: The token is none that a header can hold.
        RegistryUnavailableError: There is no registry.
    """
    async with open_socket(url, token=token) as socket, run_client(socket) as client:
        yield client


@asynccontextmanager
async def run_client(socket: ClientSocket) -> AsyncIterator[RegistryClient]:
    """Run a client on an open WebSocket, and close that after the block."""
    exchange = Exchange(socket)
    with lone_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.send_forever)
            nursery.start_soon(socket.hang_up_if_silent)
            nursery.start_soon(exchange.read_until_lost)
            yield RegistryClient(exchange)
            socket.close()
            with trio.move_on_after(CLOSE_SECONDS):
                await exchange.wait_lost()
            nursery.cancel_scope.cancel()


class RegistryClient:
    """A connection to a registry; `connect` makes it.

    Every call may be made while others are under way. Beside what each says of itself, every one
    raises `RegistryUnavailableError` where the connection is lost, the exception of the error
    code where the registry refuses (`InvalidParamsError`, `StorageFailed`, ...), and
    `MethodError` itself for a code that is not known here.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.revision: int | None = None

    async def get(self, name: str) -> Backend | None:
        """Find a backend by its name; None where there is none."""
        return (await self._ask("get", {"name": name}, Found)).backend

    async def list(self, *, active_only: bool = True) -> Backends:
        """List the backends, newest first; inactive ones only where they are asked for.

        Returns:
            The backends as a tuple that has the `revision` of that state, too.
        """
        params = {"active_only": active_only}
        listed = await self._ask("list", params, Listed)
        return Backends(listed.backends, listed.revision)

    async def register(
        self,
        name: str,
        host: str,
        port: int,
        protocol: str = "ws",
        *,
        source: str = "manual",
        replace: bool = False,
        **details: Unpack[AllDetails],
    ) -> Backend:
        """Register a backend under a name.

        Args:
            name: The name to claim.
            host: The host that it listens on.
            port: The port that it listens on.
            protocol: How to connect to it: `ws` or `wss`.
            source: `auto` if the backend registers itself.
            replace: Whether to take the name even from a live backend.
            details: The optional fields, such as `description` and `metadata`; the page "methods"
                of the manual lists them.

        Returns:
            The backend as the registry has it now.

        Raises:
            NameTaken: A live backend elsewhere has the name; `data["holder"]` is that backend.
        """
        params = _given(
            name=name,
            host=host,
            port=port,
            protocol=protocol,
            source=source,
            replace=replace,
            **checked_details(details, AllDetails.__optional_keys__),
        )
        return (await self._ask("register", params, BackendRegistered)).backend

    async def update(
        self,
        name: str,
        *,
        host: str | None = None,
        port: int | None = None,
        protocol: str | None = None,
        **details: Unpack[Details],
    ) -> Backend:
        """Change what is given; an empty description or namespace clears it.

        Returns:
            The backend as the registry has it now.

        Raises:
            NotFound: No backend has the name.
        """
        params = _given(
            name=name,
            host=host,
            port=port,
            protocol=protocol,
            **checked_details(details, Details.__optional_keys__),
        )
        return (await self._ask("update", params, BackendUpdated)).backend

    async def delete(self, name: str) -> None:
        """Make a name not exist until it is registered again.

        Raises:
            NotFound: No backend has the name.
        """
        await self._ask("delete", {"name": name}, BackendDeleted)

    async def deregister(self, name: str) -> None:
        """Say goodbye for a backend: its entry stays, inactive.

        Raises:
            NotFound: No backend has the name.
        """
        await self._ask("deregister", {"name": name}, BackendDeregistered)

    async def ping(self, name: str) -> bool:
        """Give a sign of life for a backend, and tell whether the registry knows it."""
        return (await self._ask("ping", {"name": name}, Pinged)).success

    async def check(self, name: str) -> Checked:
        """Have the registry probe a backend now, and tell step by step what came out.

        Raises:
            NotFound: No backend has the name.
        """
        return await self._ask("check", {"name": name}, Checked)

    async def reload(self) -> Reloaded:
        """Have the config file read now.

        Raises:
            ConfigInvalid: It breaks a rule, and what it stated before still holds.
        """
        return await self._ask("reload", {}, Reloaded)

    async def call(self, method: str, params: Mapping[str, object]) -> object:
        """Call any method, and return its result as plain JSON values."""
        result = decode(await self._exchange.request(method, params), object, _answer_to(method))
        if isinstance(result, dict) and isinstance(result.get("revision"), int):
            self._note(result["revision"])
        return result

    async def wait_lost(self) -> None:
        """Wait until the connection is over."""
        await self._exchange.wait_lost()

    @asynccontextmanager
    async def watch(
        self, *, since: int | None = None, name: str | None = None, namespace: str | None = None
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Follow the changes.

        The first event is a snapshot of what there is, unless `since` is given and what happened
        after it is still known; then each change comes as an event, in order, with its revision.
        The iterator never just ends: it raises `WatchEnded` where this watch was cut off, and
        `RegistryUnavailableError` where the connection is lost.

        Args:
            since: The last revision that is known already, from any event but `Compacted`, or
                from a list.
            name: Only what happens to this backend.
            namespace: Only what happens to backends of this namespace.
        """
        params = _given(since=since, name=name, namespace=namespace)
        async with self._exchange.watch(params) as events:
            yield events

    async def _ask(self, verb: str, params: Mapping[str, object], kind: type[E]) -> E:
        """Call a method of the registry, and decode the event that answers it."""
        method = f"registry.{verb}"
        event = decode(await self._exchange.request(method, params), kind, _answer_to(method))
        if isinstance(event, (Change, Pinged)) and event.revision is not None:
            self._note(event.revision)
        return event

    def _note(self, revision: int) -> None:
        self.revision = revision if self.revision is None else max(self.revision, revision)


def _answer_to(method: str) -> str:
    return f"the answer to {method}"


def checked_details(details: Mapping[str, object], known: AbstractSet[str]) -> Mapping[str, object]:
    """Refuse keyword arguments that are no fields, as Python refuses them.

    Raises:
        TypeError: There is one.
    """
    for name in details.keys() - known:
        raise TypeError(f"got an unexpected keyword argument {name!r}")
    return details


def _given(**params: object) -> dict[str, object]:
    return {name: value for name, value in params.items() if value is not None}
