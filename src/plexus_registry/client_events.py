"""What a watch yields, read from the wire.

Kinds that are not known here are passed over: a registry may be newer than its client.
"""

from __future__ import annotations

import msgspec

from plexus_registry.core.errors import WatchEnded
from plexus_registry.core.model import Backend


class Change(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Something that a watch reports, with the revision after it."""

    revision: int


class Snapshot(Change, frozen=True, tag="snapshot"):
    """All that there is; what follows happened after it."""

    backends: tuple[Backend, ...]


class BackendRegistered(Change, frozen=True, tag="backend_registered"):
    """A backend was registered."""

    backend: Backend


class BackendUpdated(Change, frozen=True, tag="backend_updated"):
    """A backend was updated."""

    backend: Backend


class BackendStale(Change, frozen=True, tag="backend_stale"):
    """A backend gave no sign of life for too long."""

    backend: Backend


class BackendActive(Change, frozen=True, tag="backend_active"):
    """A backend that was inactive gave a sign of life."""

    backend: Backend


class BackendDeleted(Change, frozen=True, tag="backend_deleted"):
    """A backend was deleted."""

    name: str


class ConfigReloaded(Change, frozen=True, tag="reloaded"):
    """The config file was read."""

    count: int
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Compacted(Change, frozen=True, tag="compacted"):
    """The changes since the revision that was asked for are not kept; a snapshot follows.

    Its revision is not one to resume from: that is the snapshot's.
    """


WatchEvent = (
    Snapshot
    | BackendRegistered
    | BackendUpdated
    | BackendStale
    | BackendActive
    | BackendDeleted
    | ConfigReloaded
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
