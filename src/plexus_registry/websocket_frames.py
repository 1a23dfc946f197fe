"""WebSockets without input or output: the handshake of a client, and the frames of both peers.

Theory of operation. A message is one data frame, or several that are joined. Control frames may
come between the parts of a message. `FrameReader` takes bytes in pieces of any size, checks each
frame against RFC 6455, and returns messages and control frames in their order. After a close frame
it returns nothing more. Extensions are not supported, so the reserved bits must be zero. Clients
mask their frames, and servers do not.

Source: RFC 6455, sections 4.1, 5 and 7.4.
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from codecs import getincrementaldecoder
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from plexus_registry.rules.errors import RegistryError

if TYPE_CHECKING:
    from codecs import IncrementalDecoder
    from collections.abc import Iterable, Iterator

MAX_CONTROL_BYTES = 125
"""The longest payload of a control frame; also the longest that one byte of length describes."""

PIECE_BYTES = 64 * 1024
"""A longer text is encoded and sent piece by piece."""

_MAX_HEAD_BYTES = 64 * 1024
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r\n)")
_ACCEPT = re.compile(rb"(?i)\r\nsec-websocket-accept[ \t]*:[ \t]*([^ \t\r]*)[ \t]*(?=\r\n)")
_ENCODED_AT_ONCE = 256 * 1024
_MAX_SHORT = 2**16 - 1
_TWO_BYTES, _EIGHT_BYTES = 126, 127
_LAST, _RESERVED, _CONTROL, _MASKED = 0x80, 0x70, 0x08, 0x80
_LAST_TEXT = 0x81
_Utf8Decoder = getincrementaldecoder("utf-8")


class Opcode(IntEnum):
    """The kind of a frame. Source: RFC 6455, section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES = frozenset(Opcode)


class CloseCode(IntEnum):
    """Why a connection is closed. Source: RFC 6455, section 7.4.1, and its registry at IANA."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011


_SENDABLE_CODES = frozenset((*range(1000, 1004), *range(1007, 1014), *range(3000, 5000)))


class FrameError(RegistryError):
    """A peer sends what RFC 6455 forbids, or too much; `code` is the close code for it."""

    def __init__(self, reason: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        self.code = code
        super().__init__(reason)


class ClientHandshake:
    """The handshake of a client, which sends the bytes of `request` first."""

    def __init__(self, authority: str, path: str, key: bytes, *, token: str | None = None) -> None:
        """Prepare the request; `key` is 16 random bytes, and all texts are ASCII."""
        nonce = b2a_base64(key, newline=False)
        digest = hashlib.sha1(nonce + _MAGIC, usedforsecurity=False).digest()
        self._accept = b2a_base64(digest, newline=False)
        self._head = b""
        credential = "" if token is None else f"Authorization: Bearer {token}\r\n"
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {nonce.decode()}\r\n"
            f"Sec-WebSocket-Version: 13\r\n{credential}\r\n"
        ).encode("ascii")

    def receive(self, data: bytes | bytearray) -> tuple[int, bytes] | None:
        """Read a piece of the answer; once its head is complete, return its status and the rest.

        Raises:
            FrameError: It is not the answer of a server.
        """
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if len(head) > _MAX_HEAD_BYTES:
            raise FrameError("the head of its answer is too long")
        if not end:
            return None
        head += b"\r\n"
        status = _STATUS.match(head)
        if status is None:
            # The text itself is not shown: a probe must not be a way to read other services.
            raise FrameError("it answers, but does not speak HTTP")
        accept = _ACCEPT.search(head)
        if status[1] == b"101" and (accept is None or accept[1] != self._accept):
            raise FrameError("it answers the upgrade with a wrong key")
        return int(status[1]), rest


class PingFrame(NamedTuple):
    """A ping frame."""

    payload: bytes


class PongFrame(NamedTuple):
    """A pong frame."""

    payload: bytes


class CloseFrame(NamedTuple):
    """A close frame; without a code in it, the code is `CloseCode.NO_STATUS`."""

    code: int
    reason: str


def encode_frame(
    opcode: Opcode, payload: bytes, *, is_last: bool = True, mask: bytes | None = None
) -> bytes:
    """Encode a frame; the last one ends its message. A client passes four random bytes as mask."""
    header = encode_header(opcode, len(payload), is_last=is_last, is_masked=mask is not None)
    return header + payload if mask is None else header + mask + apply_mask(payload, mask)


def encode_header(
    opcode: Opcode, length: int, *, is_last: bool = True, is_masked: bool = False
) -> bytes:
    """Encode what precedes the mask and the payload of a frame; `length` is the payload's."""
    first = opcode | _LAST if is_last else opcode
    masked = _MASKED if is_masked else 0
    if length <= MAX_CONTROL_BYTES:
        return bytes((first, masked | length))
    if length <= _MAX_SHORT:
        return bytes((first, masked | _TWO_BYTES)) + length.to_bytes(2, "big")
    return bytes((first, masked | _EIGHT_BYTES)) + length.to_bytes(8, "big")


