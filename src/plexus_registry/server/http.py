"""HTTP: bytes become requests, and answers become bytes. Nothing waits here.

A request whose body is not read is the last of its connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import h11

from plexus_registry.rules.errors import shown
from plexus_registry.server.access_policy import Refusal, RequestHead

HEAD_BYTES = 16 * 1024
_FIRST_LINE = re.compile(rb"[!-~]+ [!-~]+ HTTP/([0-9])\.([0-9])\r?")
_HANDSHAKE_FIELDS = {
    *(b"host", b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version"),
    *(b"sec-websocket-protocol", b"sec-websocket-extensions"),
}
_HANDSHAKE_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection. Source: RFC 8446, section 5.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request whose head has arrived.

    Attributes:
        head: The head.
        raw: The bytes of the head; `rest` are those that arrived after it.
        body_bytes: The length of the body that follows; None if only its end will show it.
        is_last: Whether the peer wants the connection to end with the answer.
    """

    head: RequestHead
    raw: bytes
    rest: bytes
    body_bytes: int | None
    is_last: bool

    @property
    def is_upgrade(self) -> bool:
        """Whether the request asks for a WebSocket."""
        return "websocket" in self.head.words(b"upgrade")


class RequestReader:
    """Splits the bytes of a connection into requests."""

    def __init__(self) -> None:
        self._begin(b"")

    def _begin(self, rest: bytes) -> None:
        self._raw = bytearray(rest)
        self._first_line_is_good = False
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        if rest:
            self._parser.receive_data(rest)

    @property
    def is_empty(self) -> bool:
        """Whether no byte of the next request has arrived."""
        return not self._raw

    def receive_data(self, data: bytes | bytearray) -> None:
        """Add bytes that arrived."""
        self._raw += data
        self._parser.receive_data(bytes(data))

    def next_request(self) -> HttpRequest | Refusal | None:
        """Return the next request, a refusal of what arrived, or None until more bytes arrive."""
        refusal = self._check_first_line()
        if refusal is not None:
            return refusal
        try:
            event = self._parser.next_event()
            if not isinstance(event, h11.Request):
                return None
            rest = self._parser.trailing_data[0]
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                return TOO_LARGE
            # After the colon, h11 quotes what the peer sent, and that may be a token.
            reason = str(error).partition(":")[0]
            return bad_request(f"This is not a valid HTTP request: {shown(reason)}.")
        raw = bytes(self._raw[: len(self._raw) - len(rest)])
        if len(raw) > HEAD_BYTES:
            return TOO_LARGE
        head = RequestHead(
            method=event.method.decode("latin-1"),
            target=event.target.decode("latin-1"),
            version=event.http_version.decode("latin-1"),
            fields=list(event.headers),
        )
        is_chunked = bool(head.values(b"transfer-encoding"))
        lengths = [int(length) for length in head.values(b"content-length")]
        body_bytes = None if is_chunked else sum(lengths)
        is_last = head.version == "1.0" or "close" in head.words(b"connection")
        self._begin(rest)
        return HttpRequest(head=head, raw=raw, rest=rest, body_bytes=body_bytes, is_last=is_last)

    def take_body(self, length: int) -> bytes | None:
        """Return the body of the last request, or None until all of it has arrived."""
        if len(self._raw) < length:
            return None
        body = bytes(self._raw[:length])
        self._begin(bytes(self._raw[length:]))
        return body

    def _check_first_line(self) -> Refusal | None:
        """Refuse bytes that cannot become an HTTP/1 request, however many more arrive."""
        if self._first_line_is_good:
            return None
        if self._raw.startswith(TLS_HANDSHAKE):
            return TLS_ON_PLAIN
        line, newline, _ = self._raw.partition(b"\n")
        if not newline:
            return None
        match = _FIRST_LINE.fullmatch(line)
        if match is None:
            return bad_request("The first line is not an HTTP request such as `GET / HTTP/1.1`.")
        if match[1] != b"1":
            return WRONG_VERSION
        self._first_line_is_good = True
        return None


