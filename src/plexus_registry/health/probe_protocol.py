"""What a probe says to a hub, and what it understands: bytes in, bytes out.

Theory of operation. A probe opens a WebSocket, asks `_info`, and is over with the first
`data` item of the answer, as a client's is. That item's metadata has the hash of the hub's schema;
where it has none, `HUB.hash` is asked next. Nothing is taken from the hub beyond `MAX_BYTES`, and
nothing that it says is followed. A general WebSocket library takes several times as long for this
little, and thousands of backends are asked all the time.

Source: RFC 6455, sections 4 and 5; manual/health.md, "Probes".
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64
from enum import IntEnum

import msgspec

from plexus_registry.rules.errors import RegistryError, shown
from plexus_registry.rules.parameters import is_text
from plexus_registry.rules.probe_results import Answered

MAX_BYTES = 64 * 1024
"""So much is read of one hub, HTTP head and frames together."""

MAX_CONTROL_BYTES = 125
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HEAD_END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r\n)")
_ACCEPT = re.compile(
    rb"\r\nsec-websocket-accept[ \t]*:[ \t]*([^ \t\r]*)[ \t]*(?=\r\n)", re.IGNORECASE
)
_HASH = re.compile(r"[0-9a-f]{16}", re.ASCII)
_CREDENTIAL_WANTED = (401, 403)
_INFO_ID, _HASH_ID = 1, 2


class Opcode(IntEnum):
    """What a frame is. Source: RFC 6455, section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES = {opcode.value: opcode for opcode in Opcode}
_DATA_OPCODES = frozenset({Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY})


class ProbeProtocolError(RegistryError):
    """The hub does not say what a hub says."""