def encode_close(code: int, reason: str = "", *, mask: bytes | None = None) -> bytes:
    """Encode a close frame; a reason that is too long is cut between two characters."""
    if code == CloseCode.NO_STATUS:
        return encode_frame(Opcode.CLOSE, b"", mask=mask)
    text = reason.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore")
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big") + text.encode(), mask=mask)


def encode_texts(messages: Iterable[str | bytes]) -> Iterator[bytes]:
    """Encode texts; short ones are joined, also with frames, and long ones come in pieces."""
    short = bytearray()
    for message in messages:
        if isinstance(message, bytes):
            short += message
        elif len(message) <= PIECE_BYTES:
            short += encode_frame(Opcode.TEXT, message.encode())
        if len(short) > PIECE_BYTES or (short and len(message) > PIECE_BYTES):
            yield bytes(short)
            short.clear()
        if isinstance(message, str) and len(message) > PIECE_BYTES:
            yield from encode_in_pieces(message)
    if short:
        yield bytes(short)


def encode_in_pieces(text: str, *, is_first: bool = True, is_last: bool = True) -> Iterator[bytes]:
    """Encode a frame piece by piece."""
    length = len(text) if text.isascii() else len(text.encode())
    opcode = Opcode.TEXT if is_first else Opcode.CONTINUATION
    yield encode_header(opcode, length, is_last=is_last) + text[:_ENCODED_AT_ONCE].encode()
    for start in range(_ENCODED_AT_ONCE, len(text), _ENCODED_AT_ONCE):
        yield text[start : start + _ENCODED_AT_ONCE].encode()


