"""Carries out the requests of a frame, and makes the frames that answer it.

Every request with an id is answered: errors of the caller as JSON-RPC errors, refusals of a method
with their own codes, and a bug of the registry as -32603 with a traceback in the log. A call
through the hub is acknowledged first; its items follow the response of its frame.
"""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack, nullcontext
from typing import TYPE_CHECKING

import msgspec

from plexus_registry.measures import NO_METHOD
from plexus_registry.rpc.fairness import (
    LONG_CHARACTERS,
    VERY_LONG_CHARACTERS,
    Caller,
    Fairness,
    Share,
    bytes_of,
)
from plexus_registry.rpc.jsonrpc import (
    NULL_ID,
    Batch,
    Invalid,
    Request,
    error_response,
    read_frame,
    result_response,
)
from plexus_registry.rpc.streams import BUG, CallFailure, Stream, Unsubscribe
from plexus_registry.rpc.subscriptions import FiniteStream, Subscriptions, WatchStream
from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.change_log import WatchCursor
from plexus_registry.rules.errors import (
    AnswerLimitError,
    CallError,
    InternalError,
    MethodError,
    Unauthorized,
    WebSocketNeeded,
    shown,
)
from plexus_registry.rules.events import called, encode_failed, encode_value
from plexus_registry.rules.history import encode_history
from plexus_registry.rules.methods import BY_COMMAND, Get, History, List, Ping, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from plexus_registry.registry import Registry
    from plexus_registry.rpc.fairness import Peer
    from plexus_registry.rpc.plexus import Hub
    from plexus_registry.rpc.streams import Route
    from plexus_registry.rules.events import Event
    from plexus_registry.rules.parameters import Command

log = logging.getLogger(__name__)

PART_CHARACTERS = 256 * 1024
"""The answers of a batch are sent in parts of about this size."""


