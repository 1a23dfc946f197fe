"""The client's end of a WebSocket: text in, text out, on a Trio stream.

A message is framed at once and queued, and one task sends the queue. So a cancelled sender leaves
no half of a frame behind, and messages that are queued together leave together. trio-websocket is
not used here, because importing it takes longer than a whole call.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import trio

from plexus_registry.client import DEFAULT_URL
from plexus_registry.concurrency import Wakeup, first_error
from plexus_registry.rules.errors import RegistryUnavailableError, UrlError, shown
from plexus_registry.websocket_frames import (
    ClientHandshake,
    CloseCode,
    CloseFrame,
    FrameError,
    FrameReader,
    Opcode,
    PingFrame,
    encode_close,
    encode_frame,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_QUEUED_BYTES = 16 * 1024 * 1024
"""How many bytes may wait to be sent to a peer that does not read."""

CLOSE_SECONDS = 1.0
SILENCE_SECONDS = 20.0
"""A silent peer is pinged after this time, and counts as lost after the same time again."""
_RECEIVE_BYTES = 64 * 1024
_EXAMPLE = f"one such as {DEFAULT_URL}"
_PORTS = {"ws": 80, "wss": 443}


class RegistryUrl(NamedTuple):
    """The parts of a WebSocket URL; `shown` is the URL without its secrets."""

    is_secure: bool
    host: str
    port: int
    authority: str
    target: str
    shown: str


def parse_url(url: str) -> RegistryUrl:
    """Split a WebSocket URL into its parts.

    Raises:
        UrlError: It is not a WebSocket URL.
    """
    where = without_secrets(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UrlError(f"{shown(where)} is no URL: {error}; write {_EXAMPLE}") from error
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in _PORTS or not parts.hostname or not is_plain:
        raise UrlError(f"{shown(where)} is no WebSocket URL: write {_EXAMPLE}")
    return RegistryUrl(
        is_secure=parts.scheme == "wss",
        host=parts.hostname,
        port=_PORTS[parts.scheme] if port is None else port,
        authority=parts.netloc.rpartition("@")[2],
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        shown=where,
    )


def without_secrets(url: str) -> str:
    """Remove the parts of a URL that may be a password or a token, so that it can be shown."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    where = f"{authority.rpartition('@')[2]}{slash}{path}" if separator else ""
    return f"{scheme}{separator}{where}".partition("?")[0].partition("#")[0]


@asynccontextmanager
async def open_socket(url: str, *, token: str | None = None) -> AsyncIterator[ClientSocket]:
    """Connect to a WebSocket URL; the token is sent as `Authorization: Bearer`.

    Raises:
        UrlError: The URL is not a WebSocket URL.
        ValueError: No header can hold the token.
        RegistryUnavailableError: Nothing answers there, or it does not speak WebSocket.
    """
    address = parse_url(url)
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ValueError("the token must be printable ASCII")  # which does not show it
    stream = await _open_stream(address)
    try:
        yield await shake_hands(stream, address, token=token)
    finally:
        # This does not wait. The shield keeps a cancellation from replacing the block's own error.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _open_stream(address: RegistryUrl) -> trio.abc.Stream:
    try:
        stream = await trio.open_tcp_stream(address.host, address.port)
    except (OSError, UnicodeError) as error:  # the latter: a host that no name server takes
        raise RegistryUnavailableError(
            f"cannot connect to {address.shown}: {_reason(error)}"
        ) from error
    if not address.is_secure:
        return stream
    import ssl  # it takes long, and is not needed for ws

    try:
        # The authorities are hundreds of kilobytes: in a thread, other tasks need not wait.
        context = await trio.to_thread.run_sync(ssl.create_default_context)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return trio.SSLStream(stream, context, server_hostname=address.host, https_compatible=True)


def _reason(error: BaseException) -> str:
    """Find the reason of an error in the words of the system, below the errors that wrap it."""
    cause = first_error(error.__cause__ or error)
    if isinstance(cause, OSError) and cause.errno:
        # Trio writes the address into `strerror`. The numbers of TLS and of name servers are not
        # the system's; they have exceptions of their own.
        is_of_system = type(cause).__module__ == "builtins"
        text = os.strerror(cause.errno) if is_of_system else cause.strerror
        return (text or str(cause)).lower()
    return str(cause) or "connection lost"


