"""What each method reports, with its shape on the wire.

An event is encoded once, as JSON text with the tag `type` first. What is asked for often, one
backend or all of them, the catalog keeps encoded.

Source: wire protocol, section 6, "content".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plexus_registry.core.model import Backend

if TYPE_CHECKING:
    from plexus_registry.core.errors import MethodError


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A method's report."""


class Listed(Event, frozen=True, tag="backends"):
    """The backends, newest first."""

    backends: tuple[Backend, ...]


class Found(Event, frozen=True, tag="backend"):
    """The backend that was asked for, or null."""

    backend: Backend | None


class BackendRegistered(Event, frozen=True, tag="backend_registered"):
    """A backend was registered."""

    backend: Backend


class BackendUpdated(Event, frozen=True, tag="backend_updated"):
    """A backend was updated."""

    backend: Backend


class BackendDeleted(Event, frozen=True, tag="backend_deleted"):
    """A backend was deleted."""

    name: str


class BackendDeregistered(Event, frozen=True, tag="backend_deregistered"):
    """A backend said goodbye and is inactive."""

    name: str


class Pinged(Event, frozen=True, tag="ping"):
    """The answer to a ping, successful or not."""

    name: str
    success: bool
    message: str


class Reloaded(Event, frozen=True, tag="reloaded"):
    """The config file was read: how many backends it states, and the names that changed."""

    count: int
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Failed(Event, frozen=True, tag="error"):
    """The request was refused; `code` is the word of the error."""

    message: str
    code: str


EVENTS: tuple[type[Event], ...] = (
    BackendRegistered,
    Listed,
    Found,
    BackendUpdated,
    BackendDeleted,
    BackendDeregistered,
    Pinged,
    Reloaded,
    Failed,
)
"""All that a method can report, in the order of the schema."""


_encode = msgspec.json.Encoder().encode


def encode_event(event: Event) -> str:
    """Encode an event as the JSON text that goes into a reply."""
    return _encode(event).decode()


def encode_backend(backend: Backend) -> str:
    """Encode a backend as the JSON text that goes into events."""
    return _encode(backend).decode()


def encode_failed(error: MethodError) -> str:
    """Encode a refusal as the event that reports it, with all that the caller needs to act."""
    return encode_value({"type": "error", "message": error.message, **error.data})


def encode_value(value: object) -> str:
    """Encode any JSON value, records included."""
    return _encode(value).decode()


def encode_found(backend: str | None) -> str:
    """Put an encoded backend, or null, in the event that answers `get`."""
    return f'{{"type":"backend","backend":{backend or "null"}}}'


def encode_listed(backends: list[str]) -> str:
    """Put encoded backends in the event that answers `list`."""
    return f'{{"type":"backends","backends":[{",".join(backends)}]}}'


def pinged(name: str, *, success: bool) -> Pinged:
    """Report a ping in the original's words."""
    message = "Backend health check updated" if success else f"Backend not found: {name}"
    return Pinged(name=name, success=success, message=message)
