"""A connection to a registry, and `discover`, which opens one itself.

No function takes a timeout; the caller writes `with trio.fail_after(5):`.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from plexus_registry.client import DEFAULT_URL
from plexus_registry.client.exchange import Exchange, decode
from plexus_registry.client.socket import CLOSE_SECONDS, open_socket
from plexus_registry.concurrency import lone_error
from plexus_registry.rules import events
from plexus_registry.rules.backend import AllDetails, Backend, Details
from plexus_registry.rules.errors import NotFound, RegistryUnavailableError, rebuilt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractAsyncContextManager
    from typing import Self, Unpack

    from plexus_registry.client.exchange import WatchEvent
    from plexus_registry.client.socket import ClientSocket

E = TypeVar("E", bound=events.Event)

ANSWER_SECONDS = 5.0
"""How long a registry may take to answer `discover`, or one step of `announce`."""


class Backends(tuple[Backend, ...]):
    """Backends, newest first.

    Attributes:
        revision: The revision of the state that they show; `watch(since=...)` with it brings every
            change after it. It is 0 if the registry is an original one, which has no revisions.
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
    """Connect to a registry at a `ws://` or `wss://` URL; pass a token if it wants one.

    If the connection is lost later, the block goes on, and each call fails. A connection on which
    the registry gives no sign of life for 40 seconds counts as lost.

    Raises:
        UrlError: The URL is not one of a registry.
        ValueError: No header can hold the token.
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
                await exchange.lost.wait()
            nursery.cancel_scope.cancel()


class RegistryClient:
    """A connection to a registry; `connect` makes it.

    Any number of calls may be under way at the same time. Each method raises
    `RegistryUnavailableError` if the connection is lost, and the exception of the error code if the
    registry refuses: `NotFound` if no backend has the name, `InvalidParamsError`, `StorageFailed`
    and so on, and `MethodError` itself for an unknown code.

    Attributes:
        revision: The highest revision of all answers so far; None before the first one.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.revision: int | None = None

    async def get(self, name: str) -> Backend | None:
        """Find a backend by its name; return None if no backend has it."""
        return (await self._ask("get", events.Found, name=name)).backend

    async def list(self, *, active_only: bool = True) -> Backends:
        """List the backends, newest first; inactive ones only with `active_only=False`."""
        listed = await self._ask("list", events.Listed, active_only=active_only)
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
        """Register a backend under a name, and return it as the registry has it then.

        `protocol` is `ws` or `wss`, `source` is `auto` if the backend registers itself, and
        `replace` takes the name even from a live backend. The optional fields, such as
        `description` and `metadata`, are those of the page "methods" in the manual.

        Raises:
            NameTaken: A live backend elsewhere has the name; `data["holder"]` is that backend.
        """
        check_details(details, AllDetails.__optional_keys__)
        address = {"name": name, "host": host, "port": port, "protocol": protocol}
        params = {**address, "source": source, "replace": replace, **details}
        return (await self._ask("register", events.BackendRegistered, **params)).backend

    async def update(
        self,
        name: str,
        *,
        host: str | None = None,
        port: int | None = None,
        protocol: str | None = None,
        **details: Unpack[Details],
    ) -> Backend:
        """Change the given fields, and return the backend as it is then.

        An empty description or namespace clears it.
        """
        check_details(details, Details.__optional_keys__)
        address = {"name": name, "host": host, "port": port, "protocol": protocol}
        return (await self._ask("update", events.BackendUpdated, **address, **details)).backend

    async def delete(self, name: str) -> None:
        """Delete a backend until it is registered again."""
        await self._ask("delete", events.BackendDeleted, name=name)

    async def deregister(self, name: str) -> None:
        """Make a backend inactive; its entry stays."""
        await self._ask("deregister", events.BackendDeregistered, name=name)

    async def ping(self, name: str) -> bool:
        """Report that a backend is alive; return whether the registry knows it."""
        return (await self._ask("ping", events.Pinged, name=name)).success

    async def check(self, name: str) -> events.Checked:
        """Make the registry probe a backend now, and return the result of each step."""
        return await self._ask("check", events.Checked, name=name)

    async def reload(self) -> events.Reloaded:
        """Make the registry read its config file now.

        Raises:
            ConfigInvalid: The file breaks a rule; its former content still counts.
        """
        return await self._ask("reload", events.Reloaded)

    async def history(
        self,
        *,
        name: str | None = None,
        namespace: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> tuple[events.LoggedChange, ...]:
        """Return the last changes, newest first: at most `limit` (100), before a revision.

        With `name` or `namespace`, only changes of such backends are returned. To read on, pass the
        last revision as `before`; there are no more once nothing is returned.
        """
        params = {"name": name, "namespace": namespace, "before": before, "limit": limit}
        return (await self._ask("history", events.ChangeHistory, **params)).changes

    async def call(self, method: str, params: Mapping[str, object]) -> object:
        """Call any method, and return its result as plain JSON values."""
        text = await self._exchange.request(method, params)
        result = decode(text, object, f"the answer to {method}")
        if isinstance(result, dict) and isinstance(result.get("revision"), int):
            self.revision = max(self.revision or 0, result["revision"])
        return result

    async def wait_lost(self) -> None:
        """Wait until the connection is over."""
        await self._exchange.lost.wait()

    def watch(
        self, *, since: int | None = None, name: str | None = None, namespace: str | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Follow the changes.

        The first event is a snapshot of all backends. With `since` there is no snapshot, if the
        registry still has all changes after it. Then each change comes as an event, in order, with
        its revision. The iterator never just ends: it raises `WatchEnded` if this watch was cut
        off, and `RegistryUnavailableError` if the connection is lost.

        `since` is the last revision that the caller has seen: of a list, or of any event but
        `Compacted`. With `name` or `namespace`, only changes of such backends come.
        """
        return self._exchange.watch(_given(since=since, name=name, namespace=namespace))

    async def _ask(self, verb: str, kind: type[E], /, **params: object) -> E:
        method = f"registry.{verb}"
        return decode_answer(await self.call(method, _given(**params)), kind, method)


def decode_answer(answer: object, kind: type[E], method: str) -> E:
    """Decode the event that answers a call.

    The original registry has no revisions: its answers get revision 0. It also reports refusals
    as events.

    Raises:
        MethodError: The answer is such a refusal.
        RegistryUnavailableError: It is not the event: such a peer is no registry.
    """
    match answer:
        case {"type": "error", "message": str(message)}:
            raise rebuilt(-32000, message, None)  # it has no code. JSON-RPC 2.0, section 5.1
        case dict() if issubclass(kind, events.Change):
            answer = {"revision": 0, **answer}
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise RegistryUnavailableError(f"the answer to {method} makes no sense: {error}") from error


def check_details(details: Mapping[str, object], known: AbstractSet[str]) -> None:
    """Check that keyword arguments are fields.

    Raises:
        TypeError: One of them is not, as Python raises it for a function.
    """
    for name in details.keys() - known:
        raise TypeError(f"got an unexpected keyword argument {name!r}")


def _given(**params: object) -> dict[str, object]:
    return {name: value for name, value in params.items() if value is not None}


@contextmanager
def answered_in_time(deadline: float | None = None) -> Iterator[trio.CancelScope]:
    """Run a block that must be done by a deadline, by default within `ANSWER_SECONDS`.

    Raises:
        RegistryUnavailableError: It is not.
    """
    try:
        with trio.fail_at(deadline or trio.current_time() + ANSWER_SECONDS) as scope:
            yield scope
    except trio.TooSlowError as error:
        raise RegistryUnavailableError(f"no answer within {ANSWER_SECONDS:g} seconds") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """The result of `discover`.

    Attributes:
        url: The URL of the backend.
        backend: The whole entry; `is_active` tells whether the backend gives signs of life.
        is_stale: Whether the registry did not answer, so that this is an earlier answer.
        as_of: The time of the answer, in Unix seconds.
    """

    url: str
    backend: Backend
    is_stale: bool
    as_of: int


_LAST_KNOWN: dict[tuple[str, str], Discovered] = {}


async def discover(
    url: str,
    name: str,
    *,
    token: str | None = None,
    last_known: MutableMapping[tuple[str, str], Discovered] = _LAST_KNOWN,
) -> Discovered:
    """Find a backend by its name, even while the registry does not answer.

    If it does not answer within `ANSWER_SECONDS`, its last answer is returned. The answers are
    remembered in `last_known`, by URL and name; by default for this process.

    Raises:
        NotFound: The registry says that no backend has the name; earlier answers are forgotten.
        RegistryUnavailableError: It does not answer, and no answer is remembered.
        UrlError: The URL is not one of a registry.
    """
    try:
        with answered_in_time() as scope:
            async with connect(url, token=token) as client:
                backend = await client.get(name)
                scope.deadline = float("inf")  # an answer that came in time counts
    except RegistryUnavailableError:
        remembered = last_known.get((url, name))
        if remembered is None:
            raise
        return replace(remembered, is_stale=True)
    if backend is None:
        last_known.pop((url, name), None)
        raise NotFound(name)
    found = Discovered(url=backend.url, backend=backend, is_stale=False, as_of=int(time.time()))
    last_known[url, name] = found
    return found
