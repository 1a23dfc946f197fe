"""The registry's entries as clients read them. Source: manual/protocol.md, "Backends"."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tests.e2e.peers.frames import ViolationError, an_array, an_object, member, only, optional
from tests.fields import OPTIONAL

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_SOURCES = ("auto", "file", "manual", "env")
_TEXTS = set(OPTIONAL)
_TIMES = {"registered_at", "created_at", "updated_at"}
_MEMBERS = {"id", "name", "host", "port", "protocol", "source", "is_active", "last_seen"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One entry; `metadata` is decoded, times are Unix seconds."""

    name: str
    host: str
    port: int
    protocol: str
    source: str
    is_active: bool
    version: str | None
    metadata: dict[str, object] | None
    created_at: int
    updated_at: int


def read_backend(value: object) -> Backend:
    """Read a BackendInfo.

    Raises:
        ViolationError: It is none.
    """
    entry = an_object(value, "backend")
    only(entry, _MEMBERS | _TEXTS | _TIMES, "backend")
    if _UUID4.fullmatch(member(entry, "id", str, "backend")) is None:
        raise ViolationError(f"backend.id is no UUID of version 4: {entry}")
    texts = {name: optional(entry, name, str, "backend") for name in _TEXTS}
    times = {name: member(entry, name, int, "backend") for name in _TIMES}
    optional(entry, "last_seen", int, "backend")
    port = member(entry, "port", int, "backend")
    source = member(entry, "source", str, "backend")
    if not 0 <= port <= 65535 or source not in _SOURCES:
        raise ViolationError(f"port or source of a backend: {entry}")
    return Backend(
        name=member(entry, "name", str, "backend"),
        host=member(entry, "host", str, "backend"),
        port=port,
        protocol=member(entry, "protocol", str, "backend"),
        source=source,
        is_active=member(entry, "is_active", bool, "backend"),
        version=texts["version"],
        metadata=_read_metadata(texts["metadata"]),
        created_at=times["created_at"],
        updated_at=times["updated_at"],
    )


def _read_metadata(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        return an_object(json.loads(text), "metadata of a backend")
    except ValueError as error:
        raise ViolationError(f"metadata of a backend is no JSON text: {text!r}") from error


def read_backends(content: object) -> list[Backend]:
    """Read the event `backends`."""
    event = read_event(content, "backends")
    backends = [read_backend(entry) for entry in an_array(event.get("backends"), "backends")]
    order = [(-backend.created_at, backend.name) for backend in backends]
    if order != sorted(order):
        raise ViolationError(f"not newest first, then by name: {order}")
    return backends


def read_found(content: object) -> Backend | None:
    """Read the event `backend`, which says null where there is none."""
    event = read_event(content, "backend")
    if "backend" not in event:
        raise ViolationError(f"null is not explicit: {event}")
    return None if event["backend"] is None else read_backend(event["backend"])


def read_event(content: object, kind: str) -> dict[str, object]:
    """Read an event of one type."""
    event = an_object(content, "content")
    if member(event, "type", str, "content") != kind:
        raise ViolationError(f"an event of another type than {kind}: {event}")
    return event
