"""Calls and their answers over one WebSocket, and the events of its watches.

Theory of operation. Calls are numbered and queued in the socket; one task reads all that comes
and settles what waits for it. A call that is cancelled stays known until its answer came, which
is then dropped: answers come in order, and an error without an id belongs to the oldest call.
Once the connection is lost, whatever waits fails, and so does whatever is asked later.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from plexus_registry.client.events import decode_watch_event
from plexus_registry.client.replies import Item, Message, decode, decode_message, senseless
from plexus_registry.client.socket import CLOSE_SECONDS
from plexus_registry.client.watch import EventStream
from plexus_registry.concurrency import lone_error
from plexus_registry.rules.errors import InvalidParamsError, RegistryUnavailableError, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from plexus_registry.client.socket import ClientSocket

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_exchange(socket: ClientSocket) -> AsyncIterator[Exchange]:
    """Exchange messages on an open WebSocket, and say goodbye after."""
    exchange = Exchange(socket)
    with lone_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.send_forever)
            nursery.start_soon(socket.hang_up_if_silent)
            nursery.start_soon(exchange.read_until_lost)
            yield exchange
            socket.close()
            with trio.move_on_after(CLOSE_SECONDS):
                await exchange.wait_lost()
            nursery.cancel_scope.cancel()


class Exchange:
    """What is asked and answered on one connection; `read_until_lost` runs beside it."""

    def __init__(self, socket: ClientSocket) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, _PendingCall] = {}
        self._event_streams: dict[int, EventStream] = {}
        self._over = trio.Event()
        self._loss = ""

    async def request(self, method: str, params: Mapping[str, object]) -> msgspec.Raw:
        """Call a method, and wait for its result.

        Raises:
            InvalidParamsError: The parameters are no JSON, or the registry refuses them.
            MethodError: The registry refuses.
            RegistryUnavailableError: The connection is lost.
        """
        return await self._settled(self._post(method, params))

    @asynccontextmanager
    async def watch(self, params: Mapping[str, object]) -> AsyncIterator[EventStream]:
        """Begin a watch, and end it after the block; it raises what `request` raises."""
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
        """Settle what is answered, and hand events on, until the connection is over."""
        try:
            while True:
                self._take(await self._socket.receive())
        except RegistryUnavailableError as error:
            self._lose(str(error))

    def _post(self, method: str, params: object) -> _PendingCall:
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
        self._waiting[number] = call = _PendingCall()
        return call

    async def _settled(self, call: _PendingCall) -> msgspec.Raw:
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
        if call.events is not None and message.error is None:
            self._begin(call, call.events, message.result)
        del self._waiting[number]
        call.answer = message
        call.done.set()

    def _begin(self, call: _PendingCall, events: EventStream, result: msgspec.Raw) -> None:
        """Register an event stream before the next message is read: it may be its first event."""
        events.subscription = decode(result, int, "the answer to registry.watch")
        self._event_streams[events.subscription] = events
        if call.is_abandoned:
            self._unwatch(events)

    def _take_event(self, params: msgspec.Raw) -> None:
        item = decode(params, Item, "an event")
        events = self._event_streams.get(item.subscription)
        if events is None:
            return
        try:
            event = decode_watch_event(item.result)
        except (msgspec.DecodeError, RecursionError) as error:
            raise senseless("an event", error) from error
        if event is not None and not events.put(event):
            self._unwatch(events)

    def _unwatch(self, events: EventStream) -> None:
        """End a subscription; what is still on its way is dropped."""
        if (
            events.subscription is None
            or self._event_streams.pop(events.subscription, None) is None
        ):
            return
        try:
            self._post("registry.unwatch", [events.subscription]).is_abandoned = True
        except RegistryUnavailableError:
            log.debug("watch ended with its connection")


class _PendingCall:
    """A request that has no answer yet, or whose answer was not fetched yet."""

    __slots__ = ("answer", "done", "events", "is_abandoned")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Message | None = None
        self.events: EventStream | None = None
        self.is_abandoned = False
