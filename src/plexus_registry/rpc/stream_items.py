"""What streams say, once it is known: the items of each, from the first to its end.

A call may hold a call. What the inner stream says, its end included, is then the contents of the
outer one's items. A watch that was called directly has no items around its events.

Source: manual/protocol.md, "Stream items".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plexus_registry.rpc.items import CallFailure, data_item, done_item, error_item, metadata
from plexus_registry.rpc.routes import Known, Topic
from plexus_registry.rules.parameters import Command

if TYPE_CHECKING:
    from plexus_registry.rules.methods import Watch

BUG = CallFailure(
    "Internal error", -32603, {"kind": "execution", "message": "internal error, see the log"}
)
"""What a stream ends with when the registry itself fails."""


class StreamEncoder:
    """Says everything under the hash of one hub."""

    def __init__(self, plexus_hash: str) -> None:
        """Take the hash of everything that the hub describes."""
        self._plexus_hash = plexus_hash

    def items(
        self, topic: Topic | Watch, report: str | CallFailure | None, *, now: int
    ) -> list[str]:
        """Encode all items of a stream that says one thing.

        Args:
            topic: What the stream says.
            report: The event that reports the topic's command, as JSON text, or why there is
                none; None where the topic holds no command.
            now: Unix seconds.

        Returns:
            The items in order; the last one, and no other, ends the stream.
        """
        source: object = topic
        while isinstance(source, Topic):
            source = source.source
        match report if isinstance(source, Command) else source:
            case CallFailure() as failure:
                return self.ending(topic, now=now, failure=failure)
            case Known(content=content) | str(content):
                return [*self.saying(topic, content, now=now), *self.ending(topic, now=now)]
            case _:
                raise ValueError("a command's stream needs its report")

    def saying(self, topic: Topic | Watch, content: str, *, now: int) -> list[str]:
        """Encode the items that say something; `content` is JSON text, `now` Unix seconds."""
        if not isinstance(topic, Topic):
            return [content]
        shared = metadata(topic.provenance, self._plexus_hash, now)
        inner = topic.source
        contents = self.saying(inner, content, now=now) if isinstance(inner, Topic) else [content]
        return [data_item(shared, topic.content_type, each) for each in contents]

    def ending(
        self, topic: Topic | Watch, *, now: int, failure: CallFailure | None = None
    ) -> list[str]:
        """Encode the items that end a stream, well or, where there is a failure, badly."""
        return self._ending(topic, failure, now=now, is_outermost=True)

    def _ending(
        self, topic: Topic | Watch, failure: CallFailure | None, *, now: int, is_outermost: bool
    ) -> list[str]:
        if not isinstance(topic, Topic):
            return []
        shared = metadata(topic.provenance, self._plexus_hash, now)
        if isinstance(topic.source, Topic):
            inner = self._ending(topic.source, failure, now=now, is_outermost=False)
            contents = [data_item(shared, topic.content_type, item) for item in inner]
            return [*contents, done_item(shared)]
        if failure is not None:
            return [error_item(shared, failure, with_code=is_outermost)]
        return [done_item(shared)]
