"""JSON-RPC 2.0: text of a frame to requests, and answers to text.

A frame is one request or a batch of them; each is a valid JSON-RPC 2.0 request, or the error that
answers it. Ids are kept as text, and echoed as they came. A notification has no id and is never
answered.

The cost of a frame is bounded beforehand: a frame with too many commas and brackets is not decoded
at all, and the other checks (nesting, members given twice) are native code.

Source: JSON-RPC 2.0, sections 4 to 6; manual/protocol.md, "Requests and responses".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import msgspec

from plexus_registry.rules.errors import (
    BatchTooLargeError,
    CallError,
    InvalidRequestError,
    NestingLimitError,
    ParseError,
    ProtocolError,
    clipped,
    shown,
)
from plexus_registry.rules.events import encode_value

if TYPE_CHECKING:
    from plexus_registry.rules.parameters import Limits

NULL_ID = "null"
MAX_SEPARATORS = 30_000
"""How many commas and opening brackets a frame may have, those in strings included.

There are no more values than that in it, so it bounds the time and the memory of decoding. A full
batch of registrations with ten members of metadata each stays below it.
"""


class Request(msgspec.Struct, frozen=True):
    """One call.

    Attributes:
        method: The method's name as the caller wrote it.
        params: The decoded `params`; None if absent or null.
        id: The text of the id; None for a notification.
    """

    method: str
    params: object
    id: str | None


@dataclass(frozen=True, slots=True)
class Invalid:
    """A part of a frame that is not a valid request: the error, and the id to answer with."""

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
    params: dict[str, object] | list[object] | msgspec.UnsetType | None = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _WithId(msgspec.Struct):
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_loose = msgspec.json.Decoder(_WithId).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_frame(frame: str | bytes, limits: Limits) -> Frame:
    """Read one frame, of text or of bytes that should be UTF-8; any text makes a `Frame`."""
    if isinstance(frame, bytes):
        try:
            frame = frame.decode()
        except UnicodeDecodeError as error:
            return _unreadable(f"not UTF-8: {error.reason}")
    elif not frame.isascii() and _has_lone_surrogate(frame):
        return _unreadable("not Unicode: a lone surrogate")
    if len(frame) > MAX_SEPARATORS and sum(map(frame.count, ",{[")) > MAX_SEPARATORS:
        reason = (
            f"too many values: at most {MAX_SEPARATORS} commas and opening brackets;"
            " send it in parts"
        )
        return _unreadable(reason, NestingLimitError)
    if frame[:1] != "{" and frame.lstrip(" \t\r\n").startswith("["):
        return _read_batch(frame, limits)
    return _read_request(frame, limits.nesting)


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read_batch(text: str, limits: Limits) -> Batch | Invalid:
    try:
        members = _decode_array(text)
    except msgspec.DecodeError as error:
        return _unreadable(str(error))
    except RecursionError:
        return _too_deep(limits.nesting)
    if not members:
        return Invalid(NULL_ID, InvalidRequestError("Invalid request", reason="empty batch"))
    if len(members) > limits.batch_requests:
        most = limits.batch_requests
        reason = f"{len(members)} requests in a batch, at most {most} are allowed"
        return Invalid(NULL_ID, BatchTooLargeError("Batch is too large", reason=reason))
    items: list[Request | Invalid] = []
    for member in members:
        item = _read_request(str(member, "utf-8"), limits.nesting, level=2)
        # The members were only skipped over so far: one of them may still be no JSON.
        if isinstance(item, Invalid) and isinstance(item.error, ParseError):
            return Invalid(NULL_ID, item.error)
        items.append(item)
    return Batch(tuple(items))


def _read_request(text: str, max_nesting: int, level: int = 1) -> Request | Invalid:
    """Read one request, whose outermost brackets are at a level of the frame."""
    try:
        envelope = _decode_envelope(text)
        given, raw_id = envelope.params, envelope.id
        params = None if given is msgspec.UNSET else given
        brackets = text.count("{") + text.count("[")
        if level + brackets - 1 > max_nesting and level + _depth(text) - 1 > max_nesting:
            return _too_deep(max_nesting)
        # The decoder keeps only the last of equal members, and each member has a colon. If the
        # text has no more of them than what was kept, none was given twice. An escaped colon in a
        # string would spoil the count.
        kept = 2 + (given is not msgspec.UNSET) + (raw_id is not msgspec.UNSET)
        if params:
            kept += _encode(params).count(b":")
        is_plain = text.count(":") == kept and "\\u" not in text
        repeated = None if is_plain else _repeated_key(text)
    except msgspec.ValidationError as error:
        return _refuse(text, str(error), max_nesting)
    except msgspec.DecodeError as error:
        return _unreadable(str(error))
    except RecursionError:
        return _too_deep(max_nesting)
    if repeated is not None:
        return _refuse(text, f"member {shown(repeated)} is given twice", max_nesting)
    request_id = _id_text(raw_id)
    if request_id == _BAD_ID:
        return _refuse(text, "id must be a string, a number or null", max_nesting)
    return Request(envelope.method, params, request_id)


def _too_deep(max_nesting: int) -> Invalid:
    reason = f"nested too deeply: at most {max_nesting} levels"
    return _unreadable(reason, NestingLimitError)


_BAD_ID = ""


def _id_text(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    if raw is msgspec.UNSET:
        return None
    text = str(raw, "utf-8")
    return text if text[0] in '"-0123456789' or text == NULL_ID else _BAD_ID


def _refuse(text: str, reason: str, max_nesting: int) -> Invalid:
    """Explain why a JSON text is not a request; the error has its id, if that is usable."""
    try:
        _decode_raw(text)  # a wrong type may have been found before a wrong syntax
    except msgspec.DecodeError as error:
        return _unreadable(str(error))
    except RecursionError:
        return _too_deep(max_nesting)
    try:
        request_id = _id_text(_decode_loose(text).id) or NULL_ID
    except msgspec.ValidationError:
        request_id = NULL_ID  # no object
    return Invalid(request_id, InvalidRequestError("Invalid request", reason=clipped(reason)))


def _unreadable(reason: str, kind: type[ParseError] = ParseError) -> Invalid:
    return Invalid(NULL_ID, kind("Parse error", reason=reason))


_NO_BRACKET_OR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def _depth(text: str) -> int:
    """Count the levels of arrays and objects in valid JSON, without a loop in Python."""
    data = text.encode()
    if b"\\" in data:
        data = data.replace(rb"\\", b"").replace(rb"\"", b"")
    # Between each two quotes there is a string now, with whatever brackets it holds.
    brackets = b"".join(data.translate(None, _NO_BRACKET_OR_QUOTE).split(b'"')[::2])
    return max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0)


def _repeated_key(text: str) -> str | None:
    """Find a member that valid JSON gives twice; this reads the whole text once more."""
    repeated: list[str] = []

    def note_repeats(pairs: list[tuple[str, object]]) -> None:
        if len(dict(pairs)) < len(pairs) and not repeated:
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    repeated.append(key)
                seen.add(key)

    json.loads(text, object_pairs_hook=note_repeats, parse_int=str, parse_float=str)
    return repeated[0] if repeated else None


def result_response(request_id: str, result: str) -> str:
    """Answer a request with its result, which is JSON text."""
    return f'{{"jsonrpc":"2.0","id":{request_id},"result":{result}}}'


def error_response(request_id: str, error: CallError) -> str:
    """Answer a request with an error object: code, message, data."""
    detail = encode_value({"code": error.code, "message": error.message, "data": error.data})
    return f'{{"jsonrpc":"2.0","id":{request_id},"error":{detail}}}'
