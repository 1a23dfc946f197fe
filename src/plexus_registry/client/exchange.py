"""Calls and watches over one WebSocket.

Theory of operation. Calls are numbered and queued in the socket; one task reads all messages and
settles the calls that wait for them. A cancelled call stays known until its answer has come, which
is then dropped: answers come in order, and an error without an id belongs to the oldest call. Once
the connection is lost, all calls fail, those that wait and those that are made later.

A registry may be newer than its client: members and kinds of events that are unknown here are
ignored.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, get_args

import msgspec
import trio

from plexus_registry.rules import events
from plexus_registry.rules.backend import Backend
from plexus_registry.rules.errors import (
    InvalidParamsError,
    RegistryUnavailableError,
    WatchEnded,
    rebuilt,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from plexus_registry.client.socket import ClientSocket
    from plexus_registry.rules.errors import CallError

log = logging.getLogger(__name__)

T = TypeVar("T")

WatchEvent = (
    events.Snapshot
    | events.BackendRegistered
    | events.BackendUpdated
    | events.BackendStale
    | events.BackendActive
    | events.BackendDeleted
    | events.Reloaded
    | events.Compacted
)
_KINDS: dict[object, type[WatchEvent | events.Ended]] = {
    kind.__struct_config__.tag: kind for kind in (*get_args(WatchEvent), events.Ended)
}

BUFFERED_EVENTS = 16_384
"""How many events of one watch may wait for its reader; with more, the watch is cut off.

A watch that begins with `since` may get all changes that a registry keeps (10,000) at once. That
is no reason to cut off a reader that takes them one by one.
"""


class ErrorObject(msgspec.Struct, frozen=True):
    """The error of a call. Source: JSON-RPC 2.0, section 5.1."""

    code: int
    message: str
    data: object = None


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


def _exception(error: ErrorObject) -> CallError:
    data = dict(error.data) if isinstance(error.data, dict) else {}
    if "holder" in data:
        with suppress(msgspec.ValidationError):  # it stays as it came
            data["holder"] = msgspec.convert(data["holder"], Backend)
    return rebuilt(error.code, error.message, data)


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

    def put(self, event: WatchEvent) -> bool:
        """Hand an event to the reader; return whether there was room for it."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            waiting = f"{BUFFERED_EVENTS} events wait to be read"
            self.end(WatchEnded(f"the watch is cut off: {waiting}", "too_slow", self._revision))
            return False
        if not isinstance(event, events.Compacted):  # what is missing is in the snapshot after it
            self._revision = event.revision
        return True

    def close(self) -> None:
        """Drop the events; a reader that waits gets `trio.ClosedResourceError`."""
        self._receive.close()

    def end(self, error: RegistryUnavailableError | WatchEnded) -> None:
        """Raise an error for the reader once it has read all events."""
        self._end = error
        self._send.close()


@dataclass(slots=True, eq=False)
class PendingCall:
    """A request that has no answer yet, or whose answer was not fetched yet.

    It is done once there is an answer, or the connection is lost. `stream` gets the events of the
    watch that it begins, if it begins one.
    """

    stream: EventStream | None = None
    done: trio.Event = field(default_factory=trio.Event)
    answer: Message | None = None
    is_abandoned: bool = False


class Exchange:
    """The calls and watches of one connection; `read_until_lost` runs beside it.

    Attributes:
        lost: Set once the connection is over.
    """

    def __init__(self, socket: ClientSocket) -> None:
        self.lost = trio.Event()
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, PendingCall] = {}
        self._streams: dict[int, EventStream] = {}
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
        stream = EventStream()
        await self._settled(self._post("registry.watch", params, stream))
        try:
            yield stream
        finally:
            self._unwatch(stream)
            stream.close()

    async def read_until_lost(self) -> None:
        """Settle calls and hand events to their readers until the connection is over."""
        try:
            while True:
                self._take(await self._socket.receive())
        except RegistryUnavailableError as error:
            self._lose(str(error))

    def _post(self, method: str, params: object, stream: EventStream | None = None) -> PendingCall:
        if self.lost.is_set():
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
        self._waiting[number] = call = PendingCall(stream)
        return call

    async def _settled(self, call: PendingCall) -> msgspec.Raw:
        try:
            await call.done.wait()
        except trio.Cancelled:
            call.is_abandoned = True
            if call.stream is not None:
                self._unwatch(call.stream)
            raise
        if call.answer is None:
            raise RegistryUnavailableError(self._loss)
        if call.answer.error is not None:
            raise _exception(call.answer.error)
        return call.answer.result

    def _lose(self, why: str) -> None:
        log.debug("connection is over: %s", why)
        self._loss = why
        self.lost.set()
        self._socket.close()
        for call in self._waiting.values():
            call.done.set()
        self._waiting.clear()
        for stream in self._streams.values():
            stream.end(RegistryUnavailableError(why))
        self._streams.clear()

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
        if call.stream is not None and message.error is None:
            # Now, because the next message may be its first event.
            call.stream.subscription = decode(message.result, int, "the answer to registry.watch")
            self._streams[call.stream.subscription] = call.stream
            if call.is_abandoned:
                self._unwatch(call.stream)
        del self._waiting[number]
        call.answer = message
        call.done.set()

    def _take_event(self, params: msgspec.Raw) -> None:
        item = decode(params, Item, "an event")
        stream = self._streams.get(item.subscription)
        if stream is None:
            return
        kind = _KINDS.get(decode(item.result, _Tagged, "an event").type)
        if kind is None:
            return
        event = decode(item.result, kind, "an event")
        if isinstance(event, events.Ended):
            stream.end(WatchEnded(event.message, event.code, event.revision))
            self._unwatch(stream)
        elif not stream.put(event):
            self._unwatch(stream)

    def _unwatch(self, stream: EventStream) -> None:
        """End a subscription; events that are still on their way are dropped."""
        number = stream.subscription
        if number is None or self._streams.pop(number, None) is None:
            return
        try:
            self._post("registry.unwatch", [number]).is_abandoned = True
        except RegistryUnavailableError:
            log.debug("watch ended with its connection")
