"""The events that methods report, with their shape on the wire.

An event is encoded once, as JSON text with the tag `type` first. The first line of a docstring here
is part of the schema that clients see, and of its hash.

Source: manual/protocol.md, "Events".
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules.backend import Backend
from plexus_registry.rules.states import Step

if TYPE_CHECKING:
    from plexus_registry.rules.errors import MethodError, WatchEnded


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A method's report."""


class Change(Event, frozen=True):
    """A report on the registry at one revision."""

    revision: int


class Dated(Change, frozen=True, kw_only=True, omit_defaults=True):
    """A report on one change; a watch adds its time, in Unix milliseconds."""

    at: int | None = None


class Listed(Change, frozen=True, tag="backends"):
    """The backends, newest first."""

    backends: tuple[Backend, ...]


class Found(Event, frozen=True, tag="backend"):
    """The backend that was asked for, or null."""

    backend: Backend | None


class BackendRegistered(Dated, frozen=True, tag="backend_registered"):
    """A backend was registered."""

    backend: Backend


class BackendUpdated(Dated, frozen=True, tag="backend_updated"):
    """A backend was updated."""

    backend: Backend


class BackendDeleted(Dated, frozen=True, tag="backend_deleted"):
    """A backend was deleted."""

    name: str


class BackendDeregistered(Change, frozen=True, tag="backend_deregistered"):
    """A backend said goodbye and is inactive."""

    name: str


class BackendStale(Dated, frozen=True, tag="backend_stale"):
    """A backend became inactive: it was silent too long, or said goodbye."""

    backend: Backend


class BackendActive(Dated, frozen=True, tag="backend_active"):
    """A backend that was inactive is active again."""

    backend: Backend


class Pinged(Event, frozen=True, omit_defaults=True, tag="ping"):
    """The answer to a ping, successful or not; with a revision if it revived the backend."""

    name: str
    success: bool
    message: str
    revision: int | None = None


class Reloaded(Dated, frozen=True, omit_defaults=False, tag="reloaded"):
    """The config file was read: how many backends it states, and the names that changed."""

    count: int
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Snapshot(Change, frozen=True, tag="snapshot"):
    """All backends, inactive ones too, newest first; the changes since then follow."""

    backends: tuple[Backend, ...]


class Compacted(Change, frozen=True, tag="compacted"):
    """What changed since the revision that was asked for is not known; a snapshot follows.

    Its revision is not one to resume from: that is the snapshot's.
    """


class Origin(StrEnum):
    """What can change the registry. Source: manual/history.md, "Who made a change"."""

    CALL = "call"
    FILE = "file"
    ENV = "env"
    AUTO = "auto"
    PROBE = "probe"
    SILENCE = "silence"
    START = "start"


class Cause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who or what made a change; a call has its method, and the client with its token."""

    origin: Origin
    method: str | None = None
    peer: str | None = None
    token: str | None = None


def called(method: str, *, peer: str | None = None, token: str | None = None) -> Cause:
    """Make the cause of a change by a call; without a peer, it is one of this process."""
    return Cause(origin=Origin.CALL, method=f"registry.{method}", peer=peer, token=token)


class LoggedChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One change of the history; older versions noted no `at`, `before` and `by`."""

    revision: int
    at: int | None
    type: str
    name: str | None
    before: Backend | None
    after: Backend | None
    by: Cause | None


class ChangeHistory(Change, frozen=True, tag="history"):
    """The last changes, newest first."""

    changes: tuple[LoggedChange, ...]


class Checked(Event, frozen=True, tag="checked"):
    """A backend was probed: each step, whether all went well, and how the backend is now."""

    name: str
    url: str
    ok: bool
    steps: tuple[Step, ...]
    backend: Backend | None


class Failed(Event, frozen=True, tag="error"):
    """The request was refused; `code` is the word of the error."""

    message: str
    code: str


class Ended(Failed, frozen=True, tag="error"):
    """A watch was cut off; `revision` is the last one that it reported."""

    revision: int | None = None


EVENTS: tuple[type[Event], ...] = (
    BackendRegistered,
    Listed,
    Found,
    BackendUpdated,
    BackendDeleted,
    BackendDeregistered,
    BackendStale,
    BackendActive,
    Pinged,
    Reloaded,
    Snapshot,
    Compacted,
    Checked,
    ChangeHistory,
    Failed,
)
"""All that a method can report, in the order of the schema."""


def kind_of_change(before: Backend | None, after: Backend | None) -> type[Dated] | None:
    """Find the event for a change of an effective backend.

    Returns:
        None if nothing changed but the time of its last sign of life.
    """
    if after is None:
        return None if before is None else BackendDeleted
    if before is None:
        return BackendRegistered
    if before.is_active != after.is_active:
        return BackendActive if after.is_active else BackendStale
    if msgspec.structs.replace(before, last_seen=after.last_seen) == after:
        return None
    return BackendUpdated


_encode = msgspec.json.Encoder().encode


def encode_value(value: object) -> str:
    """Encode any JSON value, events and backends included, as the text that goes into replies."""
    return _encode(value).decode()


def encode_failed(error: MethodError) -> str:
    """Encode a refusal as the event that reports it, with all that the caller needs to act."""
    return encode_value({"type": "error", "message": error.message, **error.data})


def encode_ended(error: WatchEnded) -> str:
    """Encode the end of a watch as the event that reports it."""
    return encode_value(Ended(message=error.message, code=error.code, revision=error.revision))


def encode_found(backend: str | None) -> str:
    """Put an encoded backend, or null, in the event that answers `get`."""
    return f'{{"type":"backend","backend":{backend or "null"}}}'


def encode_listed(backends: list[str], revision: int) -> str:
    """Put encoded backends in the event that answers `list`."""
    return f'{{"type":"backends","revision":{revision},"backends":[{",".join(backends)}]}}'


def encode_snapshot(backends: list[str], revision: int) -> str:
    """Put encoded backends in the event that begins a watch."""
    return f'{{"type":"snapshot","revision":{revision},"backends":[{",".join(backends)}]}}'


def pinged(name: str, *, success: bool, revision: int | None = None) -> Pinged:
    """Report a ping in the original's words."""
    message = "Backend health check updated" if success else f"Backend not found: {name}"
    return Pinged(name=name, success=success, message=message, revision=revision)