class Handler:
    """Answers the frames of a connection in order; long answers count as unread until `release`.

    Attributes:
        subscriptions: The streams of the connection.
        in_parts: Makes the context in which a message is sent in parts, with no other in between.
    """

    def __init__(
        self,
        registry: Registry,
        hub: Hub,
        caller: Caller | None = None,
        *,
        numbers_after: int = 0,
        peer: Peer | None = None,
    ) -> None:
        """Prepare to answer; without a peer, all answers are given whole."""
        self.in_parts: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        self._registry = registry
        self._hub = hub
        self._caller = caller or Caller()
        self._peer = peer
        self._share = Share(Fairness()) if peer is None else peer.share
        self._held = 0
        self._unsent = 0
        self.subscriptions = Subscriptions(
            max_subscriptions=hub.limits.subscriptions, numbers_after=numbers_after
        )

    def answer(self, frame: str | bytes) -> list[str] | Coroutine[object, object, list[str]]:
        """Carry out the requests of a text or binary message.

        Returns:
            The frames to send back, in order, if they can be made without waiting (reads,
            descriptions, errors); none if there is nothing to answer. Otherwise an awaitable of
            them: these may begin or end a watch, so send them with no event in between, and call
            `note_sent` then.
        """
        read = read_frame(frame, self._hub.limits)
        if isinstance(read, Batch):
            return self._answer_batch(read)
        if isinstance(read, Invalid):
            return [self._refuse_invalid(read)]
        began = time.perf_counter()
        try:
            route = self._route(read)
            frames = self._answer_at_once(read.id, route)
        except Exception as error:  # noqa: BLE001 - it is answered, and logged if it is a bug
            response = self._fail(read, error, began)
            return [] if response is None else [response]
        if frames is None:
            return self._answer_one(read, route, began)
        self._caller.requests.note(read.method, "ok", time.perf_counter() - began)
        return frames

    def _route(self, request: Request) -> Route:
        route = self._hub.route(request.method, request.params)
        if not self._caller.may_subscribe and isinstance(route, (Stream, Unsubscribe)):
            raise WebSocketNeeded(request.method)
        return route

    def _answer_at_once(self, request_id: str | None, route: Route) -> list[str] | None:
        """Answer what only reads; return None if the answer may have to wait."""
        source = route.source if isinstance(route, Stream) else route
        outcome: str | CallFailure
        if isinstance(source, (Get, List)):
            try:
                outcome = self._from_catalog(source)
            except Exception:  # noqa: BLE001 - it comes again, and is logged and answered there
                return None
        elif isinstance(source, (str, CallFailure)):
            outcome = source
        else:
            return None
        size = len(outcome) if isinstance(outcome, str) else 0
        if size > LONG_CHARACTERS and (size > VERY_LONG_CHARACTERS or self._share.is_full):
            return None
        if request_id is None:
            return []
        if isinstance(route, Stream):
            number = self.subscriptions.next_number()
            items = route.encoder.whole(number, outcome, now=self._registry.now())
            frames = [result_response(request_id, str(number)), *items]
        else:
            frames = [result_response(request_id, str(outcome))]
        if size > LONG_CHARACTERS:
            self._hold(frames)
        return frames

    def _hold(self, frames: list[str]) -> None:
        self._held += sum(map(self._share.hold, frames))

    async def _answer_batch(self, batch: Batch) -> list[str]:
        """Answer the requests of a batch in turn, for as long as the peer is there."""
        self._unsent = 0
        async with AsyncExitStack() as parted:
            responses: list[str] = []
            size = parts = 0
            for each in batch.items:
                await self._share.wait_for_turn()
                if self._peer is not None and self._peer.is_gone:
                    return []
                response = await self._respond_in_batch(each)
                if response is None:
                    continue
                self._unsent += bytes_of(response)
                self._hold([response])
                responses.append(response)
                size += len(response)
                if self._peer is not None and size > PART_CHARACTERS:
                    if not parts:
                        await parted.enter_async_context(self.in_parts())
                    await self._send_part(self._peer, responses, is_first=not parts)
                    size, parts = 0, parts + 1
            if parts and self._peer is not None:
                await self._send_part(self._peer, responses, is_last=True)
                return self.subscriptions.flush()
        return [f"[{','.join(responses)}]", *self.subscriptions.flush()] if responses else []

    async def _send_part(
        self, peer: Peer, responses: list[str], *, is_first: bool = False, is_last: bool = False
    ) -> None:
        """Send a part of the array that answers a batch, and forget its responses."""
        before = "[" if is_first else "," if responses else ""
        text = f"{before}{','.join(responses)}{']' if is_last else ''}"
        sent = sum(len(each) for each in responses if len(each) > LONG_CHARACTERS)
        responses.clear()
        await peer.send_part(text, is_first=is_first, is_last=is_last)
        self._held -= sent
        self._share.release(sent)

    async def _respond_in_batch(self, request: Request | Invalid) -> str | None:
        if isinstance(request, Invalid):
            return self._refuse_invalid(request)
        began = time.perf_counter()
        most = self._hub.limits.unread_bytes
        is_over = self._unsent > most
        if not is_over and not self._share.must_give_way:
            return await self._respond(request, began)
        error = AnswerLimitError(
            "The answers of this batch are too large: this request was not carried out,"
            " send it by itself",
            reason=f"Exceeded max limit of {most}",
        )
        error.limit = "unread_bytes" if is_over else "unread_total"
        return self._fail(request, error, began)

    async def _answer_one(self, request: Request, route: Route, began: float) -> list[str]:
        response = await self._respond(request, began, route)
        if response is None:
            return []
        if not isinstance(route, Stream):
            if len(response) > LONG_CHARACTERS:
                self._hold([response])
            return [response]
        return [response, *self.subscriptions.flush()]

    async def _respond(
        self, request: Request, began: float, route: Route | None = None
    ) -> str | None:
        """Answer one request, which may be routed already."""
        try:
            if route is None:
                route = self._route(request)
            if isinstance(route, Unsubscribe):
                was_live = self.subscriptions.unsubscribe(route.method, route.subscription)
                result = "true" if was_live else "false"
            elif isinstance(route, Stream):
                result = await self._begin(route, is_heard=request.id is not None)
            else:
                result = await self._carry_out(route)
        except Exception as error:  # noqa: BLE001 - it is answered, and logged if it is a bug
            return self._fail(request, error, began)
        self._caller.requests.note(request.method, "ok", time.perf_counter() - began)
        return None if request.id is None else result_response(request.id, result)

    async def _begin(self, stream: Stream, *, is_heard: bool) -> str:
        """Begin a stream, and return the number to acknowledge it with."""
        source = stream.source
        outcome: str | CallFailure
        if isinstance(source, (str, CallFailure)):
            outcome = source
        elif isinstance(source, Watch):
            outcome = ""  # it has no end
        else:
            try:
                outcome = await self._carry_out(source)
            except MethodError as error:
                outcome = encode_failed(error)
            except Exception:
                log.exception("%s through the hub failed", type(source).__name__)
                outcome = BUG
        if not is_heard:
            return ""
        number = self.subscriptions.next_number()
        if isinstance(source, Watch):
            live: FiniteStream | WatchStream = WatchStream(stream.encoder, WatchCursor(source))
        else:
            frames = stream.encoder.whole(number, outcome, now=self._registry.now())
            self._unsent += sum(map(bytes_of, frames))
            self._hold(frames)
            live = FiniteStream(stream.encoder, frames)
        self.subscriptions.begin(number, live)
        return str(number)

    def break_off(self, frame: str | bytes, why: str) -> list[str]:
        """Return the frames that answer the requests of a frame as not finished."""
        error = InternalError(f"Not finished: {why}; whether the change was made is unknown")
        try:
            read = read_frame(frame, self._hub.limits)
        except Exception:
            log.exception("a frame could not be read again")
            return [error_response(NULL_ID, error)]
        requests = read.items if isinstance(read, Batch) else (read,)
        answers = [error_response(each.id, error) for each in requests if each.id is not None]
        return [f"[{','.join(answers)}]"] if answers and isinstance(read, Batch) else answers

    def note_sent(self) -> bool:
        """Record that the frames so far were sent; return whether a watch begins."""
        self.release()
        return self.subscriptions.note_sent()

    def release(self) -> None:
        """Count no answer as unread any more: all were sent, or never will be."""
        self._share.release(self._held)
        self._held = 0

    async def _carry_out(self, command: Command) -> str:
        """Carry out a command, not a watch, and return the event that reports it as JSON text."""
        if isinstance(command, (Get, List)):
            if len(self._from_catalog(command)) > LONG_CHARACTERS:
                await self._share.wait_for_room()
            return self._from_catalog(command)
        if isinstance(command, History):
            await self._share.wait_for_room()
            return encode_history(self._registry.change_log, command)
        method = BY_COMMAND[type(command)]
        if method.writes and not self._caller.may_write:
            self._caller.refused[Unauthorized.word] += 1
            raise Unauthorized
        verb = getattr(self._registry, method.name)
        by = called(method.name, peer=self._caller.peer, token=self._caller.token)
        event: Event
        try:
            if isinstance(command, (Register, Update)):
                event = await verb(command, by=by)
            elif isinstance(command, Ping) and self._peer is not None:
                pings = self._registry.pings
                event = await pings.ping_in_time(command.name, by, self._peer.start_soon)
            else:
                event = await verb(**msgspec.structs.asdict(command), by=by)
        except MethodError as error:
            # Its traceback holds frames, and one of them holds the error: without this, only the
            # garbage collector would free them.
            raise error.with_traceback(None)  # noqa: B904 - the same error
        return encode_value(event)

    def _from_catalog(self, command: Get | List) -> str:
        """Return the event that answers a read, as JSON text."""
        if isinstance(command, Get):
            return self._registry.catalog.found(command.name)
        return self._registry.catalog.listed(active_only=command.active_only)

    def _fail(self, request: Request, error: Exception, began: float) -> str | None:
        """Answer a request that failed, and log a bug of the registry."""
        if not isinstance(error, CallError):
            log.error("request for %s failed", shown(request.method), exc_info=error)
            error = InternalError("Internal error")
        method = request.method if self._hub.has_method(request.method) else NO_METHOD
        self._caller.requests.note(method, error.word, time.perf_counter() - began)
        return None if request.id is None else self._refuse(request.id, error)

    def _refuse_invalid(self, invalid: Invalid) -> str:
        self._caller.requests.note(NO_METHOD, invalid.error.word, 0.0)
        return self._refuse(invalid.id, invalid.error)

    def _refuse(self, request_id: str, error: CallError) -> str:
        """Answer with an error; those of limits are counted."""
        if error.limit:
            self._caller.refused[error.limit] += 1
        return error_response(request_id, error)
