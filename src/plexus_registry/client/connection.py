"""The client library: one connection to a registry, for any number of calls and watches.

It needs Trio, and nothing else runs it: a program on asyncio has to speak JSON-RPC itself.
Nothing here takes a timeout; the caller writes `with trio.fail_after(5):`.

Theory of operation. Calls are numbered and queued in the socket; one task reads all that comes
and settles what waits for it. A call that is cancelled stays known until its answer came, which
is then dropped: answers come in order, and an error without an id belongs to the oldest call.
Once the connection is lost, whatever waits fails, and so does whatever is asked later.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from plexus_registry.client import DEFAULT_URL
from plexus_registry.client.events import decode_watch_event
from plexus_registry.client.feed import Feed
from plexus_registry.client.replies import (
    Backends,
    Checked,
    Found,
    Held,
    Item,
    Listed,
    Message,
    Pinged,
    Reloaded,
    Reply,
    decode,
    decode_message,
    senseless,
)
from plexus_registry.client.socket import CLOSE_SECONDS, open_socket
from plexus_registry.core.errors import InvalidParamsError, RegistryUnavailableError, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from plexus_registry.client.events import WatchEvent
    from plexus_registry.client.socket import ClientSocket
    from plexus_registry.core.model import Backend

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Reply)


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
    """Keep a client running on an open WebSocket, and say goodbye after."""
    client = RegistryClient(socket)
    with ungrouped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.send_forever)
            nursery.start_soon(socket.hang_up_if_silent)
            nursery.start_soon(client._read_until_lost)  # noqa: SLF001 - ours
            yield client
            socket.close()
            with trio.move_on_after(CLOSE_SECONDS):
                await client.wait_lost()
            nursery.cancel_scope.cancel()


@contextmanager
def ungrouped() -> Iterator[None]:
    """Take the group of a nursery off the one error inside; a group of the block's own stays.

    A cancellation beside the error is left out, as it is where no nursery is: the scope that
    asked for it sees the error instead.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)
        if errors is not None and len(errors.exceptions) > 1:
            raise errors from None
        lone = _first(group) if errors is None else errors.exceptions[0]
    else:
        return
    raise lone


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class RegistryClient:
    """A connection to a registry; `connect` makes it.

    Every call may be made while others are under way. Beside what each says of itself, every one
    raises `RegistryUnavailableError` where the connection is lost, the exception of the error
    code where the registry refuses (`InvalidParamsError`, `StorageFailed`, ...), and
    `MethodError` itself for a code that is not known here.
    """

    def __init__(self, socket: ClientSocket) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Call] = {}
        self._feeds: dict[int, Feed] = {}
        self._over = trio.Event()
        self._loss = ""
        self.revision: int | None = None

    async def get(self, name: str) -> Backend | None:
        """Find a backend by its name; None where there is none."""
        return (await self._ask("registry.get", {"name": name}, Found)).backend

    async def list(self, *, active_only: bool = True) -> Backends:
        """List the backends, newest first; inactive ones only where they are asked for.

        Returns:
            The backends as a tuple that has the `revision` of that state, too.
        """
        params = {"active_only": active_only}
        listed = await self._ask("registry.list", params, Listed)
        return Backends(listed.backends, listed.revision)

    async def register(
        self,
        name: str,
        host: str,
        port: int,
        protocol: str = "ws",
        *,
        description: str | None = None,
        namespace: str | None = None,
        version: str | None = None,
        metadata: Mapping[str, object] | None = None,
        source: str = "manual",
        replace: bool = False,
    ) -> Backend:
        """Register a backend under a name.

        Args:
            name: The name to claim.
            host: The host that it listens on.
            port: The port that it listens on.
            protocol: How to connect to it: `ws` or `wss`.
            description: What it is, for people.
            namespace: The Plexus namespace that it serves.
            version: The backend's own version.
            metadata: Anything more that JSON can hold; it comes back as JSON text.
            source: `auto` where the backend registers itself.
            replace: Whether to take the name even from a live backend.

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
            description=description,
            namespace=namespace,
            version=version,
            metadata=metadata,
            source=source,
            replace=replace,
        )
        return (await self._ask("registry.register", params, Held)).backend

    async def update(
        self,
        name: str,
        *,
        host: str | None = None,
        port: int | None = None,
        protocol: str | None = None,
        description: str | None = None,
        namespace: str | None = None,
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
            description=description,
            namespace=namespace,
        )
        return (await self._ask("registry.update", params, Held)).backend

    async def delete(self, name: str) -> None:
        """Make a name not exist until it is registered again.

        Raises:
            NotFound: No backend has the name.
        """
        await self._ask("registry.delete", {"name": name}, Reply)

    async def deregister(self, name: str) -> None:
        """Say goodbye for a backend: its entry stays, inactive.

        Raises:
            NotFound: No backend has the name.
        """
        await self._ask("registry.deregister", {"name": name}, Reply)

    async def ping(self, name: str) -> bool:
        """Give a sign of life for a backend, and tell whether the registry knows it."""
        return (await self._ask("registry.ping", {"name": name}, Pinged)).success

    async def check(self, name: str) -> Checked:
        """Have the registry probe a backend now, and tell step by step what came out.

        Raises:
            NotFound: No backend has the name.
        """
        return await self._ask("registry.check", {"name": name}, Checked)

    async def reload(self) -> Reloaded:
        """Have the config file read now.

        Raises:
            ConfigInvalid: It breaks a rule, and what it stated before still holds.
        """
        return await self._ask("registry.reload", {}, Reloaded)

    async def call(self, method: str, params: Mapping[str, object]) -> object:
        """Call any method, and give its result as plain JSON values."""
        result = decode(await self._request(method, params), object, f"the answer to {method}")
        if isinstance(result, dict) and isinstance(result.get("revision"), int):
            self._note(result["revision"])
        return result

    async def wait_lost(self) -> None:
        """Wait until the connection is over."""
        await self._over.wait()

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
        feed = Feed()
        call = self._post("registry.watch", _given(since=since, name=name, namespace=namespace))
        call.feed = feed
        await self._settled(call)
        try:
            yield feed
        finally:
            self._unwatch(feed)
            feed.close()

    async def _ask(self, method: str, params: Mapping[str, object], kind: type[R]) -> R:
        """Call a method, and read its result as a record."""
        reply = decode(await self._request(method, params), kind, f"the answer to {method}")
        if reply.revision is not None:
            self._note(reply.revision)
        return reply

    def _note(self, revision: int) -> None:
        self.revision = revision if self.revision is None else max(self.revision, revision)

    async def _request(self, method: str, params: Mapping[str, object]) -> msgspec.Raw:
        return await self._settled(self._post(method, params))

    def _post(self, method: str, params: object) -> _Call:
        if self._over.is_set():
            raise RegistryUnavailableError(self._loss)
        number = next(self._ids)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        try:
            text = msgspec.json.encode(request).decode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidParamsError(
                f"Parameters of {method} are no JSON: {error}", problem="malformed"
            ) from error
        self._socket.post(text)
        self._waiting[number] = call = _Call()
        return call

    async def _settled(self, call: _Call) -> msgspec.Raw:
        try:
            await call.done.wait()
        except trio.Cancelled:
            call.is_abandoned = True
            if call.feed is not None:
                self._unwatch(call.feed)
            raise
        if call.answer is None:
            raise RegistryUnavailableError(self._loss)
        if call.answer.error is not None:
            raise call.answer.error.exception()
        return call.answer.result

    async def _read_until_lost(self) -> None:
        try:
            while True:
                self._take(await self._socket.receive())
        except RegistryUnavailableError as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        log.debug("connection is over: %s", why)
        self._loss = why
        self._over.set()
        self._socket.close()
        for call in self._waiting.values():
            call.done.set()
        self._waiting.clear()
        for feed in self._feeds.values():
            feed.end(RegistryUnavailableError(why))
        self._feeds.clear()

    def _take(self, text: str) -> None:
        try:
            message = decode_message(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise senseless("what the peer sends", error) from error
        if message.method is not None:
            if message.method == "registry.event":
                self._take_event(message.params)
            return
        number = message.id
        if number is None and message.error is not None:
            number = next(iter(self._waiting), None)  # the registry could not read our id
        call = self._waiting.get(number) if isinstance(number, int) else None
        if call is None or not isinstance(number, int):
            log.debug("answer to nothing: %s", shown(text))
            return
        if call.feed is not None and message.error is None:
            self._begin(call, call.feed, message.result)
        del self._waiting[number]
        call.answer = message
        call.done.set()

    def _begin(self, call: _Call, feed: Feed, result: msgspec.Raw) -> None:
        """Open a feed before the next message is read: it may be the first event."""
        feed.subscription = decode(result, int, "the answer to registry.watch")
        self._feeds[feed.subscription] = feed
        if call.is_abandoned:
            self._unwatch(feed)

    def _take_event(self, params: msgspec.Raw) -> None:
        item = decode(params, Item, "an event")
        feed = self._feeds.get(item.subscription)
        if feed is None:
            return
        try:
            event = decode_watch_event(item.result)
        except (msgspec.DecodeError, RecursionError) as error:
            raise senseless("an event", error) from error
        if event is not None and not feed.put(event):
            self._unwatch(feed)

    def _unwatch(self, feed: Feed) -> None:
        """End a subscription; what is still on its way is dropped."""
        if feed.subscription is None or self._feeds.pop(feed.subscription, None) is None:
            return
        try:
            self._post("registry.unwatch", [feed.subscription]).is_abandoned = True
        except RegistryUnavailableError:
            log.debug("watch ended with its connection")


class _Call:
    """A request that has no answer yet, or whose answer was not fetched yet."""

    __slots__ = ("answer", "done", "feed", "is_abandoned")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Message | None = None
        self.feed: Feed | None = None
        self.is_abandoned = False


def _given(**params: object) -> dict[str, object]:
    return {name: value for name, value in params.items() if value is not None}
