"""What a watch yields, read from the wire.

Kinds that are not known here are passed over: a registry may be newer than its client.
"""

from __future__ import annotations

import msgspec

from plexus_registry.rules.errors import WatchEnded
from plexus_registry.rules.events import (
    BackendActive,
    BackendDeleted,
    BackendRegistered,
    BackendStale,
    BackendUpdated,
    Compacted,
    Reloaded,
    Snapshot,
)

WatchEvent = (
    Snapshot
    | BackendRegistered
    | BackendUpdated
    | BackendStale
    | BackendActive
    | BackendDeleted
    | Reloaded
    | Compacted
)


class _Failed(msgspec.Struct):
    message: str
    code: str = "unknown"
    revision: int | None = None


class _Kind(msgspec.Struct):
    type: str


_KINDS = {
    *("snapshot", "backend_registered", "backend_updated", "backend_stale", "backend_active"),
    *("backend_deleted", "reloaded", "compacted"),
}
_decode_change: msgspec.json.Decoder[WatchEvent] = msgspec.json.Decoder(WatchEvent)


def decode_watch_event(text: bytes | msgspec.Raw) -> WatchEvent | WatchEnded | None:
    """Read an event of a watch.

    Returns:
        The event, the end of the watch, or None for a kind that is not known here.

    Raises:
        msgspec.DecodeError: It is no event, or one without what its kind needs.
    """
    kind = msgspec.json.decode(text, type=_Kind).type
    if kind == "error":
        failed = msgspec.json.decode(text, type=_Failed)
        return WatchEnded(failed.message, failed.code, failed.revision)
    return _decode_change.decode(text) if kind in _KINDS else None
