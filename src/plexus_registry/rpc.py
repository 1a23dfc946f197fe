"""From a frame to the frames that answer it.

Every frame gets its answer here, whatever is in it: errors of the caller as JSON-RPC errors,
refusals of a method with their own codes, and a bug of ours as -32603 with a trace in the log.
A call through the hub is acknowledged first; its items follow the response of its frame. What a
watch has to tell is fetched with `due`, from when its acknowledgement was sent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from plexus_registry.core import commands
from plexus_registry.core.errors import (
    AnswerLimitError,
    BatchTooLargeError,
    InternalError,
    MethodError,
    NestingLimitError,
    ProtocolError,
    SubscriptionLimitError,
    Unauthorized,
    WatchEnded,
    shown,
)
from plexus_registry.core.events import encode_ended, encode_event, encode_failed
from plexus_registry.core.feed import Watch
from plexus_registry.core.items import notifications
from plexus_registry.core.jsonrpc import (
    Batch,
    Invalid,
    Request,
    error_response,
    read_frame,
    result_response,
)
from plexus_registry.core.methods import READS
from plexus_registry.core.routes import Route, Stream, Unsubscribe, command_of
from plexus_registry.core.session import Finite, Following, Session
from plexus_registry.core.speaker import BUG
from plexus_registry.core.visitor import Visitor

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from plexus_registry.core.commands import Command
    from plexus_registry.core.items import Failure
    from plexus_registry.core.plexus import Hub
    from plexus_registry.service import Registry

log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 256
"""How many changes one watch goes through at a time, so that those beside it have their turn."""
LOOKS_AT_ONCE = 2_000
"""How many changes or backends the watches of a connection go through at a time, about."""
CHARACTERS_AT_ONCE = 256 * 1024
"""About how much the watches of a connection get at a time: a thousand snapshots are a lot."""


class Responder:
    """Answers the frames of one connection, in the order in which they came."""

    def __init__(
        self,
        registry: Registry,
        hub: Hub,
        visitor: Visitor | None = None,
        *,
        numbers_after: int = 0,
    ) -> None:
        """Prepare for a connection.

        Args:
            registry: What is asked.
            hub: What calls mean.
            visitor: Who asks.
            numbers_after: The number that the subscriptions count on from.
        """
        self._registry = registry
        self._hub = hub
        self._visitor = visitor or Visitor()
        self._unsent = 0
        self._session = Session(
            max_subscriptions=hub.limits.subscriptions, numbers_after=numbers_after
        )

    def answer(self, frame: str | bytes) -> list[str] | Awaitable[list[str]]:
        """Carry out what a frame asks for.

        What only looks something up, and that is most of what is ever asked, is answered at
        once; the rest is worth waiting for.

        Args:
            frame: The text or binary message as it came.

        Returns:
            The frames to send back, in order, or the wait for them; none where there is nothing
            to answer.
        """
        limits = self._hub.limits
        read = read_frame(frame, max_batch=limits.batch_requests, max_nesting=limits.nesting)
        if isinstance(read, Batch):
            return self._answer_batch(read)
        if isinstance(read, Invalid):
            return [self._refuse(read.id, read.error)]
        try:
            route = self._hub.route(read.method, read.params)
            found = look_up(self._registry, route)
        except ProtocolError as error:
            return [] if read.id is None else [error_response(read.id, error)]
        except Exception as error:  # noqa: BLE001 - it is logged, and answered
            return [] if read.id is None else [error_response(read.id, _bug(read, error))]
        if found is None:
            return self._answer_one(read, route)
        return [] if read.id is None else [result_response(read.id, found)]

    async def _answer_batch(self, batch: Batch) -> list[str]:
        responses = []
        self._unsent = 0
        for each in batch.items:
            if isinstance(each, Invalid):
                response: str | None = self._refuse(each.id, each.error)
            elif self._unsent > self._hub.limits.unread_bytes:
                response = None if each.id is None else self._refuse(each.id, self._too_much())
            else:
                response = await self._respond(each, None)
            if response is not None:
                self._unsent += _bytes_of(response)
                responses.append(response)
        return [f"[{','.join(responses)}]", *self._session.flush()] if responses else []

    async def _answer_one(self, request: Request, route: Route) -> list[str]:
        response = await self._respond(request, route)
        return [] if response is None else [response, *self._session.flush()]

    async def _respond(self, request: Request, route: Route | None) -> str | None:
        """Answer one request, which may be routed already."""
        error: ProtocolError | MethodError
        try:
            if route is None:
                route = self._hub.route(request.method, request.params)
            if isinstance(route, Unsubscribe):
                was_live = self._session.unsubscribe(route.method, route.subscription)
                result = "true" if was_live else "false"
            elif isinstance(route, Stream):
                result = await self._begin(route, is_heard=request.id is not None)
            else:
                result = await self._perform(route)
        except (ProtocolError, MethodError) as refusal:
            error = refusal
        except Exception as bug:  # noqa: BLE001 - it is logged, and answered
            error = _bug(request, bug)
        else:
            return None if request.id is None else result_response(request.id, result)
        return None if request.id is None else self._refuse(request.id, error)

    async def _begin(self, stream: Stream, *, is_heard: bool) -> str:
        """Find out what a stream says, and give the number to acknowledge it with."""
        command = command_of(stream.topic)
        if isinstance(command, commands.Watch):
            live: Finite | Following = Following(stream, Watch(command))
        else:
            report = None if command is None else await self._report(command)
            items = self._hub.speaker.items(stream.topic, report, now=self._registry.now())
            self._unsent += sum(map(_bytes_of, items))
            live = Finite(stream, items)
        return str(self._session.begin(live)) if is_heard else ""

    async def _report(self, command: Command) -> str | Failure:
        """Carry out the command of a stream; whatever happens, there is something to say."""
        try:
            return await self._perform(command)
        except MethodError as error:
            return encode_failed(error)
        except Exception:
            log.exception("%s through the hub failed", type(command).__name__)
            return BUG

    def note_sent(self) -> bool:
        """Take the frames so far to be sent, and tell whether there is news for `due`."""
        return self._session.note_sent()

    def is_behind(self) -> bool:
        """Whether there may be more for the watches."""
        feed = self._registry.feed
        return any(each.watch.is_behind(feed) for each in self._session.followings.values())

    def due(self) -> list[str]:
        """Give the next frames of the watches: as many as may be made at a time."""
        frames: list[str] = []
        looks = 0
        for number in self._session.in_turn():
            made, looked = self._due_of(number)
            frames += made
            looks += looked
            if looks > LOOKS_AT_ONCE or sum(map(len, frames)) > CHARACTERS_AT_ONCE:
                break
        return frames

    def _due_of(self, number: int) -> tuple[list[str], int]:
        stream, watch = self._session.followings[number]
        now = self._registry.now()
        is_over = False
        looks = 0
        try:
            events, looks = watch.due(
                self._registry.feed, self._registry.catalog, most=EVENTS_AT_ONCE
            )
        except WatchEnded as error:
            events, is_over = [encode_ended(error)], True
        speaker = self._hub.speaker
        items = [item for event in events for item in speaker.saying(stream.topic, event, now=now)]
        if is_over:
            items += speaker.ending(stream.topic, now=now)
            self._session.unsubscribe(stream.method, number)
        return notifications(stream.notification, number, items), looks

    async def _perform(self, command: Command) -> str:
        if not self._visitor.may_write and type(command) not in READS:
            self._visitor.refused[Unauthorized.word] += 1
            raise Unauthorized
        return await perform(self._registry, command)

    def _refuse(self, request_id: str, error: ProtocolError | MethodError) -> str:
        """Answer with an error; those of limits are counted."""
        limit = _LIMITS.get(type(error))
        if limit is not None:
            self._visitor.refused[limit] += 1
        return error_response(request_id, error)

    def _too_much(self) -> AnswerLimitError:
        most = self._hub.limits.unread_bytes
        return AnswerLimitError(
            "The answers of this batch are too large: this request was not carried out,"
            " send it by itself",
            reason=f"Exceeded max limit of {most}",
        )


_LIMITS: dict[type[ProtocolError | MethodError], str] = {
    AnswerLimitError: "unread_bytes",
    BatchTooLargeError: "batch_requests",
    NestingLimitError: "nesting",
    SubscriptionLimitError: "subscriptions",
}
"""The limit that an error is about."""


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _bug(request: Request, error: Exception) -> InternalError:
    log.error("request for %s failed", shown(request.method), exc_info=error)
    return InternalError("Internal error")


def look_up(registry: Registry, route: Route) -> str | None:
    """Answer what the catalog knows, as JSON text; None where there is more to do."""
    if isinstance(route, commands.Get):
        return registry.catalog.found(route.name)
    if isinstance(route, commands.List):
        return registry.catalog.listed(active_only=route.active_only)
    return None


async def perform(registry: Registry, command: Command) -> str:
    """Carry out a command.

    Returns:
        The event that reports it, as JSON text.

    Raises:
        MethodError: The registry refuses.
    """
    match command:
        case commands.Get() | commands.List():
            return str(look_up(registry, command))
        case commands.Ping(name=name):
            return encode_event(await registry.ping(name))
        case commands.Register():
            return encode_event(await registry.register(command))
        case commands.Update():
            return encode_event(await registry.update(command))
        case commands.Delete(name=name):
            return encode_event(await registry.delete(name))
        case commands.Deregister(name=name):
            return encode_event(await registry.deregister(name))
        case commands.Check(name=name):
            return encode_event(await registry.check(name))
        case commands.Reload():
            return encode_event(await registry.reload())
        case _:
            raise NotImplementedError(type(command).__name__)
