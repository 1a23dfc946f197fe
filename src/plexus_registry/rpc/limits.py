"""How much one peer may ask for at a time."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one connection; clients find them in `_info`.

    Attributes:
        message_bytes: The size of a request; a larger one closes the connection (1009).
        batch_requests: Requests in one batch; more of them are refused (-32010).
        subscriptions: Live streams; one more is refused (-32006).
        nesting: The levels of arrays and objects in a message; a deeper one is refused (-32700).
        unread_bytes: What may wait for one peer to read it; of a batch whose answers are more,
            the rest is refused (-32008).

    Source: manual/protocol.md, "Limits".
    """

    message_bytes: int = 1024 * 1024
    batch_requests: int = 1000
    subscriptions: int = 1024
    nesting: int = 64
    unread_bytes: int = 16 * 1024 * 1024
