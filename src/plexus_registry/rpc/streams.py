"""What a request can mean to the hub, and the streams that answer it: their items and numbers.

Theory of operation. A request is a command, the end of a stream, or a stream. A stream is
acknowledged with a number, then its items follow: any number of `data`, and last either one `done`
or one `error`. All items of a stream share their metadata. A call may hold a call: the items of the
inner stream, with its end, are then the content of the outer one's items. A watch that was called
directly has no items around its events.

A stream lives from its acknowledgement to its last item, or until its client unsubscribes. Most
streams have all their items at once; a watch goes on. Numbers count up and are never used again:
clients go on listening for a number that they lost interest in, also on their next connection. So
each connection counts on from its own random number.

Source: manual/protocol.md, "Stream items" and "Subscriptions".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from plexus_registry.rules.errors import SubscriptionLimitError, WatchEnded
from plexus_registry.rules.events import encode_ended, encode_value
from plexus_registry.rules.parameters import Command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import ChangeLog, WatchCursor
    from plexus_registry.rules.methods import Watch


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """A request to end a stream.

    Attributes:
        method: The method that the stream must be of.
        subscription: Its number; None if the parameters hold none.
    """

    method: str
    subscription: int | None


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a call could not be routed or carried out, readable by clients of every generation.

    Attributes:
        message: For people.
        code: The JSON-RPC code; old clients read it, as text.
        detail: The typed error that new clients read; its `kind` is also `error_kind`.
    """

    message: str
    code: int
    detail: Mapping[str, object]


BUG = CallFailure(
    "Internal error", -32603, {"kind": "execution", "message": "internal error, see the log"}
)
"""The end of a stream if the registry itself fails."""


@dataclass(frozen=True, slots=True)
class StreamContent:
    """The content of a stream.

    Attributes:
        source: A command to carry out, a JSON text, a failure, or the content of the call that this
            call holds.
        provenance: The namespace that it comes from.
        content_type: What it is, such as `registry.list`.
    """

    source: Command | str | CallFailure | StreamContent
    provenance: str
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """A subscription.

    Attributes:
        method: The method that was called.
        notification: The method of its notifications.
        content: What it sends; a watch by itself has no items around its events.
    """

    method: str
    notification: str
    content: StreamContent | Watch


Route = Command | Unsubscribe | Stream
"""A command by itself is a direct call, with one response."""


def source_of(content: StreamContent | Watch) -> Command | str | CallFailure:
    """Find the innermost source of a stream's content."""
    source: Command | str | CallFailure | StreamContent = content
    while isinstance(source, StreamContent):
        source = source.source
    return source


class StreamEncoder:
    """Encodes items under the hash of everything that one hub describes."""

    def __init__(self, plexus_hash: str) -> None:
        self._plexus_hash = plexus_hash

    def all_items(
        self, content: StreamContent | Watch, outcome: str | CallFailure | None, *, now: int
    ) -> list[str]:
        """Encode all items of a stream with one datum.

        Args:
            content: The content.
            outcome: The event that reports the command of the content, as JSON text, or a failure;
                None if the content has no command.
            now: Unix seconds.

        Returns:
            The items in order; the last one, and no other, ends the stream.
        """
        source = source_of(content)
        match outcome if isinstance(source, Command) else source:
            case CallFailure() as failure:
                return self.end_items(content, now=now, failure=failure)
            case str(text):
                return [self.data_item(content, text, now=now), *self.end_items(content, now=now)]
            case _:
                raise ValueError("the stream of a command needs its outcome")

    def data_item(self, content: StreamContent | Watch, text: str, *, now: int) -> str:
        """Encode the item that carries a JSON text; `now` is in Unix seconds."""
        if not isinstance(content, StreamContent):
            return text
        if isinstance(content.source, StreamContent):
            text = self.data_item(content.source, text, now=now)
        shared = metadata(content.provenance, self._plexus_hash, now)
        return data_item(shared, content.content_type, text)

    def end_items(
        self,
        content: StreamContent | Watch,
        *,
        now: int,
        failure: CallFailure | None = None,
        is_outermost: bool = True,
    ) -> list[str]:
        """Encode the items that end a stream: with an error if there is a failure."""
        if not isinstance(content, StreamContent):
            return []
        shared = metadata(content.provenance, self._plexus_hash, now)
        if isinstance(content.source, StreamContent):
            inner = self.end_items(content.source, now=now, failure=failure, is_outermost=False)
            data = [data_item(shared, content.content_type, item) for item in inner]
            return [*data, done_item(shared)]
        if failure is not None:
            return [error_item(shared, failure, with_code=is_outermost)]
        return [done_item(shared)]


def metadata(provenance: str, plexus_hash: str, now: int) -> str:
    """Encode what all items of a stream share; `now` is in Unix seconds."""
    return f'{{"provenance":["{provenance}"],"plexus_hash":"{plexus_hash}","timestamp":{now}}}'


def data_item(shared: str, content_type: str, text: str) -> str:
    """Encode one result, which is JSON text."""
    return f'{{"type":"data","metadata":{shared},"content_type":"{content_type}","content":{text}}}'


