"""Calls and their answers over one WebSocket, and the events of its watches.

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
from typing import TYPE_CHECKING

import msgspec
import trio

from plexus_registry.client.watch import EventStream, decode, decode_watch_event
from plexus_registry.rules.backend import Backend
from plexus_registry.rules.errors import (
    InvalidParamsError,
    RegistryUnavailableError,
    rebuilt,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from plexus_registry.client.socket import ClientSocket
    from plexus_registry.rules.errors import CallError

log = logging.getLogger(__name__)


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
        event = decode_watch_event(item.result)
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
