"""What a request can mean to the hub, and the items of the streams that answer it.

Theory of operation. A request is a command, the end of a stream, or a stream. A stream is
acknowledged with a number, then its items follow: any number of `data`, and last either one `done`
or one `error`. All items of a stream share their metadata. A call may hold a call: the items of the
inner stream, with its end, are then the content of the outer one's items. A watch that was called
directly has no items around its events.

Source: manual/protocol.md, "Stream items".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plexus_registry.rules.events import encode_value
from plexus_registry.rules.parameters import Command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
class StaticText:
    """JSON text that never changes, such as a schema or a hash."""

    text: str


@dataclass(frozen=True, slots=True)
class StreamContent:
    """The content of a stream.

    Attributes:
        source: A command to carry out, a text, a failure, or the content of the call that this
            call holds.
        provenance: The namespace that it comes from.
        content_type: What it is, such as `registry.list`.
    """

    source: Command | StaticText | CallFailure | StreamContent
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


def source_of(content: StreamContent | Watch) -> Command | StaticText | CallFailure:
    """Find the innermost source of a stream's content."""
    source: Command | StaticText | CallFailure | StreamContent = content
    while isinstance(source, StreamContent):
        source = source.source
    return source


class StreamEncoder:
    """Encodes items under the hash of one hub."""

    def __init__(self, plexus_hash: str) -> None:
        """Keep the hash of everything that the hub describes."""
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
            case StaticText(text=text) | str(text):
                return [
                    *self.data_items(content, text, now=now),
                    *self.end_items(content, now=now),
                ]
            case _:
                raise ValueError("the stream of a command needs its outcome")

    def data_items(self, content: StreamContent | Watch, text: str, *, now: int) -> list[str]:
        """Encode the items that carry a JSON text; `now` is in Unix seconds."""
        if not isinstance(content, StreamContent):
            return [text]
        shared = metadata(content.provenance, self._plexus_hash, now)
        inner = content.source
        texts = (
            self.data_items(inner, text, now=now) if isinstance(inner, StreamContent) else [text]
        )
        return [data_item(shared, content.content_type, each) for each in texts]

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
