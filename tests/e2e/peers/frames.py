"""One frame of a Plexus server, read strictly: what the specification forbids is refused.

Source: manual/protocol.md, "Subscriptions" and "Stream items".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

MAX_SUBSCRIPTION = 2**53
HASH = re.compile(r"[0-9a-f]{16}")


class ViolationError(AssertionError):
    """The server broke a MUST of the wire protocol: a real client breaks here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcError:
    """The error object of a response."""

    code: int
    message: str
    data: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer to one request: a result or an error."""

    id: object
    result: object
    error: RpcError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Who produced an item, under which root hash, when (Unix seconds)."""

    provenance: tuple[str, ...]
    plexus_hash: str
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A piece of what was asked for."""

    metadata: Metadata
    content_type: str
    content: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The item `error`, which ends a stream.

    Attributes:
        kind: `error_kind` of newer servers.
        error: The typed `error` object of newer servers.
    """

    metadata: Metadata
    message: str
    code: str | None
    recoverable: bool
    kind: str | None
    error: dict[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The other end of a stream."""

    metadata: Metadata


Item = Data | Failure | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One item of one stream."""

    method: str
    subscription: int
    item: Item


def read_frame(frame: str | bytes) -> Response | Notification:
    """Read one frame.

    Raises:
        ViolationError: It is not what a Plexus server may send.
    """
    if isinstance(frame, bytes):
        raise ViolationError(f"a binary frame: {frame!r}")
    try:
        value: object = json.loads(
            frame, object_pairs_hook=_unique_members, parse_constant=_no_constant
        )
    except ValueError as error:
        raise ViolationError(f"not JSON ({error}): {frame!r}") from error
    message = an_object(value, "frame")
    if message.get("jsonrpc") != "2.0":
        raise ViolationError(f'jsonrpc is {message.get("jsonrpc")!r}, not "2.0": {frame}')
    return _read_notification(message) if "method" in message else _read_response(message)


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ViolationError(f"a member is given twice: {[name for name, _ in pairs]}")
    return members


def _no_constant(name: str) -> object:
    raise ViolationError(f"{name} is no JSON")


def _read_response(message: Mapping[str, object]) -> Response:
    # jsonrpsee refuses members that it does not know, in the response and in its error object.
    only(message, {"jsonrpc", "id", "result", "error"}, "response")
    if "id" not in message:
        raise ViolationError(f"neither a method nor an id: {message}")
    if ("result" in message) == ("error" in message):
        raise ViolationError(f"a response has a result or an error: {message}")
    if "result" in message:
        return Response(id=message["id"], result=message["result"], error=None)
    error = an_object(message["error"], "error")
    only(error, {"code", "message", "data"}, "error")
    return Response(
        id=message["id"],
        result=None,
        error=RpcError(
            code=member(error, "code", int, "error"),
            message=member(error, "message", str, "error"),
            data=error.get("data"),
        ),
    )


def _read_notification(message: Mapping[str, object]) -> Notification:
    if "id" in message:
        raise ViolationError(f"a notification has an id: {message}")
    only(message, {"jsonrpc", "method", "params"}, "notification")
    params = an_object(message.get("params"), "params")
    if "error" in params:
        raise ViolationError(f"params.error is not what Haskell can read: {params}")
    only(params, {"subscription", "result"}, "params")
    return Notification(
        method=member(message, "method", str, "notification"),
        subscription=read_subscription(params.get("subscription"), "params.subscription"),
        item=read_item(params.get("result")),
    )


def read_subscription(value: object, where: str) -> int:
    """Read a subscription id: a JSON integer that a JavaScript number holds exactly."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ViolationError(f"{where} is {value!r}, not an integer number")
    if not 0 <= value < MAX_SUBSCRIPTION:
        raise ViolationError(f"{where} is {value}, not from 0 to 2^53 - 1")
    return value


def read_item(value: object) -> Item:
    """Read one stream item."""
    item = an_object(value, "item")
    kind = member(item, "type", str, "item")
    metadata = _read_metadata(item.get("metadata"))
    match kind:
        case "data":
            only(item, {"type", "metadata", "content_type", "content"}, "data item")
            if "content" not in item:
                raise ViolationError("data item has no content")
            content_type = member(item, "content_type", str, "data item")
            return Data(metadata=metadata, content_type=content_type, content=item["content"])
        case "error":
            return Failure(
                metadata=metadata,
                message=member(item, "message", str, "error item"),
                code=optional(item, "code", str, "error item"),
                recoverable=member(item, "recoverable", bool, "error item"),
                kind=optional(item, "error_kind", str, "error item"),
                error=_read_typed_error(item),
            )
        case "done":
            only(item, {"type", "metadata"}, "done item")
            return Done(metadata=metadata)
        case _:
            raise ViolationError(f"an item of type {kind!r}, which a registry never sends")


def _read_typed_error(item: Mapping[str, object]) -> dict[str, object] | None:
    if "error" not in item:
        return None
    error = an_object(item["error"], "item.error")
    member(error, "kind", str, "item.error")
    return error


def _read_metadata(value: object) -> Metadata:
    metadata = an_object(value, "metadata")
    provenance = an_array(metadata.get("provenance"), "metadata.provenance")
    names = tuple(name for name in provenance if isinstance(name, str))
    if not names or len(names) < len(provenance):
        raise ViolationError(f"metadata.provenance is {provenance}, not some names")
    timestamp = member(metadata, "timestamp", int, "metadata")
    return Metadata(
        provenance=names, plexus_hash=read_hash(metadata, "plexus_hash"), timestamp=timestamp
    )


def read_hash(holder: Mapping[str, object], name: str) -> str:
    """Read a member that is a hash: 16 lowercase hex digits."""
    text = member(holder, name, str, "object")
    if HASH.fullmatch(text) is None:
        raise ViolationError(f"{name} is {text!r}, not 16 lowercase hex digits")
    return text


def an_object(value: object, where: str) -> dict[str, object]:
    """Insist on a JSON object."""
    if not isinstance(value, dict):
        raise ViolationError(f"{where} is {value!r}, not an object")
    return value


def an_array(value: object, where: str) -> list[object]:
    """Insist on a JSON array."""
    if not isinstance(value, list):
        raise ViolationError(f"{where} is {value!r}, not an array")
    return value


def member(holder: Mapping[str, object], name: str, kind: type[T], where: str) -> T:
    """Insist on a member of exactly one JSON type: `true` is no integer, nor is 1.0."""
    if name not in holder:
        raise ViolationError(f"{where} has no {name}: {holder}")
    value = holder[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ViolationError(f"{where}.{name} is {value!r}, not of type {kind.__name__}")
    return value


def optional(holder: Mapping[str, object], name: str, kind: type[T], where: str) -> T | None:
    """Insist on a type where the member is there; what is unset is left out, never null."""
    return member(holder, name, kind, where) if name in holder else None


def only(holder: Mapping[str, object], known: set[str], where: str) -> None:
    """Insist on there being no other members."""
    if unknown := sorted(holder.keys() - known):
        raise ViolationError(f"{where} has unknown members {unknown}: {holder}")