async def shake_hands(
    stream: trio.abc.Stream, address: RegistryUrl, *, token: str | None = None
) -> ClientSocket:
    """Open the WebSocket on a stream that is connected.

    Raises:
        RegistryUnavailableError: The peer is no WebSocket server, or has left.
    """
    where = address.shown
    handshake = ClientHandshake(address.authority, address.target, os.urandom(16), token=token)
    answer = None
    try:
        await stream.send_all(handshake.request)
        while answer is None:
            data = await stream.receive_some(_RECEIVE_BYTES)
            if not data:
                raise RegistryUnavailableError(f"{where} hung up before the connection was open")
            answer = handshake.receive(data)
    except FrameError as error:
        raise RegistryUnavailableError(f"{where} does not speak WebSocket: {error}") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise RegistryUnavailableError(f"cannot connect to {where}: {_reason(error)}") from error
    status, rest = answer
    if status != 101:
        raise RegistryUnavailableError(
            f"{where} is no registry: it answered with HTTP status {status}"
        )
    return ClientSocket(stream, rest)


class ClientSocket:
    """An open WebSocket; `send_forever` runs beside it, and one task receives."""

    def __init__(self, stream: trio.abc.Stream, received: bytes) -> None:
        self._stream = stream
        self._reader = FrameReader(is_peer_client=False)
        self._reader.feed(received)
        self._queue = bytearray()
        self._wakeup = Wakeup()
        self._is_closing = False
        self._heard_at = trio.current_time()
        self._is_silent = False

    def post(self, text: str) -> None:
        """Queue a message.

        Raises:
            RegistryUnavailableError: The connection is closing, or the peer does not read.
        """
        if self._is_closing:
            raise RegistryUnavailableError("the connection is closed")
        if len(self._queue) > MAX_QUEUED_BYTES:
            raise RegistryUnavailableError("the registry does not read what it is sent")
        self._post(encode_frame(Opcode.TEXT, text.encode(), mask=_new_mask()))

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Queue a close frame, unless there was one; the peer's own ends `receive`."""
        self._post_control(encode_close(code, reason, mask=_new_mask()))
        self._is_closing = True

    def _post_control(self, frame: bytes) -> None:
        """Queue a control frame, unless the connection is closing or the peer does not read."""
        if not self._is_closing and len(self._queue) <= MAX_QUEUED_BYTES:
            self._post(frame)

    def _post(self, frame: bytes) -> None:
        self._queue += frame
        self._wakeup.set()

    async def send_forever(self) -> None:
        """Send the queue; if the connection is lost, `receive` raises."""
        try:
            while True:
                await self._wakeup.wait()
                data, self._queue = self._queue, bytearray()
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(self._stream)

    async def hang_up_if_silent(self) -> None:
        """Ping a silent peer, and cut the connection if it stays silent."""
        while True:
            await trio.sleep_until(self._heard_at + SILENCE_SECONDS)
            asked_at = trio.current_time()
            if asked_at < self._heard_at + SILENCE_SECONDS:
                continue
            self._post_control(encode_frame(Opcode.PING, b"", mask=_new_mask()))
            await trio.sleep(SILENCE_SECONDS)
            if self._heard_at < asked_at:
                self._is_silent = True
                await trio.aclose_forcefully(self._stream)
                return

    async def receive(self) -> str:
        """Wait for the next message.

        Raises:
            RegistryUnavailableError: The connection is over.
        """
        while (text := self._read()) is None:
            try:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                silence = f"no sign of life for {2 * SILENCE_SECONDS:g} seconds"
                why = silence if self._is_silent else _reason(error)
                raise RegistryUnavailableError(f"connection lost: {why}") from error
            if not data:
                raise RegistryUnavailableError("connection lost: the registry hung up")
            self._heard_at = trio.current_time()
            self._reader.feed(data)
        return text

    def _read(self) -> str | None:
        """Return the next message that has arrived, or None; answer control frames."""
        try:
            while (frame := self._reader.read()) is not None:
                match frame:
                    case str():
                        return frame
                    case PingFrame():
                        self._post_control(
                            encode_frame(Opcode.PONG, frame.payload, mask=_new_mask())
                        )
                    case CloseFrame():
                        self.close(frame.code, frame.reason)
                        reason = f": {frame.reason}" if frame.reason else ""
                        raise RegistryUnavailableError(
                            f"the connection was closed with code {frame.code}{reason}"
                        )
        except FrameError as error:
            self.close(error.code, str(error))
            raise RegistryUnavailableError(f"connection lost: {error}") from error
        return None


def _new_mask() -> bytes:
    """Make a mask that the peer cannot predict. Source: RFC 6455, section 5.3."""
    return os.urandom(4)
