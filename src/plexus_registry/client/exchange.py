"""Calls and watches over one WebSocket.

Theory of operation. Calls are numbered and queued in the socket; one task reads all messages and
settles the calls that wait for them. A cancelled call stays known until its answer has come, which
is then dropped: answers come in order, and an error without an id belongs to the oldest call. Once
the connection is lost, all calls fail, those that wait and those that are made later.

Members that are unknown here are ignored: a registry may be newer than its client.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar, get_args

import msgspec
import trio

from plexus_registry.rules.backend import Backend
from plexus_registry.rules.errors import (
    InvalidParamsError,
    RegistryUnavailableError,
    WatchEnded,
    rebuilt,
    shown,
)
from plexus_registry.rules.events import (
    BackendActive,
    BackendDeleted,
    BackendRegistered,
    BackendStale,
    BackendUpdated,
    Compacted,
    Ended,
    Reloaded,
    Snapshot,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from plexus_registry.client.socket import ClientSocket
    from plexus_registry.rules.errors import CallError

log = logging.getLogger(__name__)

T = TypeVar("T")

WatchEvent = (
    Snapshot
    | BackendRegistered
    | BackendUpdated
    | BackendStale
    | BackendActive
    | BackendDeleted
    | Reloaded
    | Compacted
)
_KINDS: dict[object, type[WatchEvent | Ended]] = {
    kind.__struct_config__.tag: kind for kind in (*get_args(WatchEvent), Ended)
}

BUFFERED_EVENTS = 16_384
"""How many events of one watch may wait for its reader; with more, the watch is cut off.

A watch that begins with `since` may get all changes that a registry keeps (10,000) at once. That
is no reason to cut off a reader that takes them one by one.
"""


class _Tagged(msgspec.Struct):
    type: str


def decode(text: str | msgspec.Raw, kind: type[T], what: str) -> T:
    """Decode a text that the registry sent; `what` names it in the error.

    Raises:
        RegistryUnavailableError: It is of another type, or nested too deep: such a peer is no
            registry.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RegistryUnavailableError(f"{what} makes no sense: {error}") from error


def _decode_event(text: msgspec.Raw) -> WatchEvent | WatchEnded | None:
    """Decode an event of a watch, or its end; return None for a kind of a newer registry.

    Raises:
        RegistryUnavailableError: It is no event, or a member that its kind needs is missing.
    """
    kind = _KINDS.get(decode(text, _Tagged, "an event").type)
    if kind is None:
        return None
    event = decode(text, kind, "an event")
    if isinstance(event, Ended):
        return WatchEnded(event.message, event.code, event.revision)
    return event


class ErrorObject(msgspec.Struct, frozen=True):
    """The error of a call. Source: JSON-RPC 2.0, section 5.1."""

    code: int
    message: str
    data: object = None

    def exception(self) -> CallError:
        """Make the exception of its code."""
        data = dict(self.data) if isinstance(self.data, dict) else {}
        if "holder" in data:
            with suppress(msgspec.ValidationError):  # it stays as it came
                data["holder"] = msgspec.convert(data["holder"], Backend)
        return rebuilt(self.code, self.message, data)


class Message(msgspec.Struct, frozen=True):
    """A message of the registry: an answer, or a notification, which has a method."""

    id: object = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorObject | None = None


class Item(msgspec.Struct, frozen=True):
    """An event, and the number of its subscription."""

    subscription: int
    result: msgspec.Raw


class EventStream:
    """The events of one watch, for one reader.

    Attributes:
        subscription: The number of the watch on the connection; None until it is known.
    """

    def __init__(self) -> None:
        self.subscription: int | None = None
        self._send, self._receive = trio.open_memory_channel[WatchEvent](BUFFERED_EVENTS)
        self._revision: int | None = None
        self._end: RegistryUnavailableError | WatchEnded = RegistryUnavailableError("not begun")

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> WatchEvent:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise self._end from None

    def put(self, event: WatchEvent | WatchEnded) -> bool:
        """Hand an event to the reader; return whether more may come."""
        if isinstance(event, WatchEnded):
            self.end(event)
            return False
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            waiting = f"{BUFFERED_EVENTS} events wait to be read"
            self.end(WatchEnded(f"the watch is cut off: {waiting}", "too_slow", self._revision))
            return False
        if not isinstance(event, Compacted):  # the missing changes are in the snapshot after it
            self._revision = event.revision
        return True

    def close(self) -> None:
        """Drop the events; a reader that waits gets `trio.ClosedResourceError`."""
        self._receive.close()

    def end(self, error: RegistryUnavailableError | WatchEnded) -> None:
        """Raise an error for the reader once it has read all events."""
        self._end = error
        self._send.close()


