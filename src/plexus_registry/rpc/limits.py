"""What one caller may do, and how much it may ask for at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one connection; clients find them in `_info`.

    Attributes:
        message_bytes: The size of a request; a larger one closes the connection (1009).
        batch_requests: Requests in one batch; more of them are refused (-32010).
        subscriptions: Live streams; one more is refused (-32006).
        nesting: The levels of arrays and objects in a message; a deeper one is refused (-32700).
        unread_bytes: What may wait for one peer to read it; if the answers of a batch are more,
            the rest of it is refused (-32008).

    Source: manual/protocol.md, "Limits".
    """

    message_bytes: int = 1024 * 1024
    batch_requests: int = 1000
    subscriptions: int = 1024
    nesting: int = 64
    unread_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The peer of one connection.

    Attributes:
        may_write: Whether it may change anything.
        refused: How much was refused, by the name of the limit; all callers share it.
    """

    may_write: bool = True
    refused: Counter[str] = field(default_factory=Counter)