def handshake_fault(request: HttpRequest) -> Refusal | None:
    """Refuse an invalid WebSocket handshake. Source: RFC 6455, section 4.2.1."""
    head = request.head
    for name, value in head.fields:
        if name in _HANDSHAKE_FIELDS and not (
            value.isascii() and value.decode("latin-1").isprintable()
        ):
            return bad_request(f"The field {name.decode()} of a handshake must be plain ASCII.")
    if [value.lower() for value in head.values(b"upgrade")] != ["websocket"]:
        return bad_request("A WebSocket handshake needs exactly one `Upgrade: websocket`.")
    if head.version != "1.1":
        return bad_request("A WebSocket handshake needs HTTP/1.1.")
    if "upgrade" not in head.words(b"connection"):
        return bad_request("A WebSocket handshake needs `Connection: Upgrade`.")
    if head.values(b"sec-websocket-version") != ["13"]:
        return Refusal(
            status=HTTPStatus.UPGRADE_REQUIRED,
            counted_as="bad_request",
            text="A WebSocket handshake needs `Sec-WebSocket-Version: 13`.",
            fields=(("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")),
        )
    keys = head.values(b"sec-websocket-key")
    if len(keys) != 1 or _HANDSHAKE_KEY.fullmatch(keys[0]) is None:
        return bad_request(
            "A WebSocket handshake needs one `Sec-WebSocket-Key`: 16 random bytes in base64."
        )
    if request.body_bytes != 0:
        return bad_request("A WebSocket handshake must have no body.")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """An HTTP answer; `fields` are header fields beside those that every answer has."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"
    fields: tuple[tuple[str, str], ...] = ()


_STATUS_WITHOUT_CONTENT = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
# Unless an answer says otherwise, it may not be cached, run code, or be shown inside a page of
# another site.
_COMMON_FIELDS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


def encode_response(answer: HttpResponse, *, is_last: bool, without_body: bool = False) -> bytes:
    """Encode an answer; `without_body` is for the answer to HEAD."""
    body = answer.body.encode()
    status = HTTPStatus(answer.status)
    fields = [("Date", formatdate(usegmt=True))]
    if status not in _STATUS_WITHOUT_CONTENT:
        fields += [("Content-Type", answer.content_type), ("Content-Length", str(len(body)))]
    fields += {**dict(_COMMON_FIELDS), **dict(answer.fields)}.items()
    if is_last:
        upgrade = any(name == "Upgrade" for name, _ in answer.fields)
        fields.append(("Connection", "close, Upgrade" if upgrade else "close"))
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{n}: {v}" for n, v in fields)]
    head = "".join(f"{line}\r\n" for line in lines).encode("ascii") + b"\r\n"
    return head if without_body else head + body


def bad_request(text: str) -> Refusal:
    """Return a refusal of a malformed request."""
    return Refusal(status=HTTPStatus.BAD_REQUEST, counted_as="bad_request", text=text)


TOO_LARGE = Refusal(
    status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    counted_as="head_bytes",
    text=f"The head of a request may have at most {HEAD_BYTES} bytes.",
)
BODY_TOO_SLOW = Refusal(
    status=HTTPStatus.REQUEST_TIMEOUT,
    counted_as="body_seconds",
    text="The body of the request took too long to arrive.",
)
TOO_SLOW = Refusal(
    status=HTTPStatus.REQUEST_TIMEOUT,
    counted_as="head_seconds",
    text="The head of the request took too long to arrive.",
)
WRONG_VERSION = Refusal(
    status=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    counted_as="bad_request",
    text="This registry speaks HTTP/1.1.",
)
TLS_ON_PLAIN = bad_request(
    "This port speaks plain HTTP: use ws:// or http://, or start the registry with --tls-cert."
)
PLAIN_ON_TLS = bad_request("This port speaks TLS: use wss:// or https://.")
