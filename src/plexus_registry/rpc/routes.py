"""What a request can mean to the hub: a direct call, an unsubscription, or a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plexus_registry.rules.parameters import Command

if TYPE_CHECKING:
    from plexus_registry.rpc.items import CallFailure
    from plexus_registry.rules.methods import Watch


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The end of a stream, as its client wishes it.

    Attributes:
        method: The method that the stream must be of.
        subscription: Its number; None where the parameters hold none.
    """

    method: str
    subscription: int | None


@dataclass(frozen=True, slots=True)
class Known:
    """Content that is known without the registry.

    Attributes:
        content: JSON text.
    """

    content: str


@dataclass(frozen=True, slots=True)
class Topic:
    """What a stream says.

    Attributes:
        source: A command to carry out, known content, a failure, or the stream of a call that
            the call holds.
        provenance: Who says it.
        content_type: What it is.
    """

    source: Command | Known | CallFailure | Topic
    provenance: str
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """A subscription.

    Attributes:
        method: The method that was called.
        notification: What its notifications are called.
        topic: What it says; a command by itself is reported on without items around it.
    """

    method: str
    notification: str
    topic: Topic | Watch


Route = Command | Unsubscribe | Stream
"""A command by itself is a direct call, with one response."""


def command_of(topic: Topic | Watch) -> Command | None:
    """Find the command that a topic reports on, if there is one."""
    source: object = topic
    while isinstance(source, Topic):
        source = source.source
    return source if isinstance(source, Command) else None