class PendingCall:
    """A request that has no answer yet, or whose answer was not fetched yet."""

    __slots__ = ("answer", "done", "events", "is_abandoned")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Message | None = None
        self.events: EventStream | None = None
        self.is_abandoned = False


class Exchange:
    """The calls and watches of one connection; `read_until_lost` runs beside it."""

    def __init__(self, socket: ClientSocket) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, PendingCall] = {}
        self._event_streams: dict[int, EventStream] = {}
        self._over = trio.Event()
        self._loss = ""

    async def request(self, method: str, params: Mapping[str, object]) -> msgspec.Raw:
        """Call a method, and wait for its result.

        Raises:
            InvalidParamsError: The parameters are not JSON, or the registry refuses them.
            CallError: The registry refuses.
            RegistryUnavailableError: The connection is lost.
        """
        return await self._settled(self._post(method, params))

    @asynccontextmanager
    async def watch(self, params: Mapping[str, object]) -> AsyncIterator[EventStream]:
        """Begin a watch, and end it after the block; the errors are those of `request`."""
        events = EventStream()
        call = self._post("registry.watch", params)
        call.events = events
        await self._settled(call)
        try:
            yield events
        finally:
            self._unwatch(events)
            events.close()

    async def wait_lost(self) -> None:
        """Wait until the connection is over."""
        await self._over.wait()

    async def read_until_lost(self) -> None:
        """Settle calls and hand events to their readers until the connection is over."""
        try:
            while True:
                self._take(await self._socket.receive())
        except RegistryUnavailableError as error:
            self._lose(str(error))

    def _post(self, method: str, params: object) -> PendingCall:
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
        self._waiting[number] = call = PendingCall()
        return call

    async def _settled(self, call: PendingCall) -> msgspec.Raw:
        try:
            await call.done.wait()
        except trio.Cancelled:
            call.is_abandoned = True
            if call.events is not None:
                self._unwatch(call.events)
            raise
        if call.answer is None:
            raise RegistryUnavailableError(self._loss)
        if call.answer.error is not None:
            raise call.answer.error.exception()
        return call.answer.result

    def _lose(self, why: str) -> None:
        log.debug("connection is over: %s", why)
        self._loss = why
        self._over.set()
        self._socket.close()
        for call in self._waiting.values():
            call.done.set()
        self._waiting.clear()
        for events in self._event_streams.values():
            events.end(RegistryUnavailableError(why))
        self._event_streams.clear()

    def _take(self, text: str) -> None:
        message = decode(text, Message, "what the peer sends")
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
        if call.events is not None and message.error is None:
            self._begin(call, call.events, message.result)
        del self._waiting[number]
        call.answer = message
        call.done.set()

    def _begin(self, call: PendingCall, events: EventStream, result: msgspec.Raw) -> None:
        """Register an event stream now: the next message may be its first event."""
        events.subscription = decode(result, int, "the answer to registry.watch")
        self._event_streams[events.subscription] = events
        if call.is_abandoned:
            self._unwatch(events)

    def _take_event(self, params: msgspec.Raw) -> None:
        item = decode(params, Item, "an event")
        events = self._event_streams.get(item.subscription)
        if events is None:
            return
        event = _decode_event(item.result)
        if event is not None and not events.put(event):
            self._unwatch(events)

    def _unwatch(self, events: EventStream) -> None:
        """End a subscription; events that are still on their way are dropped."""
        if (
            events.subscription is None
            or self._event_streams.pop(events.subscription, None) is None
        ):
            return
        try:
            self._post("registry.unwatch", [events.subscription]).is_abandoned = True
        except RegistryUnavailableError:
            log.debug("watch ended with its connection")
