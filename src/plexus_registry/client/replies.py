"""What a registry sends to its client, read once to frozen records.

Members that are not known here are passed over: a registry may be newer than its client.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec

from plexus_registry.rules.backend import Backend
from plexus_registry.rules.errors import RegistryUnavailableError, rebuilt
from plexus_registry.rules.probe_results import Step

if TYPE_CHECKING:
    from typing import Self

    from plexus_registry.rules.errors import MethodError, ProtocolError

T = TypeVar("T")


class Backends(tuple[Backend, ...]):
    """Backends, newest first.

    Attributes:
        revision: What they are the state of; `watch(since=...)` with it brings every change after
            it. None where the registry has no revisions.
    """

    revision: int | None

    def __new__(cls, backends: tuple[Backend, ...], revision: int | None) -> Self:
        """Join the backends and their revision."""
        self = super().__new__(cls, backends)
        self.revision = revision
        return self


class Refusal(msgspec.Struct, frozen=True):
    """The error member of an answer."""

    code: int
    message: str
    data: object = None

    def exception(self) -> ProtocolError | MethodError:
        """Make the exception of its code."""
        data = dict(self.data) if isinstance(self.data, dict) else {}
        if "holder" in data:
            with suppress(msgspec.ValidationError):  # it stays as it came
                data["holder"] = msgspec.convert(data["holder"], Backend)
        return rebuilt(self.code, self.message, data)


class Message(msgspec.Struct, frozen=True):
    """Whatever the registry sends: an answer, or a notification, which has a method."""

    id: object = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Refusal | None = None


class Item(msgspec.Struct, frozen=True):
    """An event, and the subscription that it is for."""

    subscription: int
    result: msgspec.Raw


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a method.

    Attributes:
        revision: The state after it, where it changed or listed something.
    """

    revision: int | None = None


class Found(Reply, frozen=True):
    """The backend that was asked for."""

    backend: Backend | None


class Held(Reply, frozen=True):
    """The backend as the registry has it now."""

    backend: Backend


class Listed(Reply, frozen=True):
    """The backends that were asked for."""

    backends: tuple[Backend, ...]


class Pinged(Reply, frozen=True):
    """Whether the name is known."""

    success: bool


class Reloaded(Reply, frozen=True):
    """The config file was read: how many backends it states, and the names that changed."""

    count: int
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Checked(Reply, frozen=True):
    """A backend was probed: each step, whether all went well, and how the backend is now."""

    name: str
    url: str
    ok: bool
    steps: tuple[Step, ...]
    backend: Backend | None


decode_message = msgspec.json.Decoder(Message).decode


def decode(text: str | msgspec.Raw, kind: type[T], what: str) -> T:
    """Read a text that the registry sent.

    Args:
        text: The text.
        kind: What it must be.
        what: What to call it where it is something else.

    Raises:
        RegistryUnavailableError: It is something else, or nests too deep.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise senseless(what, error) from error


def senseless(what: str, error: Exception) -> RegistryUnavailableError:
    """Say that an answer is none: whoever gives such ones is no registry."""
    return RegistryUnavailableError(f"{what} makes no sense: {error}")