def done_item(shared: str) -> str:
    """Encode the successful end of a stream."""
    return f'{{"type":"done","metadata":{shared}}}'


def error_item(shared: str, failure: CallFailure, *, with_code: bool = True) -> str:
    """Encode the failed end of a stream; an error item inside another stream has no code."""
    code = f'"code":"{failure.code}",' if with_code else ""
    return (
        f'{{"type":"error","metadata":{shared},"message":{encode_value(failure.message)},{code}'
        f'"error_kind":{encode_value(failure.detail["kind"])},'
        f'"error":{encode_value(failure.detail)},"recoverable":false}}'
    )


def notifications(method: str, subscription: int, items: Sequence[str]) -> list[str]:
    """Wrap the items of one stream in their frames."""
    head = f'{{"jsonrpc":"2.0","method":"{method}","params":{{"subscription":{subscription}'
    return [f'{head},"result":{item}}}}}' for item in items]


FIRST_NUMBER_BITS = 52
"""The size of the number that a connection counts on from. Clients read numbers as JavaScript does,
exactly below 2**53: nobody ever asks for so many streams that the other half is used up."""

EVENTS_AT_ONCE = 256
"""How many changes one watch goes through at a time, so that those beside it have their turn."""
LOOKS_AT_ONCE = 2_000
"""How many changes or backends the watches of a connection go through at a time, about."""
CHARACTERS_AT_ONCE = 256 * 1024
"""About how much the watches of a connection get at a time: a thousand snapshots are a lot."""


class FiniteStream(NamedTuple):
    """A stream whose items are known; the last one ends it."""

    stream: Stream
    items: Sequence[str]


class WatchStream(NamedTuple):
    """A stream of changes as they come."""

    stream: Stream
    cursor: WatchCursor


class Subscriptions:
    """The streams of one connection."""

    def __init__(self, *, max_subscriptions: int, numbers_after: int) -> None:
        """Begin without streams; their numbers count on from `FIRST_NUMBER_BITS` random bits."""
        self._max_subscriptions = max_subscriptions
        self._last = numbers_after
        self._finite: dict[int, FiniteStream] = {}
        # Watches whose acknowledgement was not sent yet, and those that send changes.
        self._unsent: dict[int, WatchStream] = {}
        self._watches: dict[int, WatchStream] = {}

    def begin(self, live: FiniteStream | WatchStream) -> int:
        """Begin a stream.

        Returns:
            The number to acknowledge it with.

        Raises:
            SubscriptionLimitError: Too many streams are live.
        """
        if sum(map(len, self._all())) >= self._max_subscriptions:
            raise SubscriptionLimitError(
                "Too many subscriptions on the connection",
                reason=f"Exceeded max limit of {self._max_subscriptions}",
            )
        self._last += 1
        if isinstance(live, FiniteStream):
            self._finite[self._last] = live
        else:
            self._unsent[self._last] = live
        return self._last

    def unsubscribe(self, method: str, subscription: int | None) -> bool:
        """End a stream before its end; return whether it was live, and of that method."""
        if subscription is None:
            return False
        for streams in self._all():
            live = streams.get(subscription)
            if live is not None and live.stream.method == method:
                del streams[subscription]
                return True
        return False

    def flush(self) -> list[str]:
        """Return the frames that follow the acknowledgements; their streams end."""
        frames: list[str] = []
        for subscription, live in self._finite.items():
            frames += notifications(live.stream.notification, subscription, live.items)
        self._finite.clear()
        return frames

    def note_sent(self) -> bool:
        """Record that all acknowledgements were sent; return whether a watch is among them."""
        has_new = bool(self._unsent)
        self._watches |= self._unsent
        self._unsent.clear()
        return has_new

    def is_behind(self, change_log: ChangeLog) -> bool:
        """Whether there may be more for the watches."""
        return any(each.cursor.is_behind(change_log) for each in self._watches.values())

    @property
    def is_beginning(self) -> bool:
        """Whether a watch waits for its snapshot, which may be long."""
        return not all(each.cursor.has_begun for each in self._watches.values())

    def due(
        self, change_log: ChangeLog, catalog: Catalog, encoder: StreamEncoder, *, now: int
    ) -> list[str]:
        """Return the next frames of the watches: as many as may be made at a time.

        The watches take turns; the next round begins with the watch after the last one.
        """
        frames: list[str] = []
        looks = 0
        for number in [*self._watches]:
            stream, cursor = self._watches[number] = self._watches.pop(number)
            try:
                events, looked = cursor.due(change_log, catalog, most=EVENTS_AT_ONCE)
                end = []
            except WatchEnded as error:
                events, looked = [encode_ended(error)], 0
                end = encoder.end_items(stream.content, now=now)
                del self._watches[number]
            items = [encoder.data_item(stream.content, each, now=now) for each in events]
            frames += notifications(stream.notification, number, [*items, *end])
            looks += looked
            if looks > LOOKS_AT_ONCE or sum(map(len, frames)) > CHARACTERS_AT_ONCE:
                break
        return frames

    def _all(self) -> tuple[dict[int, FiniteStream] | dict[int, WatchStream], ...]:
        return self._finite, self._unsent, self._watches
