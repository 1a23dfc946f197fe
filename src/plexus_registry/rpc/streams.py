"""What a request can mean to the hub, and the frames of the streams that answer it.

Theory of operation. A request is a command, the end of a stream, or a stream. A stream is
acknowledged with a number, then its items follow, each in one frame: any number of `data`, and last
either one `done` or one `error`. All items of a stream share their metadata. A call may hold a
call: the items of the inner stream, with its end, are then the content of the outer one's items. A
watch that was called directly has no items around its events.

Source: manual/protocol.md, "Stream items".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from plexus_registry.rules.events import encode_value
from plexus_registry.rules.parameters import Command

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """A request to end the stream with a number (None if it has none), called by a method."""

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


class Level(NamedTuple):
    """The items around a datum, or around the items of an inner stream.

    Attributes:
        provenance: The namespace that they come from.
        content_type: The kind of their content, such as `registry.list`.
    """

    provenance: str
    content_type: str


class StreamEncoder:
    """Encodes the frames of all streams of one kind; their constant parts only once a second.

    Attributes:
        method: The method that was called.
        levels: The items around each datum, the outermost first.
        head: The text of a frame before the number of its stream.
    """

    def __init__(
        self, method: str, notification: str, plexus_hash: str, levels: tuple[Level, ...]
    ) -> None:
        """Prepare to encode notifications of a method, under the hash of all the hub describes."""
        self.method = method
        self.levels = levels
        self._notification = notification
        self._plexus_hash = plexus_hash
        self.head = f'{{"jsonrpc":"2.0","method":"{notification}","params":{{"subscription":'
        self._second: int | None = None
        # Around a datum, and after the number of a successful end, in the second above.
        self._before = self._after = ""
        self._ends: list[str] = []

    def inside(self, level: Level) -> StreamEncoder:
        """Make the encoder for streams of this kind inside the items of another level."""
        return StreamEncoder(
            self.method, self._notification, self._plexus_hash, (level, *self.levels)
        )

    def whole(self, number: int, outcome: str | CallFailure, *, now: int) -> list[str]:
        """Encode all frames of a stream of one datum (JSON text), or of one that failed.

        Args:
            number: The number of the stream.
            outcome: Its datum, or its failure.
            now: Unix seconds.
        """
        if now != self._second:
            self._encode_constants(now)
        head = f"{self.head}{number}"
        if isinstance(outcome, str):
            data = f"{head}{self._before}{outcome}{self._after}"
            return [data, *map(head.__add__, self._ends)]
        return [*map(head.__add__, self._encode_ends(outcome, now))]

    def data(self, number: int, text: str, *, now: int) -> str:
        """Encode the frame that carries a datum, which is JSON text."""
        return f"{self.head}{number}{self.after_number(text, now=now)}"

    def after_number(self, text: str, *, now: int) -> str:
        """Encode what follows the number in the frame that carries a datum."""
        if now != self._second:
            self._encode_constants(now)
        return f"{self._before}{text}{self._after}"

    def end(self, number: int, *, now: int) -> list[str]:
        """Encode the frames that end a stream."""
        head = f"{self.head}{number}"
        return [*map(head.__add__, self._encode_ends(None, now))]

    def _encode_constants(self, now: int) -> None:
        self._second = now
        levels = [self._encode_data_head(level, now) for level in self.levels]
        self._before = f',"result":{"".join(levels)}'
        self._after = "}" * (len(levels) + 2)
        self._ends = self._encode_ends(None, now)

    def _encode_data_head(self, level: Level, now: int) -> str:
        shared, content_type = self._metadata(level, now), level.content_type
        return f'{{"type":"data","metadata":{shared},"content_type":"{content_type}","content":'

    def _encode_ends(self, failure: CallFailure | None, now: int) -> list[str]:
        """Encode what follows the number in each frame of an end, from the innermost level out."""
        items: list[str] = []
        for level in reversed(self.levels):
            head = self._encode_data_head(level, now)
            items = [f"{head}{item}}}" for item in items]
            shared = self._metadata(level, now)
            if failure is not None and not items:
                # An error item inside another stream has no code.
                items = [_error_item(shared, failure, with_code=len(self.levels) == 1)]
            else:
                items.append(f'{{"type":"done","metadata":{shared}}}')
        return [f',"result":{item}}}}}' for item in items]

    def _metadata(self, level: Level, now: int) -> str:
        return (
            f'{{"provenance":["{level.provenance}"],"plexus_hash":"{self._plexus_hash}",'
            f'"timestamp":{now}}}'
        )


def _error_item(shared: str, failure: CallFailure, *, with_code: bool) -> str:
    code = f'"code":"{failure.code}",' if with_code else ""
    return (
        f'{{"type":"error","metadata":{shared},"message":{encode_value(failure.message)},{code}'
        f'"error_kind":{encode_value(failure.detail["kind"])},'
        f'"error":{encode_value(failure.detail)},"recoverable":false}}'
    )


class Stream(msgspec.Struct, frozen=True):
    """A subscription.

    Attributes:
        encoder: Encodes its frames.
        source: The command whose events it sends, its one datum as JSON text, or its failure.
    """

    encoder: StreamEncoder
    source: Command | str | CallFailure


Route = Command | Unsubscribe | Stream
"""A command by itself is a direct call, with one response."""
