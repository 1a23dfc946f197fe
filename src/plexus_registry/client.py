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
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from plexus_registry.client_events import WatchEvent, decode_watch_event
from plexus_registry.client_socket import CLOSE_SECONDS, open_socket
from plexus_registry.core.errors import (
    InvalidParamsError,
    RegistryUnavailableError,
    WatchEnded,
    rebuilt,
    shown,
)
from plexus_registry.core.events import Reloaded
from plexus_registry.core.model import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from plexus_registry.client_socket import ClientSocket
    from plexus_registry.core.errors import MethodError, ProtocolError

log = logging.getLogger(__name__)

DEFAULT_URL = "ws://127.0.0.1:4445"
BUFFERED_EVENTS = 1024
"""How many events of one watch wait for its reader before it is cut off."""

T = TypeVar("T")


@asynccontextmanager
async def connect(
    url: str = DEFAULT_URL, *, token: str | None = None
) -> AsyncIterator[RegistryClient]:
    """Connect to a registry.

    A connection that is lost later does not end the block: what is asked then fails.

    Args:
        url: Where it is, `ws://` or `wss://`.
        token: What proves who is asking, where the registry wants that.

    Raises:
        UrlError: The URL is none.
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
            nursery.start_soon(client._read_until_lost)  # noqa: SLF001 - ours
            yield client
            socket.close()
            with trio.move_on_after(CLOSE_SECONDS):
                await client.wait_lost()
            nursery.cancel_scope.cancel()


@contextmanager
def ungrouped() -> Iterator[None]:
    """Take the group off the one error of a nursery inside; a group of the block's own stays."""
    lone: BaseException
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        lone = group.exceptions[0]
    else:
        return
    raise lone


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
        self._feeds: dict[int, _Feed] = {}
        self._over = trio.Event()
        self._loss = ""

    async def get(self, name: str) -> Backend | None:
        """Find a backend by its name; None where there is none."""
        return (await self._ask("registry.get", {"name": name}, _Found)).backend

    async def list(self, *, active_only: bool = True) -> tuple[Backend, ...]:
        """List the backends, newest first; inactive ones only where they are asked for."""
        params = {"active_only": active_only}
        return (await self._ask("registry.list", params, _Listed)).backends

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
        return (await self._ask("registry.register", params, _Held)).backend

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
        return (await self._ask("registry.update", params, _Held)).backend

    async def delete(self, name: str) -> None:
        """Make a name not exist until it is registered again.

        Raises:
            NotFound: No backend has the name.
        """
        await self._ask("registry.delete", {"name": name}, _Nothing)

    async def deregister(self, name: str) -> None:
        """Say goodbye for a backend: its entry stays, inactive.

        Raises:
            NotFound: No backend has the name.
        """
        await self._ask("registry.deregister", {"name": name}, _Nothing)

    async def ping(self, name: str) -> bool:
        """Give a sign of life for a backend, and tell whether the registry knows it."""
        return (await self._ask("registry.ping", {"name": name}, _Pinged)).success

    async def reload(self) -> Reloaded:
        """Have the config file read now.

        Raises:
            ConfigInvalid: It breaks a rule, and what it stated before still holds.
        """
        return await self._ask("registry.reload", {}, Reloaded)

    async def call(self, method: str, params: Mapping[str, object]) -> object:
        """Call any method, and give its result as plain JSON values."""
        result: object = msgspec.json.decode(await self._request(method, params))
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
            since: The last revision that is known already.
            name: Only what happens to this backend.
            namespace: Only what happens to backends of this namespace.
        """
        feed = _Feed()
        call = self._post("registry.watch", _given(since=since, name=name, namespace=namespace))
        call.feed = feed
        await self._settled(call)
        try:
            yield feed
        finally:
            self._unwatch(feed)
            feed.close()

    async def _ask(self, method: str, params: Mapping[str, object], kind: type[T]) -> T:
        """Call a method, and read its result as a record."""
        try:
            return msgspec.json.decode(await self._request(method, params), type=kind)
        except msgspec.ValidationError as error:
            raise RegistryUnavailableError(f"the answer to {method} makes no sense: {error}") from (
                error
            )

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
            raise _refusal(call.answer.error)
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
        for call in self._waiting.values():
            call.done.set()
        self._waiting.clear()
        for feed in self._feeds.values():
            feed.end(RegistryUnavailableError(why))
        self._feeds.clear()

    def _take(self, text: str) -> None:
        try:
            message = _decode_message(text)
        except msgspec.DecodeError as error:
            raise RegistryUnavailableError(f"the peer is no registry: {error}") from error
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

    def _begin(self, call: _Call, feed: _Feed, result: msgspec.Raw) -> None:
        """Open a feed before the next message is read: it may be the first event."""
        try:
            feed.subscription = msgspec.json.decode(result, type=int)
        except msgspec.ValidationError as error:
            raise RegistryUnavailableError(f"no subscription number: {error}") from error
        self._feeds[feed.subscription] = feed
        if call.is_abandoned:
            self._unwatch(feed)

    def _take_event(self, params: msgspec.Raw) -> None:
        try:
            item = msgspec.json.decode(params, type=_Item)
            feed = self._feeds.get(item.subscription)
            event = None if feed is None else decode_watch_event(item.result)
        except msgspec.DecodeError as error:
            raise RegistryUnavailableError(f"an event makes no sense: {error}") from error
        if feed is None or event is None:
            return
        if not feed.put(event):
            self._unwatch(feed)

    def _unwatch(self, feed: _Feed) -> None:
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
        self.answer: _Message | None = None
        self.feed: _Feed | None = None
        self.is_abandoned = False


class _Feed:
    """The events of one watch, for one reader."""

    def __init__(self) -> None:
        self.subscription: int | None = None
        self._send, self._receive = trio.open_memory_channel[WatchEvent](BUFFERED_EVENTS)
        self._revision: int | None = None
        self._end: RegistryUnavailableError | WatchEnded = RegistryUnavailableError("not begun")

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> WatchEvent:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise self._end from None

    def put(self, event: WatchEvent | WatchEnded) -> bool:
        """Hand an event on, and tell whether more may come."""
        if isinstance(event, WatchEnded):
            self.end(event)
            return False
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            waiting = f"{BUFFERED_EVENTS} events wait to be read"
            self.end(WatchEnded(f"the watch is cut off: {waiting}", "too_slow", self._revision))
            return False
        self._revision = event.revision
        return True

    def close(self) -> None:
        """Let nobody wait for more."""
        self._receive.close()

    def end(self, error: RegistryUnavailableError | WatchEnded) -> None:
        """Let the reader have what is there, and then the error."""
        self._end = error
        self._send.close()


class _Error(msgspec.Struct):
    code: int
    message: str
    data: object = None


class _Message(msgspec.Struct):
    """Whatever the registry sends: an answer, or a notification, which has a method."""

    id: object = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


class _Item(msgspec.Struct):
    subscription: int
    result: msgspec.Raw


class _Found(msgspec.Struct):
    backend: Backend | None


class _Held(msgspec.Struct):
    backend: Backend


class _Listed(msgspec.Struct):
    backends: tuple[Backend, ...]


class _Pinged(msgspec.Struct):
    success: bool


class _Nothing(msgspec.Struct):
    pass


_decode_message = msgspec.json.Decoder(_Message).decode


def _given(**params: object) -> dict[str, object]:
    return {name: value for name, value in params.items() if value is not None}


def _refusal(error: _Error) -> ProtocolError | MethodError:
    data = dict(error.data) if isinstance(error.data, dict) else {}
    if "holder" in data:
        with suppress(msgspec.ValidationError):  # it stays as it came
            data["holder"] = msgspec.convert(data["holder"], Backend)
    return rebuilt(error.code, error.message, data)