def apply_mask(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """Mask a payload, or unmask one; `mask` has four bytes. Source: RFC 6455, section 5.3."""
    length = len(payload)
    # One operation on long numbers is faster than many on bytes.
    repeated = (mask * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return masked.to_bytes(length, "big")


class FrameReader:
    """Reads messages and control frames from the bytes of one peer until a close frame came."""

    def __init__(self, *, is_peer_client: bool, max_message_bytes: int | None = None) -> None:
        """Create a reader for a new connection. A larger message is refused at its header."""
        self._is_masked = is_peer_client
        self._max_message_bytes = max_message_bytes
        # The end of the longest short text; its head and its mask have six bytes.
        most = MAX_CONTROL_BYTES if max_message_bytes is None else max_message_bytes
        self._short_end = 6 + min(most, MAX_CONTROL_BYTES) if is_peer_client else 0
        self._buffer = bytearray()
        self._needed = 2
        # Of a message that is not complete: the kind, the parts and their size.
        self._kind: Opcode | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._utf8: IncrementalDecoder | None = None
        self.is_closed = False

    @property
    def missing(self) -> int:
        """How many bytes are known to be missing of the next frame."""
        return max(0, self._needed - len(self._buffer))

    @property
    def fragments(self) -> int:
        """The number of frames of a message that is not complete yet."""
        return len(self._parts)

    def feed(self, data: bytes | bytearray) -> None:
        """Store bytes that the peer sent."""
        self._buffer += data

    def read(self) -> str | bytes | PingFrame | PongFrame | CloseFrame | None:
        """Return the next text, binary message or control frame; None until more is fed.

        Raises:
            FrameError: The peer broke RFC 6455, or its message is too large. Do not read on.
        """
        try:
            while not self.is_closed and len(self._buffer) >= self._needed:
                text = self._take_short_text()
                if text is not None:
                    return text
                frame = self._take_frame()
                if frame is None:
                    return None
                opcode, is_last, payload = frame
                if opcode == Opcode.CLOSE:
                    self.is_closed = True
                    return _decode_close(payload)
                if opcode & _CONTROL:
                    return PingFrame(payload) if opcode == Opcode.PING else PongFrame(payload)
                message = self._take_part(opcode, payload, is_last=is_last)
                if message is not None:
                    return message
        except UnicodeDecodeError:
            raise FrameError("a text is not UTF-8", CloseCode.INVALID_DATA) from None
        return None

    def _take_short_text(self) -> str | None:
        """Remove a short masked text, as most messages are, in fewer steps than `_take_frame`."""
        buffer = self._buffer
        end = buffer[1] - _MASKED + 6
        is_text = buffer[0] == _LAST_TEXT and 6 <= end <= self._short_end
        if not is_text or self._kind is not None or len(buffer) < end:
            return None
        payload = apply_mask(buffer[6:end], buffer[2:6])
        del buffer[:end]
        self._needed = 2
        return payload.decode()

    def _take_frame(self) -> tuple[int, bool, bytes] | None:
        """Remove a whole frame from the buffer; return its opcode, `is_last` and payload."""
        buffer = self._buffer
        first, second = buffer[0], buffer[1]
        opcode, is_last, length, start = first & 0x0F, first >= _LAST, second & 0x7F, 2
        if opcode not in _OPCODES:
            raise FrameError(f"a frame has the unknown type {opcode}")
        if opcode & _CONTROL and (not is_last or length > MAX_CONTROL_BYTES):
            raise FrameError("a control frame is fragmented or too long")
        if length > MAX_CONTROL_BYTES:
            start, shorter = (4, MAX_CONTROL_BYTES) if length == _TWO_BYTES else (10, _MAX_SHORT)
            self._needed = start
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
            if length <= shorter or length >> 63:
                raise FrameError("the length of a frame is not in its shortest form, or too large")
        if first & _RESERVED:
            raise FrameError("a frame has a reserved bit")
        if (second >= _MASKED) is not self._is_masked:
            raise FrameError("a frame is not masked" if self._is_masked else "a frame is masked")
        if not opcode & _CONTROL:
            self._check_data(opcode, length)
        if self._is_masked:
            start += 4
        self._needed = end = start + length
        if len(buffer) < end:
            return None
        payload = bytes(buffer[start:end])
        if self._is_masked:
            payload = apply_mask(payload, buffer[start - 4 : start])
        del buffer[:end]
        self._needed = 2
        return opcode, is_last, payload

    def _check_data(self, opcode: int, length: int) -> None:
        """Refuse a data frame at its header if it is out of place, or its message too large."""
        if (opcode == Opcode.CONTINUATION) is (self._kind is None):
            expected = "a continuation" if self._kind is not None else "a new message"
            raise FrameError(f"a frame of type {opcode} came instead of {expected}")
        most = self._max_message_bytes
        if most is not None and self._size + length > most:
            raise FrameError(f"a message has more than {most} bytes", CloseCode.MESSAGE_TOO_BIG)

    def _take_part(self, opcode: int, payload: bytes, *, is_last: bool) -> str | bytes | None:
        """Add a data frame to its message; return the message when it is complete."""
        if self._kind is None:
            if is_last:
                return payload.decode() if opcode == Opcode.TEXT else payload
            self._kind = Opcode(opcode)
            self._utf8 = _Utf8Decoder() if opcode == Opcode.TEXT else None
        self._parts.append(payload)
        self._size += len(payload)
        if self._utf8 is not None:
            self._utf8.decode(payload, is_last)  # it raises an error before all has come
        if not is_last:
            return None
        whole = b"".join(self._parts)
        message = whole if self._utf8 is None else whole.decode()
        self._kind, self._parts, self._size, self._utf8 = None, [], 0, None
        return message


def _decode_close(payload: bytes) -> CloseFrame:
    if not payload:
        return CloseFrame(CloseCode.NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if code not in _SENDABLE_CODES:
        raise FrameError("a close frame has no valid code")
    return CloseFrame(code, payload[2:].decode())