class CredentialError(RegistryError):
    """The hub answers, but wants to know who is asking."""


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub says of itself.

    Attributes:
        name: What it is called.
        version: Its version, where it says one.
    """

    name: str
    version: str | None = None


class _Item(msgspec.Struct):
    type: object = None
    content: object = None
    message: object = None
    metadata: object = None


class _Params(msgspec.Struct):
    subscription: object = None
    result: _Item | None = None
    error: object = None


class _Error(msgspec.Struct):
    message: object = None


class _Message(msgspec.Struct):
    id: object = None
    result: object = None
    error: _Error | None = None
    params: _Params | None = None


_decode = msgspec.json.Decoder(_Message).decode


def _request(number: int, method: str, params: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


_ASK_INFO = _request(_INFO_ID, "_info", None)


def _authority(host: str, port: int) -> str:
    """Give a host and port as they stand in a URL, without the zone of an address."""
    host = host.partition("%")[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ProbeProtocol:
    """What one probe says and hears.

    Attributes:
        request: What to send first.
        is_open: Whether the WebSocket is open.
        info: What the hub says of itself, once it said so.
        schema_hash: The hash of its schema, once it said one.
        is_over: Whether there is nothing more to learn.
    """

    def __init__(self, host: str, port: int, key: bytes) -> None:
        """Prepare it.

        Args:
            host: Whose hub is asked: a name, or an address without brackets.
            port: Its port.
            key: 16 random bytes.
        """
        nonce = b2a_base64(key, newline=False)
        self._accept = b2a_base64(
            hashlib.sha1(nonce + _MAGIC, usedforsecurity=False).digest(), newline=False
        )
        self._mask = key[:4]
        self.request = (
            b"GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n"
            % (_authority(host, port).encode("ascii"), nonce)
        )
        self.is_open = False
        self.info: Info | None = None
        self.schema_hash: str | None = None
        self.is_over = False
        self._buffer = b""
        self._read = 0
        self._left = MAX_BYTES
        self._parts: list[bytes] = []

    def receive(self, data: bytes) -> bytes:
        """Take in what the hub sent, in pieces of any size.

        Returns:
            What to send next; often nothing.

        Raises:
            ProbeProtocolError: It is nothing that a hub says, or too much.
            CredentialError: The hub answers with HTTP status 401 or 403.
        """
        self._left -= len(data)
        if self._left < 0:
            raise ProbeProtocolError(f"it says more than {MAX_BYTES} bytes")
        self._buffer += data
        replies = []
        if not self.is_open:
            head, end, rest = self._buffer.partition(_HEAD_END)
            if not end:
                return b""
            self._read_head(head + b"\r\n")
            self._buffer = rest
            self.is_open = True
            replies.append(self._frame(Opcode.TEXT, _ASK_INFO))
        while not self.is_over and (frame := self._next_frame()) is not None:
            replies.append(self._take(*frame))
        self._buffer = self._buffer[self._read :]
        self._read = 0
        return b"".join(replies)

    def answer(self, latency_ms: float) -> Answered | None:
        """Give what the hub said so far; None where it did not say who it is."""
        if self.info is None:
            return None
        return Answered(
            name=self.info.name,
            version=self.info.version,
            latency_ms=latency_ms,
            schema_hash=self.schema_hash,
        )

    @property
    def goodbye(self) -> bytes:
        """What to send last: the close frame of a WebSocket that is open."""
        return self._frame(Opcode.CLOSE, b"\x03\xe8") if self.is_open else b""

    def _read_head(self, head: bytes) -> None:
        status = _STATUS.match(head)
        if status is None:
            # Whoever asks for a probe must not read what services say that are no hubs.
            raise ProbeProtocolError("it answers, but does not speak HTTP")
        code = int(status[1])
        if code in _CREDENTIAL_WANTED:
            raise CredentialError(f"it wants a credential: HTTP status {code}")
        if code != 101:
            hint = ", and redirects are not followed" if 300 <= code < 400 else ""
            raise ProbeProtocolError(f"it answers with HTTP status {code}{hint}")
        accept = _ACCEPT.search(head)
        if accept is None or accept[1] != self._accept:
            raise ProbeProtocolError("it answers the upgrade with a wrong key")

    def _next_frame(self) -> tuple[Opcode, bool, bytes] | None:
        """Take the next whole frame off the buffer."""
        buffer, start = self._buffer, self._read + 2
        if len(buffer) < start:
            return None
        first, length = buffer[start - 2], buffer[start - 1]
        if first & 0x70 or length & 0x80:
            raise ProbeProtocolError("it sends frames that break RFC 6455")
        if length > MAX_CONTROL_BYTES:
            start, size = start + (2 if length == 126 else 8), start
            length = int.from_bytes(buffer[size:start], "big")
        if len(buffer) < start + length:
            return None
        opcode = _OPCODES.get(first & 0x0F)
        if opcode is None:
            raise ProbeProtocolError(f"it sends frames of type {first & 0x0F}")
        self._read = start + length
        return opcode, bool(first & 0x80), buffer[start : start + length]

    def _take(self, opcode: Opcode, is_last: bool, payload: bytes) -> bytes:
        if opcode in _DATA_OPCODES:
            return self._take_part(payload, is_last=is_last)
        match opcode:
            case Opcode.PING:
                return self._frame(Opcode.PONG, payload[:MAX_CONTROL_BYTES])
            case Opcode.CLOSE:
                code = int.from_bytes(payload[:2], "big")
                raise ProbeProtocolError(f"it closes the connection with code {code}")
        return b""

    def _take_part(self, payload: bytes, *, is_last: bool) -> bytes:
        if is_last and not self._parts:
            return self._understand(payload)
        self._parts.append(payload)
        if not is_last:
            return b""
        text = b"".join(self._parts)
        self._parts.clear()
        return self._understand(text)

    def _understand(self, text: bytes) -> bytes:
        try:
            message = _decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise ProbeProtocolError("it says something that is no JSON-RPC message") from None
        if message.error is not None and message.id is not None:
            return self._refused(message.error.message)
        if message.params is None:
            return b""
        item = message.params.result
        if item is None:
            return self._refused(message.params.error)
        match item.type:
            case "data" if self.info is None:
                return self._introduced(item)
            case "data":
                self._note_hash(item.content, "value")
                self.is_over = True
            case "error":
                return self._refused(item.message)
            case "done":
                return self._refused("the stream ends without data")
        return b""

    def _introduced(self, item: _Item) -> bytes:
        """Take the content of `_info`; where its metadata has no hash, ask for one."""
        content = item.content if isinstance(item.content, dict) else {}
        name, version = content.get("backend"), content.get("version")
        if not isinstance(name, str) or not name:
            raise ProbeProtocolError("it says no name of its own")
        is_version = isinstance(version, str) and version and is_text(version)
        self.info = Info(name=name, version=version if is_version else None)
        self._note_hash(item.metadata, "plexus_hash")
        if self.schema_hash is not None:
            self.is_over = True
            return b""
        return self._frame(Opcode.TEXT, _request(_HASH_ID, f"{name}.hash", {}))

    def _note_hash(self, value: object, member: str) -> None:
        found = value.get(member) if isinstance(value, dict) else None
        if isinstance(found, str) and _HASH.fullmatch(found):
            self.schema_hash = found

    def _refused(self, why: object) -> bytes:
        if self.info is None:
            raise ProbeProtocolError(f"it refuses _info: {shown(why)}")
        self.is_over = True  # it has no hash to tell
        return b""

    def _frame(self, opcode: Opcode, payload: bytes) -> bytes:
        """Make a masked frame, as clients must."""
        length = len(payload)
        if length <= MAX_CONTROL_BYTES:
            size = bytes([0x80 | length])
        elif length < 2**16:
            size = b"\xfe" + length.to_bytes(2, "big")
        else:
            raise ProbeProtocolError("its name is too long to be asked about")
        mask = (self._mask * (length // 4 + 1))[:length]
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
        return b"%c%b%b%b" % (0x80 | opcode, size, self._mask, masked.to_bytes(length, "big"))
