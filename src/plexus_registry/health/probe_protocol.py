"""The protocol of a probe, without input or output: bytes in, bytes out.

Theory of operation. A probe opens a WebSocket and asks `_info`. Like a client, it stops reading
after the first `data` item of the answer. The metadata of that item contains the hash of the hub's
schema; if it does not, the probe asks `HUB.hash`. It reads at most `MAX_BYTES`, and follows nothing
that the hub sends. A general WebSocket library would take several times as long, and thousands of
backends are probed all the time.

Source: RFC 6455, section 4; manual/health.md, "Probes".
"""

from __future__ import annotations

import re

import msgspec

from plexus_registry.rules.errors import RegistryError, shown
from plexus_registry.rules.parameters import is_text
from plexus_registry.websocket_frames import (
    ClientHandshake,
    CloseCode,
    CloseFrame,
    FrameError,
    FrameReader,
    Opcode,
    PingFrame,
    PongFrame,
    encode_close,
    encode_frame,
)

MAX_BYTES = 64 * 1024
"""The most that is read of one hub, HTTP head and frames together."""

_HASH = re.compile(r"[0-9a-f]{16}", re.ASCII)
_CREDENTIAL_WANTED = (401, 403)


class ProbeProtocolError(RegistryError):
    """What answers does not behave like a hub."""


class CredentialError(RegistryError):
    """The hub answers, but wants a credential first."""


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


_ASK_INFO = _request(1, "_info", None)


class ProbeProtocol:
    """The two sides of one probe: bytes to send, and facts about the hub.

    Attributes:
        request: The bytes to send first.
        is_open: Whether the WebSocket is open.
        name: The hub's own name, when it is known.
        version: The hub's version, if it reports one.
        schema_hash: The hash of the hub's schema, if it reports one.
        is_over: Whether there is nothing more to learn.
    """

    def __init__(self, host: str, port: int, key: bytes) -> None:
        """Prepare a probe of the hub at a name or an address; `key` is 16 random bytes."""
        host = host.partition("%")[0]
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._handshake = ClientHandshake(authority, "/", key)
        self.request = self._handshake.request
        self._mask = key[:4]
        self.is_open = False
        self.name: str | None = None
        self.version: str | None = None
        self.schema_hash: str | None = None
        self.is_over = False
        self._left = MAX_BYTES
        self._info_subscription: object = None
        self._frames = FrameReader(is_peer_client=False)

    def receive(self, data: bytes) -> bytes:
        """Read what the hub sent, in pieces of any size.

        Returns:
            What to send next, often nothing.

        Raises:
            ProbeProtocolError: The hub sends something else than a hub does, or too much.
            CredentialError: The hub answers with HTTP status 401 or 403.
        """
        self._left -= len(data)
        if self._left < 0:
            raise ProbeProtocolError(f"it sends more than {MAX_BYTES} bytes")
        reply = b""
        if not self.is_open:
            try:
                answer = self._handshake.receive(data)
            except FrameError as error:
                raise ProbeProtocolError(str(error)) from None
            if answer is None:
                return b""
            status, data = answer
            _check_status(status)
            self.is_open = True
            reply = self._encode(Opcode.TEXT, _ASK_INFO)
        self._frames.feed(data)
        try:
            while not self.is_over and (frame := self._frames.read()) is not None:
                reply += self._read_frame(frame)
        except FrameError as error:
            raise ProbeProtocolError(f"it breaks the WebSocket protocol: {error}") from None
        return reply

    @property
    def goodbye(self) -> bytes:
        """The bytes to send last: a close frame if the WebSocket is open."""
        return encode_close(CloseCode.NORMAL, mask=self._mask) if self.is_open else b""

    def _read_frame(self, frame: str | bytes | PingFrame | PongFrame | CloseFrame) -> bytes:
        match frame:
            case PingFrame():
                return self._encode(Opcode.PONG, frame.payload)
            case PongFrame():
                return b""
            case CloseFrame():
                raise ProbeProtocolError(f"it closes the connection with code {frame.code}")
        return self._read_message(frame)

    def _read_message(self, text: str | bytes) -> bytes:
        try:
            message = _decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise ProbeProtocolError("it sends something that is not a JSON-RPC message") from None
        if message.error is not None and message.id is not None:
            return self._read_refusal(message.error.message)
        if message.params is None:
            return b""
        item, subscription = message.params.result, message.params.subscription
        if item is None:
            return self._read_refusal(message.params.error)
        match item.type:
            case "data" if self.name is None:
                self._info_subscription = subscription
                return self._read_info(item)
            case "data":
                self._read_hash(item.content, "value")
                self.is_over = True
            case "error":
                return self._read_refusal(item.message)
            # The stream of `_info` ends while the answer to `HUB.hash` is still awaited.
            case "done" if self.name is None or subscription != self._info_subscription:
                return self._read_refusal("the stream ends without data")
        return b""

    def _read_info(self, item: _Item) -> bytes:
        """Read the answer to `_info`; if its metadata has no hash, ask for the hash."""
        content = item.content if isinstance(item.content, dict) else {}
        name, version = content.get("backend"), content.get("version")
        if not isinstance(name, str) or not name:
            raise ProbeProtocolError("it reports no name of its own")
        self.name = name
        if isinstance(version, str) and version and is_text(version):
            self.version = version
        self._read_hash(item.metadata, "plexus_hash")
        if self.schema_hash is not None:
            self.is_over = True
            return b""
        return self._encode(Opcode.TEXT, _request(2, f"{name}.hash", {}))

    def _read_hash(self, value: object, member: str) -> None:
        found = value.get(member) if isinstance(value, dict) else None
        if isinstance(found, str) and _HASH.fullmatch(found):
            self.schema_hash = found

    def _read_refusal(self, reason: object) -> bytes:
        if self.name is None:
            raise ProbeProtocolError(f"it refuses _info: {shown(reason)}")
        self.is_over = True  # a hub without a hash
        return b""

    def _encode(self, opcode: Opcode, payload: bytes) -> bytes:
        return encode_frame(opcode, payload, mask=self._mask)


def _check_status(status: int) -> None:
    if status in _CREDENTIAL_WANTED:
        raise CredentialError(f"it wants a credential: HTTP status {status}")
    if status != 101:
        hint = ", and redirects are not followed" if 300 <= status < 400 else ""
        raise ProbeProtocolError(f"it answers with HTTP status {status}{hint}")
