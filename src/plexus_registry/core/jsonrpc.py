"""JSON-RPC 2.0: text of a frame to requests, and answers to text.

A frame is one request or a batch of them; each is an object that the letter of JSON-RPC 2.0
accepts, or the error that says why not. Ids are kept as the text they came in and echoed
verbatim. A notification has no id and is never answered.

Source: JSON-RPC 2.0, sections 4 to 6; wire protocol, section 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from plexus_registry.core.errors import (
    BatchTooLargeError,
    InvalidRequestError,
    MethodError,
    NestingLimitError,
    ParseError,
    ProtocolError,
    shown,
)
from plexus_registry.core.events import encode_value

if TYPE_CHECKING:
    from collections.abc import Iterable

NULL_ID = "null"


class Request(msgspec.Struct, frozen=True):
    """One call.

    Attributes:
        method: The method's name as the caller wrote it.
        params: The decoded `params`; None where absent or null.
        id: The text of the id; None for a notification.
    """

    method: str
    params: object
    id: str | None


@dataclass(frozen=True, slots=True)
class Invalid:
    """What stands in a request's place and is none.

    Attributes:
        id: The text of the id that the answer echoes.
        error: What is wrong with it.
    """

    id: str
    error: ProtocolError


@dataclass(frozen=True, slots=True)
class Batch:
    """Several requests in one frame, answered in one frame."""

    items: tuple[Request | Invalid, ...]


Frame = Request | Invalid | Batch


class _Envelope(msgspec.Struct):
    jsonrpc: Literal["2.0"]
    method: str
    params: object = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _LooseEnvelope(msgspec.Struct):
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_loose = msgspec.json.Decoder(_LooseEnvelope).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_frame(frame: str | bytes, *, max_batch: int, max_nesting: int) -> Frame:
    """Read one frame, whatever is in it.

    Args:
        frame: A text frame, or a binary frame that should hold UTF-8 JSON.
        max_batch: The number of requests that a batch may hold.
        max_nesting: The levels of JSON that the parameters of a request may have.

    Returns:
        The request, the batch, or the error to answer with.
    """
    if isinstance(frame, bytes):
        try:
            frame = frame.decode()
        except UnicodeDecodeError as error:
            return Invalid(NULL_ID, _parse_error(f"not UTF-8: {error.reason}"))
    elif not frame.isascii() and _has_lone_surrogate(frame):
        return Invalid(NULL_ID, _parse_error("not Unicode: a lone surrogate"))
    if frame[:1] != "{" and frame.lstrip(" \t\r\n").startswith("["):
        return _read_batch(frame, max_batch, max_nesting)
    return _read_request(frame, max_nesting)


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read_batch(text: str, max_batch: int, max_nesting: int) -> Batch | Invalid:
    try:
        members = _decode_array(text)
    except msgspec.DecodeError as error:
        return Invalid(NULL_ID, _parse_error(str(error)))
    except RecursionError:
        return _too_deep(max_nesting)
    if not members:
        return Invalid(NULL_ID, InvalidRequestError("Invalid request", reason="empty batch"))
    if len(members) > max_batch:
        reason = f"{len(members)} requests in a batch, at most {max_batch} are allowed"
        return Invalid(NULL_ID, BatchTooLargeError("Batch is too large", reason=reason))
    items = tuple(_read_request(bytes(member).decode(), max_nesting) for member in members)
    # The members were only skipped over so far: one of them may still be no JSON.
    for item in items:
        if isinstance(item, Invalid) and isinstance(item.error, ParseError):
            return Invalid(NULL_ID, item.error)
    return Batch(items)


def _read_request(text: str, max_nesting: int) -> Request | Invalid:
    try:
        envelope = _decode_envelope(text)
        if not _is_plain(text, envelope):
            if _is_too_deep(envelope.params, max_nesting):
                return _too_deep(max_nesting)
            repeated = _repeated_key(text)
            if repeated is not None:
                return _refuse(text, f"member {shown(repeated)} is given twice", max_nesting)
    except msgspec.ValidationError as error:
        return _refuse(text, str(error), max_nesting)
    except msgspec.DecodeError as error:
        return Invalid(NULL_ID, _parse_error(str(error)))
    except RecursionError:
        return _too_deep(max_nesting)
    request_id = _id_text(envelope.id)
    if request_id == _BAD_ID:
        return _refuse(text, "id must be a string, a number or null", max_nesting)
    params = None if envelope.params is msgspec.UNSET else envelope.params
    return Request(envelope.method, params, request_id)


def _too_deep(max_nesting: int) -> Invalid:
    reason = f"nested too deeply: at most {max_nesting} levels"
    return Invalid(NULL_ID, NestingLimitError("Parse error", reason=reason))


_BAD_ID = ""


def _id_text(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    if isinstance(raw, msgspec.UnsetType):
        return None
    text = bytes(raw).decode()
    return text if text[0] in '"-0123456789' or text == NULL_ID else _BAD_ID


def _refuse(text: str, reason: str, max_nesting: int) -> Invalid:
    """Say what is wrong with JSON that is no request, under its id where it has a usable one."""
    try:
        _decode_raw(text)  # a wrong type may have been found before a wrong syntax
    except msgspec.DecodeError as error:
        return Invalid(NULL_ID, _parse_error(str(error)))
    except RecursionError:
        return _too_deep(max_nesting)
    try:
        request_id = _id_text(_decode_loose(text).id) or NULL_ID
    except msgspec.ValidationError:
        request_id = NULL_ID  # no object
    return Invalid(request_id, InvalidRequestError("Invalid request", reason=reason))


def _parse_error(reason: str) -> ParseError:
    return ParseError("Parse error", reason=reason)


def _is_plain(text: str, envelope: _Envelope) -> bool:
    """Whether params are flat and no member is named twice; a cheap look that may miss a yes.

    Every member has a colon, and the decoder keeps only the last of equal members: as many
    colons as members kept means that none was dropped and none is nested.
    """
    params, unset = envelope.params, msgspec.UNSET
    members = 2 + (params is not unset) + (envelope.id is not unset)
    if isinstance(params, dict):
        members += len(params)
    return text.count(":") == members and "[" not in text


def _is_too_deep(params: object, most: int) -> bool:
    level = [params]
    for _ in range(most):
        level = [inner for each in level for inner in _members(each)]
    return bool(level)


def _members(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _repeated_key(text: str) -> str | None:
    repeated: list[str] = []

    def note_repeats(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    json.loads(text, object_pairs_hook=note_repeats, parse_int=str)
    return repeated[0] if repeated else None


def result_response(request_id: str, result: str) -> str:
    """Answer a request with its result, which is JSON text."""
    return f'{{"jsonrpc":"2.0","id":{request_id},"result":{result}}}'


def error_response(request_id: str, error: ProtocolError | MethodError) -> str:
    """Answer a request with an error object: code, message, data."""
    detail = encode_value({"code": error.code, "message": error.message, "data": error.data})
    return f'{{"jsonrpc":"2.0","id":{request_id},"error":{detail}}}'
